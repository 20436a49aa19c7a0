package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"picket-coordinator": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// A short way to the scripts' directory: the operators' socket is in it, and such names have at most 107 bytes.
			short, err := os.MkdirTemp("", "pc")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(short) })
			e.Setenv("DIR", filepath.Join(short, "d"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"port":  port,
			"await": await,
			"take":  take,
		},
	})
}

// port sets the variable named to an address on loopback where nobody listens; with "taken", one that stays taken until the script ends.
func port(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	if len(args) > 1 && args[1] == "taken" {
		ts.Defer(func() { l.Close() })
		return
	}
	ts.Check(l.Close())
}

// await waits until the file named holds the text: what a coordinator in the background writes to a log.
func await(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(20 * time.Second)
	var text []byte
	for time.Now().Before(deadline) {
		text, _ = os.ReadFile(ts.MkAbs(args[0]))
		if strings.Contains(string(text), args[1]) {
			return
		}
		time.Sleep(5 * time.Millisecond) // another process writes it: there is nothing to wait on
	}
	ts.Fatalf("%s does not say %q but:\n%s", args[0], args[1], text)
}

// take sets the variable named to what follows the prefix in the first such line of the file.
func take(ts *testscript.TestScript, _ bool, args []string) {
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), args[2]); ok {
			ts.Setenv(args[0], strings.Trim(rest, ` ",`))
			return
		}
	}
	ts.Fatalf("%s has no line that begins with %q:\n%s", args[1], args[2], ts.ReadFile(args[1]))
}
