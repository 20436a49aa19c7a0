package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"picket.internal/node/localapi"
)

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1.0k", 9949: "9.9k", 9950: "10k", 999_499: "999k", 999_500: "1.0M", 1_234_567: "1.2M", 1 << 63: ">1E"} {
		if got := size(n); got != want || len(got) > 4 {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestMillis(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "-", 310 * time.Microsecond: "0.31ms", 12400 * time.Microsecond: "12ms", 9999 * time.Microsecond: "10ms", 1200 * time.Millisecond: "1.2s"} {
		if got := millis(d); got != want {
			t.Errorf("millis(%s) = %q, want %q", d, got, want)
		}
	}
}

// longest is a peer whose every cell is as long as the world allows.
func longest() localapi.Peer {
	allowed := []localapi.Allowed{{Ports: "tcp 30000-40000", Rule: "grants[0], line 4"}, {Ports: "udp *", Rule: "grants[1], line 9"}}
	return localapi.Peer{
		Name: strings.Repeat("n", 63), Owner: strings.Repeat("ü", 100), Addresses: []netip.Addr{netip.MustParseAddr("100.127.255.254")}, Online: true,
		Path: "direct [2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535", Latency: 9999 * time.Microsecond, RxBytes: 1_200_000, TxBytes: 3_400_000,
		LastHandshake: time.Now().Add(-400 * 24 * time.Hour), Out: allowed, In: allowed,
	}
}

func TestPeersTable_fits120Columns(t *testing.T) {
	var out bytes.Buffer
	peersTable(&out, []localapi.Peer{longest(), {Name: "a", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.2")}}}, time.Now())
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 120 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestPeersTable_clipsNothingThatFits(t *testing.T) {
	var out bytes.Buffer
	p := localapi.Peer{Name: "a-name-of-more-than-some", Owner: "alice.the.administrator@example.com", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.2")},
		Out: []localapi.Allowed{{Ports: "tcp 5432"}, {Ports: "icmp"}}}
	peersTable(&out, []localapi.Peer{p}, time.Now())
	for _, whole := range []string{p.Name, p.Owner, "tcp 5432, icmp"} {
		if !strings.Contains(out.String(), whole) {
			t.Errorf("%q is not whole in\n%s", whole, out.String())
		}
	}
}

// TestNothingSteersTheTerminal prints what others could have chosen.
func TestNothingSteersTheTerminal(t *testing.T) {
	const evil = "a\x1b[2J\x07\r\nb\u202e\u009b31m"
	p := localapi.Peer{Name: evil, Owner: evil, Tags: []string{evil}, OS: evil, Postures: []string{evil}, Path: evil, Refused: evil, Out: []localapi.Allowed{{Ports: evil, Rule: evil}}}
	s := localapi.Status{Problem: evil, Membership: localapi.Membership{Name: evil, Owner: evil, Tags: []string{evil}}, Warnings: []string{evil},
		InForce: localapi.InForce{Policy: evil, Generation: 1}, Tunnel: localapi.Tunnel{Denied: map[string]uint64{evil: 1}}, LoginURL: evil,
		Contact: localapi.Contact{Coordinator: evil}, Passages: localapi.Passages{Forwards: []localapi.Passage{{To: evil, Proto: evil}}}}
	var out bytes.Buffer
	peersTable(&out, []localapi.Peer{p}, time.Now())
	writePeer(&out, p, time.Now())
	showStatus(&out, s, time.Now())
	welcome(&out, s, []localapi.Peer{p})
	writeWhy(&out, localapi.WhyAnswer{Src: evil, Dst: evil, Reason: evil, Policy: evil})
	writeWhy(&out, localapi.WhyAnswer{Allow: true, Src: evil, Dst: evil, Rule: evil})
	showEvent(&out, localapi.UpEvent{Login: &localapi.Login{URL: evil, Code: evil}})
	showEvent(&out, localapi.UpEvent{Note: evil})
	e := localapi.Endpoint{Node: evil, Name: evil, Owner: evil, Tags: []string{evil}, Address: netip.MustParseAddr("10.0.0.1"), Routed: true}
	flowsTable(&out, localapi.Flows{FlowTotals: localapi.FlowTotals{Total: 1}, List: []localapi.Flow{{Src: e, Dst: e, Proto: evil, Rule: evil}}}, time.Now())
	d := localapi.Denial{Src: e, Dst: e, Proto: evil, Reason: "no-rule", Words: evil}
	for _, routed := range []bool{true, false} {
		d.Src.Routed, d.Dst.Routed = routed, routed
		denialsTable(&out, localapi.Denials{DenialTotals: localapi.DenialTotals{Packets: 1}, List: []localapi.Denial{d, {Rule: evil}}}, time.Now())
		fmt.Fprintln(&out, denialLine(d))
	}
	fmt.Fprintln(&out, packetComment(localapi.Packet{Src: e, Dst: e, Proto: evil, Words: evil}), packetComment(localapi.Packet{Allow: true, Rule: evil}))
	for _, bad := range []string{"\x1b", "\x07", "\r", "\u202e", "\u009b"} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("%q reached the terminal:\n%q", bad, out.String())
		}
	}
}

func TestReadAuthKey_file(t *testing.T) {
	got, err := readAuthKey("-", strings.NewReader("picket-key-abc\n"))
	if err != nil || got != "picket-key-abc" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := readAuthKey("file:"+t.TempDir()+"/none", nil); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a missing file: %v", err)
	}
}

// TestStatusShowsPassages: a line for each port, and none where nothing is forwarded or exposed.
func TestStatusShowsPassages(t *testing.T) {
	s := localapi.Status{Passages: localapi.Passages{
		Forwards: []localapi.Passage{{Proto: "tcp", Listen: netip.MustParseAddrPort("127.0.0.1:5432"), To: "db:5432", Open: 2}},
		Exposed:  []localapi.Passage{{Proto: "udp", Port: 53, To: "127.0.0.1:5353"}},
	}}
	var with, without bytes.Buffer
	showStatus(&with, s, time.Now())
	showStatus(&without, localapi.Status{}, time.Now())
	for _, line := range []string{`(?m)^Forwarded +127\.0\.0\.1:5432 \(tcp\) to db:5432, 2 open$`, `(?m)^Exposed +udp 53 to 127\.0\.0\.1:5353, 0 open$`} {
		if re := regexp.MustCompile(line); !re.Match(with.Bytes()) || re.Match(without.Bytes()) {
			t.Errorf("no line %s in:\n%s", line, with.String())
		}
	}
	if text := without.String(); strings.Contains(text, "Forwarded") || strings.Contains(text, "Exposed") {
		t.Errorf("without any:\n%s", text)
	}
}
