package main

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"picket": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"answers": answers,
			"listen":  listen,
		},
		Condition: func(cond string) (bool, error) {
			_, noSystemd := os.Stat("/run/systemd/system")
			return cond == "root" && os.Getuid() == 0 || cond == "systemd" && noSystemd == nil, nil
		},
	})
}

// answers waits until a process listens on the unix socket named.
func answers(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		c, err := net.Dial("unix", ts.MkAbs(args[0]))
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(5 * time.Millisecond) // another process: there is nothing to wait on
	}
	ts.Fatalf("nobody listens on %s", args[0])
}

// listen takes a free port ("udp" or "tcp") until the script ends, and sets PORT.
func listen(ts *testscript.TestScript, _ bool, args []string) {
	if args[0] == "udp" {
		c, err := net.ListenPacket("udp", ":0")
		ts.Check(err)
		ts.Defer(func() { c.Close() })
		_, port, _ := net.SplitHostPort(c.LocalAddr().String())
		ts.Setenv("PORT", port)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	ts.Setenv("PORT", port)
}
