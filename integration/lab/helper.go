//go:build linux

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// helperWord as the first argument makes a program of ours run as one of the lab's helpers instead.
const helperWord = "lab-helper"

// Helper runs this process as a helper and ends it, when it was started as one. Programs that use a lab call it first.
//
// Helpers exist because a process never spans two namespaces: a person's browser, a service and its client each run where they
// would in the world.
func Helper() {
	if len(os.Args) < 3 || os.Args[1] != helperWord {
		return
	}
	helpers := map[string]func([]string) error{"browse": browse, "serve": serve, "dial": dial, "names": names}
	run, ok := helpers[os.Args[2]]
	if !ok {
		fmt.Fprintf(os.Stderr, "no helper %q\n", os.Args[2])
		os.Exit(2)
	}
	if err := run(os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// errand is what a person is sent to do.
type errand struct {
	Person *Person
	Do     string // "setup", "approve", "deny" or "open"
	Link   string
	Code   string
}

// errandDone is what came of it, and the person with the second factors that are left.
type errandDone struct {
	Person *Person
	Title  string
	Text   string
}

// browse reads an errand from standard input and runs it.
func browse([]string) error {
	var e errand
	if err := json.NewDecoder(os.Stdin).Decode(&e); err != nil {
		return err
	}
	p := NewPerson(e.Person.Login, e.Person.Password)
	p.TOTP, p.Recovery, p.Spent = e.Person.TOTP, e.Person.Recovery, e.Person.Spent
	ctx := context.Background()
	var done errandDone
	var err error
	switch e.Do {
	case "setup":
		err = p.SetUp(ctx, e.Link)
	case "approve":
		done.Text, err = p.Approve(ctx, e.Link, e.Code)
	case "deny":
		done.Text, err = p.Deny(ctx, e.Link)
	case "open":
		done.Title, done.Text, err = p.Open(ctx, e.Link)
	default:
		err = fmt.Errorf("no errand %q", e.Do)
	}
	done.Person = p
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(done))
}

// serve echoes every line it is sent: serve tcp|udp ADDRESS. It prints "listening" when it does, and "accepted ADDRESS" for each connection.
func serve(args []string) error {
	if len(args) != 2 {
		return errors.New("serve tcp|udp ADDRESS")
	}
	if args[0] == "udp" {
		return serveUDP(args[1])
	}
	l, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Println("accepted", c.RemoteAddr())
		go func() {
			defer c.Close()
			_, err := io.Copy(c, c)
			fmt.Printf("connection from %s ended at %d: %v\n", c.RemoteAddr(), time.Now().UnixNano(), err)
		}()
	}
}

func serveUDP(addr string) error {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		_, _ = c.WriteTo(buf[:n], from)
	}
}

// dial opens a connection, prints "open", then sends a line every 10 ms and prints "echo NANOSECONDS" for each that comes back,
// until the connection ends, which it prints as "end NANOSECONDS REASON": dial tcp|udp ADDRESS [SOCKS5-ADDRESS].
// With udp it goes on after errors, printing each.
func dial(args []string) error {
	if len(args) < 2 {
		return errors.New("dial tcp|udp ADDRESS [SOCKS5-ADDRESS]")
	}
	var d proxy.ContextDialer = &net.Dialer{Timeout: 10 * time.Second}
	if len(args) == 3 {
		s, err := proxy.SOCKS5("tcp", args[2], nil, proxy.Direct)
		if err != nil {
			return err
		}
		d = s.(proxy.ContextDialer)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	started := time.Now()
	c, err := d.DialContext(ctx, args[0], args[1])
	if err != nil {
		fmt.Printf("refused %d %s\n", time.Since(started).Nanoseconds(), strings.ReplaceAll(err.Error(), "\n", " "))
		return err
	}
	defer c.Close()
	fmt.Println("open")
	go tick(c, args[0] == "udp")
	return echoes(c, args[0] == "udp")
}

func tick(c net.Conn, goOn bool) {
	for {
		if _, err := io.WriteString(c, fmt.Sprintf("%d\n", time.Now().UnixNano())); err != nil && !goOn {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func echoes(c net.Conn, goOn bool) error {
	r := bufio.NewReader(c)
	for {
		_, err := r.ReadString('\n')
		now := time.Now().UnixNano()
		if err == nil {
			fmt.Printf("echo %d\n", now)
			continue
		}
		fmt.Printf("end %d %v\n", now, err)
		if !goOn {
			return nil
		}
		r.Reset(c)
	}
}
