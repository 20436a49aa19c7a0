package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/node/localapi"
)

func TestParseForward(t *testing.T) {
	for _, bad := range []string{
		"", "5432", "5432:db", "5432:db:", ":db:5432", "5432::5432", "0:db:5432", "5432:db:0", "65536:db:1", "+5432:db:1", "05432:db:1", "5432:db:http",
		"example.org:5432:db:5432", "::1:5432:db:5432", "[::1:5432:db:5432", "[::1]5432:db:5432", "[fe80::1%lo]:1:db:1", "1:2:3:4:5", "127.0.0.1:5432:db:5432:", "5432:db:5432 ",
	} {
		if f, ok := parseForward(bad); ok {
			t.Errorf("%q is read as %+v", bad, f)
		}
	}
	at := netip.MustParseAddrPort
	for text, want := range map[string]localapi.Forward{
		"5432:db-1:5433":                {Listen: at("127.0.0.1:5432"), Peer: "db-1", Port: 5433},
		"localhost:5432:db-1:1":         {Listen: at("127.0.0.1:5432"), Peer: "db-1", Port: 1},
		"127.0.0.2:5432:100.64.0.2:1":   {Listen: at("127.0.0.2:5432"), Peer: "100.64.0.2", Port: 1},
		"[::1]:5432:[fd7a::2]:65535":    {Listen: at("[::1]:5432"), Peer: "fd7a::2", Port: 65535},
		"0.0.0.0:5432:db.example.com:1": {Listen: at("0.0.0.0:5432"), Peer: "db.example.com", Port: 1}, // the agent refuses it in words
	} {
		if f, ok := parseForward(text); !ok || f != want {
			t.Errorf("%q is read as %+v, want %+v", text, f, want)
		}
	}
}

// asking runs keepAsking with answers, one for each time it asks: the events, and then the error. The last answer ends it as ^C does.
func askingAgain(t *testing.T, answers ...error) (out, complaints string, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var stdout, stderr bytes.Buffer
		c := cli.NewContext(&cli.App{Writer: &stdout, ErrWriter: &stderr}, flag.NewFlagSet("", flag.ContinueOnError), nil)
		c.Context = ctx
		began := time.Now()
		err = keepAsking(c, func(_ context.Context, event func(localapi.PassageEvent)) error {
			answer := answers[0]
			if answers = answers[1:]; answer == errAgreed {
				event(localapi.PassageEvent{Kind: localapi.PassageOpen, Proto: "tcp", Listen: netip.MustParseAddrPort("127.0.0.1:5432"), To: "db:5432"})
				answer = errors.New("the agent stopped")
			}
			if len(answers) == 0 {
				cancel()
			}
			return answer
		})
		out, complaints, took = stdout.String(), stderr.String(), time.Since(began)
	})
	return out, complaints, took, err
}

var errAgreed = errors.New("agreed")

func TestKeepAsking(t *testing.T) {
	gone, taken := errors.New("no agent answers"), errors.New("another program has it")
	if out, complaints, _, err := askingAgain(t, taken); err != nil || out+complaints != "" {
		t.Errorf("ended at once: %q, %q, %v", out, complaints, err)
	}
	if _, complaints, _, err := askingAgain(t, taken, nil); !errors.Is(err, taken) || complaints != "" {
		t.Errorf("refused at first: %q, %v", complaints, err)
	}
	out, complaints, took, err := askingAgain(t, errAgreed, gone, gone, taken, errAgreed, gone)
	if err != nil || strings.Count(out, "Listening at 127.0.0.1:5432 (tcp) for db:5432.\n") != 2 {
		t.Errorf("after a restart: %q, %v", out, err)
	}
	if want := 1600 * time.Millisecond; took != want { // 100, 200, 400 and 800 ms, and 100 anew
		t.Errorf("asked again for %v, want %v", took, want)
	}
	if want := "the agent stopped|no agent answers|another program has it|the agent stopped"; strings.NewReplacer("! ", "", ". Asking again until the agent agrees.\n", "|").Replace(complaints) != want+"|" {
		t.Errorf("said %q", complaints)
	}
	long := []error{errAgreed}
	for range 20 {
		long = append(long, gone)
	}
	if _, _, took, _ := askingAgain(t, long...); took > 20*askAgainMost || took < 10*askAgainMost {
		t.Errorf("20 questions took %v", took)
	}
}

func TestShowPassage(t *testing.T) {
	at := time.Date(2026, 11, 27, 15, 4, 5, 0, time.Local)
	from := netip.MustParseAddrPort("127.0.0.1:5000")
	for want, e := range map[string]localapi.PassageEvent{
		"Listening at [::1]:5 (udp) for db:5.\n":                                                     {Kind: localapi.PassageOpen, Proto: "udp", Listen: netip.MustParseAddrPort("[::1]:5"), To: "db:5"},
		"Peers who may open tcp 80 of this node arrive at 127.0.0.1:8080.\n":                         {Kind: localapi.PassageOpen, Proto: "tcp", Port: 80, To: "127.0.0.1:8080"},
		"15:04:05 127.0.0.1:5000 to db:5 (tcp) opened, at 100.64.0.2:5\n":                            {Kind: localapi.PassageBegan, Proto: "tcp", From: from, To: "db:5", Address: netip.MustParseAddrPort("100.64.0.2:5")},
		"15:04:05 127.0.0.1:5000 to db:5 (tcp) not opened: no rule allows it\n":                      {Kind: localapi.PassageRefused, Proto: "tcp", From: from, To: "db:5", Reason: "no rule\x1b allows it"},
		"15:04:05 laptop (127.0.0.1:5000) to 127.0.0.1:5 (tcp) ended: 12 sent, 1.2k received; cut\n": {Kind: localapi.PassageEnded, Proto: "tcp", Port: 5, From: from, Who: "laptop", To: "127.0.0.1:5", Sent: 12, Received: 1234, Reason: "cut"},
		"… 3 lines are left out: they were not read fast enough\n! no rule lets a peer in\n":         {Kind: localapi.PassageWarning, Reason: "no rule lets a peer in", Missed: 3},
		"… peers may come in at tcp 8080 now\n":                                                      {Kind: localapi.PassageNote, Reason: "peers may come in at tcp 8080 now"},
		"Peers who may open tcp 80 of this node at 100.64.0.1 arrive at 127.0.0.1:8080.\n":           {Kind: localapi.PassageOpen, Proto: "tcp", Port: 80, Listen: netip.MustParseAddrPort("100.64.0.1:80"), To: "127.0.0.1:8080"},
		"15:04:05 laptop (127.0.0.1:5000) to 127.0.0.1:5 (udp) opened\n":                             {Kind: localapi.PassageBegan, Proto: "udp", Port: 5, From: from, Who: "laptop", To: "127.0.0.1:5", Address: from},
		"15:04:05 127.0.0.1:5000 to db:5 (udp) ended: 0 sent, 0 received\n":                          {Kind: localapi.PassageEnded, Proto: "udp", From: from, To: "db:5"},
	} {
		e.At = at
		var b bytes.Buffer
		if showPassage(&b, e); b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
	}
}
