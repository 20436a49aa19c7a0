package main

import (
	"bytes"
	"encoding/hex"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/node/localapi"
)

var (
	bobsLaptop = localapi.Endpoint{Node: "n1", Name: "laptop-2", Owner: "bob@example.com", Address: netip.MustParseAddr("100.64.0.2"), Port: 4000}
	web        = localapi.Endpoint{Node: "n2", Name: "web-1", Tags: []string{"tag:web"}, Address: netip.MustParseAddr("100.64.0.3"), Port: 22}
	behindWeb  = localapi.Endpoint{Node: "n2", Name: "web-1", Address: netip.MustParseAddr("10.2.0.9"), Port: 22, Routed: true}
	nobody     = localapi.Endpoint{Address: netip.MustParseAddr("100.64.0.9"), Port: 22}
)

func TestPacketComment(t *testing.T) {
	for want, p := range map[string]localapi.Packet{
		"deny: no rule allows it; from laptop-2 (bob@example.com) to web-1 (tag:web) tcp/22":                {Words: "no rule allows it", Src: bobsLaptop, Dst: web, Proto: "tcp"},
		"deny: denies[0], line 12 refuses it; from laptop-2 (bob@example.com) to 10.2.0.9 via web-1 tcp/22": {Words: "a deny of the policy refuses it", Rule: "denies[0], line 12", Src: bobsLaptop, Dst: behindWeb, Proto: "tcp"},
		"deny: its address at the far end belongs to no peer; from web-1 (tag:web) to 100.64.0.9 udp/22":    {Words: "its address at the far end belongs to no peer", Src: web, Dst: nobody, Proto: "udp"},
		"deny: the packet is malformed (short)":                                                             {Words: "the packet is malformed (short)"},
		"allow: grants[0], line 12; from web-1 (tag:web) to laptop-2 (bob@example.com) tcp/4000":            {Allow: true, Rule: "grants[0], line 12", Src: web, Dst: bobsLaptop, Proto: "tcp"},
		"allow: by a flow that has just ended; from n3 to web-1 (tag:web) icmp":                             {Allow: true, Src: localapi.Endpoint{Node: "n3"}, Dst: localapi.Endpoint{Name: "web-1", Tags: []string{"tag:web"}}, Proto: "icmp"},
	} {
		if got := packetComment(p); got != want {
			t.Errorf("%s, want\n%s", got, want)
		}
	}
}

func TestDenialsInWords(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	anyPort := bobsLaptop
	anyPort.Port = 0
	refused := localapi.Denial{Src: anyPort, Dst: web, Proto: "tcp", Reason: "no-rule", Words: "no rule allows it", Bypass: true, First: now.Add(-time.Minute), Last: now, Count: 3}
	if got, want := denialLine(refused), "03:04:05  in   laptop-2 (bob@example.com) -> web-1 (tag:web) tcp/22: no rule allows it [egress-bypass] (3 packets since 03:03:05)"; got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
	d := localapi.Denials{DenialTotals: localapi.DenialTotals{Matched: 3, Packets: 9, Unlisted: 4}, List: []localapi.Denial{
		{Reason: "short", Words: "the packet is malformed (short)", First: now, Last: now, Count: 1}, refused,
	}}
	var out bytes.Buffer
	denialsTable(&out, d, now.Add(5*time.Second))
	want := `LAST    PACKETS  DIR  FROM                        TO               WHAT    WHY
5s ago  1        in   ?                           ?                ?       the packet is malformed (short)
5s ago  3        in   laptop-2 (bob@example.com)  web-1 (tag:web)  tcp/22  no rule allows it [egress-bypass]
[egress-bypass]: by the same rules the peer would have refused it itself. Its filter is off, or its rules were older just then.
To see what is missing: picket why laptop-2 web-1:22
`
	if out.String() != want {
		t.Errorf("%s, want\n%s", out.String(), want)
	}
	if got := denialsCut(d); !strings.Contains(got, "the last 2 of 3 lines") || !strings.Contains(got, "4 of 9 refused packets are in no line") {
		t.Error(got)
	}
	for want, d := range map[string]localapi.Denial{
		"picket why web-1:22/udp":        {Out: true, Src: anyPort, Dst: web, Proto: "udp", Reason: "deny"},
		"picket why laptop-2 web-1/icmp": {Src: anyPort, Dst: localapi.Endpoint{Name: "web-1"}, Proto: "icmp", Reason: "no-rule"},
		"":                               {Src: anyPort, Dst: web, Proto: "tcp", Reason: "cut"},
	} {
		if got := askWhy(d); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestFlowsTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := localapi.Flows{FlowTotals: localapi.FlowTotals{Matched: 100_000, Total: 120_000}, List: []localapi.Flow{
		{Src: bobsLaptop, Dst: web, Proto: "tcp", Rule: "grants[0], line 4", Opened: now.Add(-time.Hour), LastSeen: now.Add(-time.Second), Until: now.Add(4 * time.Minute), Packets: 12, Bytes: 34_000},
		{Src: bobsLaptop, Dst: behindWeb, Out: true, Proto: "tcp", Rule: "acls[3], line 9", Opened: now, LastSeen: now, Packets: 1, Bytes: 40},
	}}
	var out bytes.Buffer
	flowsTable(&out, f, now)
	want := `DIR  PEER                WHO              WHAT    RULE               AGE  IDLE  PACKETS  BYTES  UNTIL
in   laptop-2            bob@example.com  tcp/22  grants[0], line 4  1h   1s    12       34k    in 4m
out  10.2.0.9 via web-1                   tcp/22  acls[3], line 9    0s   0s    1        40     -
`
	if out.String() != want {
		t.Errorf("%s, want\n%s", out.String(), want)
	}
	if got := flowsCut(f); !strings.Contains(got, "the 2 used last of 100000 flows") {
		t.Error(got)
	}
}

func TestCreateCaptureRefuses(t *testing.T) {
	dir := t.TempDir()
	there, link, fresh := filepath.Join(dir, "there"), filepath.Join(dir, "link"), filepath.Join(dir, "fresh")
	if err := os.WriteFile(there, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(there, link); err != nil {
		t.Skip(err)
	}
	for _, tt := range []struct {
		name  string
		force bool
		want  string
	}{
		{there, false, "is there already: name another file, or write in its place with --force"},
		{link, false, "is there already"},
		{link, true, "is no plain file"},
		{dir, true, "is no plain file"},
		{filepath.Join(dir, "none", "x"), false, "cannot be made"},
	} {
		if f, err := createCapture(tt.name, tt.force); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s, force %v: %v, %v; want %q", tt.name, tt.force, f, err, tt.want)
		}
	}
	if text, _ := os.ReadFile(there); string(text) != "mine" {
		t.Errorf("the file that was there holds %q", text)
	}
	for _, name := range []string{fresh, there} {
		f, err := createCapture(name, true)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if info, _ := os.Stat(name); info.Size() != 0 || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %d bytes", name, info.Mode(), info.Size())
		}
	}
}

func TestCaptureIsNotWrittenToATerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal can be opened: %v", err)
	}
	defer terminal.Close()
	for _, words := range []string{"picket capture", "picket capture -w -"} {
		var errs bytes.Buffer
		status := cliflags.Main(t.Context(), newApp(nil, terminal, &errs), strings.Fields(words))
		if status != cliflags.ExitUsage || !strings.Contains(errs.String(), "write it to a file with -w FILE, or pipe it: picket capture | wireshark -k -i -") {
			t.Errorf("%s: status %d, %s", words, status, errs.String())
		}
	}
}

// What was dropped is told with the packet after the gap, and at the end.
func TestRecorderTellsWhatWasDropped(t *testing.T) {
	var out, errs bytes.Buffer
	flags := flag.NewFlagSet("capture", flag.ContinueOnError)
	for _, f := range captureCommand().Flags {
		if err := f.Apply(flags); err != nil {
			t.Fatal(err)
		}
	}
	c := cli.NewContext(&cli.App{Writer: &out, ErrWriter: &errs}, flags, nil)
	r := &recorder{c: c, q: localapi.AskCapture{Denied: true, Snaplen: 100}}
	at := time.Unix(1_700_000_000, 0)
	for _, e := range []localapi.CaptureEvent{
		{Start: &localapi.CaptureStart{At: at}},
		{Packet: &localapi.Packet{At: at, Words: "first", Data: []byte{0x45}, Dropped: 7}},
		{Packet: &localapi.Packet{At: at, Words: "second", Data: []byte{0x45}, Dropped: 7}},
	} {
		if err := r.event(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.finish(localapi.CaptureEnd{At: at, Matched: 11, Dropped: 9}); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	drop := func(n string) string { b, _ := hex.DecodeString("04000800" + n + "00000000000000"); return string(b) }
	if at := strings.Index(text, drop("07")); at < strings.Index(text, "first") || at > strings.Index(text, "second") {
		t.Error("the gap is not told with the packet after it")
	}
	if !strings.Contains(text, drop("0b")) || !strings.HasSuffix(errs.String(), "Packets written: 2, dropped: 9 because they were not read fast enough.\n") {
		t.Errorf("the end tells nothing of what was dropped: %s", errs.String())
	}
	if err := r.finish(localapi.CaptureEnd{At: at, Why: "the tunnel was closed"}); err == nil || !strings.Contains(err.Error(), "ended early: the tunnel was closed") {
		t.Errorf("got %v", err)
	}
}
