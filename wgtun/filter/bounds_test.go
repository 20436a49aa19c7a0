package filter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// Tombstones are bounded: cut flows beyond the bound are forgotten.
func TestTombstonesAreBounded(t *testing.T) {
	f := NewWithLimits(Limits{Flows: 100, Fragments: 10})
	allow, deny := policyOf(outRule(udpPort(53))), policyOf()
	for round := range 4 {
		f.Swap(allow)
		for i := range 40 {
			passes(t, "UDP", f.Egress(udp(at(self4, uint16(1000+100*round+i)), at(alice4, 53), 1)))
		}
		f.Swap(deny)
	}
	for range numShards / sweepShards {
		f.Sweep()
	}
	if n := f.table.tombs.Load(); n > 100 {
		t.Errorf("%d tombstones", n)
	}
}

func TestFloodOfOnePeerLeavesRoomForOthers(t *testing.T) {
	const limit = 1000
	any := acl.Rule{Src: roles(roleAny), Dst: roles(roleSelf), Ports: []acl.Ports{whole4(acl.UDP)}}
	f := NewWithLimits(Limits{Flows: limit, Fragments: 64})
	f.Swap(policyOf(any))
	admitted := func(from netip.Addr, n int) int {
		ok := 0
		for i := range n {
			if f.Ingress(udp(at(from, uint16(1+i)), at(self4, 53), 1)).Verdict == Pass {
				ok++
			}
		}
		return ok
	}
	early := udp(at(bob4, 60000), at(self4, 53), 1)
	passes(t, "bob before the flood", f.Ingress(early))
	if n := admitted(alice4, 5000); n > limit/2 || n < limit/2-2 {
		t.Errorf("the flood took %d of %d", n, limit)
	}
	passes(t, "bob's flow after the flood", f.Ingress(early))
	if n := admitted(bob4, 200); n != 200 {
		t.Errorf("bob got %d new flows of 200", n)
	}
	if st := f.Stats(); st.FlowTableFull == 0 || st.Flows > limit || st.IngressDenied["flows-full"] != st.FlowTableFull {
		t.Errorf("stats %+v", st)
	}
}

// What a peer may always hold is no way around the bound of the whole.
func TestFlowTableIsBoundedInTotal(t *testing.T) {
	f := NewWithLimits(Limits{Flows: floor + 4, Fragments: 1})
	f.Swap(policyOf(acl.Rule{Src: roles(roleAny), Dst: roles(roleSelf), Ports: []acl.Ports{udpPort(53)}}))
	for i := range uint16(2 * floor) {
		f.Ingress(udp(at(alice4, 1000+i), at(self4, 53), 1))
		f.Ingress(udp(at(bob4, 1000+i), at(self4, 53), 1))
	}
	if n := len(f.Flows()); n != floor+4 {
		t.Errorf("%d flows, want %d", n, floor+4)
	}
}

func TestReopenedFlowsKeepTheCount(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80)))
	for range 10 {
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		c.recv(fRST, 0)
	}
	if n := f.Stats().Flows; n != 1 {
		t.Errorf("%d flows counted, want 1", n)
	}
	f.Swap(policyOf())
	if n, held := f.Stats().Flows, f.table.used.Load(); n != 0 || held != 0 {
		t.Errorf("%d flows counted, want 0", n)
	}
}

func TestAppendRejectAnswersOnlyWhatMayBeAnswered(t *testing.T) {
	f := newFilter(t)
	syn := seg{from: at(self4, 40000), to: at(alice4, 80), seq: 7, flags: fSYN}.bytes()
	for _, tt := range []struct {
		name string
		pkt  []byte
		want bool
	}{
		{"SYN", syn, true},
		{"UDP", udp(at(self4, 5000), at(alice4, 53), 1), true},
		{"UDP over IPv6", udp(at(self6, 5000), at(alice6, 53), 1), true},
		{"echo request", echo(self4, alice4, 1, false), true},
		{"first fragment", piece4(self4, alice4, 17, 1, 0, true, udp(at(self4, 5), at(alice4, 6), 24)[20:28+8]), true},
		{"echo reply", echo(self4, alice4, 1, true), false},
		{"ICMP error", unreachable(self4, alice4, syn), false},
		{"ICMPv6 error", unreachable(self6, alice6, udp(at(alice6, 1), at(self6, 2), 0)), false},
		{"reset", seg{from: at(self4, 40000), to: at(alice4, 80), flags: fRST}.bytes(), false},
		{"later fragment", piece4(self4, alice4, 17, 1, 16, false, make([]byte, 8)), false},
		{"multicast", udp(at(self4, 5353), at(netip.MustParseAddr("224.0.0.251"), 5353), 1), false},
		{"broadcast", udp(at(self4, 68), at(netip.MustParseAddr("255.255.255.255"), 67), 1), false},
		{"IPv6 multicast", udp(at(self6, 5353), at(netip.MustParseAddr("ff02::fb"), 5353), 1), false},
		{"cut short", syn[:25], false},
		{"nothing", nil, false},
	} {
		if tt.name == "first fragment" {
			// UDP's length tells of the whole.
			binary.BigEndian.PutUint16(tt.pkt[24:], 32)
		}
		if got := f.AppendReject(nil, tt.pkt); (len(got) > 0) != tt.want {
			t.Errorf("%s: answered with %d bytes", tt.name, len(got))
		}
	}
	v := parsed(t, f.AppendReject(nil, syn))
	if diff := cmp.Diff(packet.TCPSegment{Ack: 8, Flags: fRST | fACK}, v.TCP()); diff != "" {
		t.Error(diff)
	}
}

func TestAnswersHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t)
		pkt := udp(at(self4, 5000), at(alice4, 53), 1)
		answers := func() (n int) {
			for range 3 * answersPerSecond {
				if len(f.AppendReject(nil, pkt)) > 0 {
					n++
				}
			}
			return n
		}
		if n := answers(); n != answersPerSecond {
			t.Errorf("%d answers at once", n)
		}
		time.Sleep(time.Second / 4)
		if n := answers(); n != answersPerSecond/4 {
			t.Errorf("%d answers after a quarter of a second", n)
		}
	})
}

func TestOnlyHonestLocalPacketsAreAnswered(t *testing.T) {
	f := newFilter(t, outRule(whole4(acl.ICMP)))
	for name, tt := range map[string]struct {
		got  Result
		want Verdict
	}{
		"no rule":            {f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), Reject},
		"no peer":            {f.Egress(udp(at(self4, 5000), at(stranger, 53), 1)), Reject},
		"segment of no flow": {f.Egress(seg{from: at(self4, 1), to: at(alice4, 2), flags: fACK}.bytes()), Reject},
		"spoofed":            {f.Egress(udp(at(bob4, 5000), at(alice4, 53), 1)), Drop},
		"multicast":          {f.Egress(udp(at(self4, 5353), at(netip.MustParseAddr("224.0.0.251"), 5353), 1)), Drop},
		"malformed":          {f.Egress([]byte{0x45}), Drop},
		"ingress":            {f.Ingress(udp(at(alice4, 5000), at(self4, 53), 1)), Drop},
	} {
		if tt.got.Verdict != tt.want {
			t.Errorf("%s: verdict %d, want %d", name, tt.got.Verdict, tt.want)
		}
	}
}

// DESIGN.md section 6, rule 8: what a correct peer would have refused itself.
func TestEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(udpPort(53)), inRule(tcpPort(22)))
		if got := f.TakeEvidence(); len(got) != 0 {
			t.Fatalf("evidence of nothing: %v", got)
		}
		advance(f, settling)
		start := time.Now()
		for i := range 5 {
			refused(t, "UDP", f.Ingress(udp(at(alice4, uint16(1000+i)), at(self4, 99), 1)), ReasonNoRule)
		}
		advance(f, time.Second)
		refused(t, "SYN", f.Ingress(seg{from: at(alice4, 1), to: at(self4, 23), flags: fSYN}.bytes()), ReasonNoRule)
		refused(t, "bob's SYN", f.Ingress(seg{from: at(bob6, 1), to: at(self6, 22), flags: fSYN}.bytes()), ReasonNoRule)
		// None of these is evidence: the first two happen to correct peers, the others are not the peer's.
		f.Ingress(seg{from: at(alice4, 1), to: at(self4, 22), flags: fACK}.bytes())
		f.Ingress(echo(bob4, self4, 1, true))
		f.Egress(udp(at(self4, 1), at(bob4, 9), 1))
		f.Ingress(udp(at(stranger, 1), at(self4, 9), 1))
		want := []Evidence{
			{Node: "alice", Count: 6, Generation: generation, First: start, Last: start.Add(time.Second), Example: acl.Flow{Src: alice4, Dst: self4, Proto: acl.UDP, Port: 99}},
			{Node: "bob", Count: 1, Generation: generation, First: start.Add(time.Second), Last: start.Add(time.Second), Example: acl.Flow{Src: bob6, Dst: self6, Proto: acl.TCP, Port: 22}},
		}
		if diff := cmp.Diff(want, f.TakeEvidence(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Error(diff)
		}
		if got := f.TakeEvidence(); len(got) != 0 {
			t.Errorf("evidence twice: %v", got)
		}
	})
}

func TestFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(udpPort(53), whole4(acl.ICMP)), inRule(udpPort(7)))
		start := time.Now()
		f.Egress(udp(at(self4, 5000), at(alice4, 53), 12))
		advance(f, time.Second)
		f.Ingress(udp(at(alice4, 53), at(self4, 5000), 22))
		f.Egress(echo(self4, alice4, 77, false))
		f.Ingress(udp(at(alice4, 6000), at(self4, 7), 2))
		got := map[string]Flow{}
		for _, fl := range f.Flows() {
			got[fmt.Sprint(fl.Proto, fl.Out)] = fl
		}
		ref := func(i int) acl.Ref { return acl.Ref{Section: "grants", Index: i, Line: i + 1, Column: 1} }
		later := start.Add(time.Second)
		want := map[string]Flow{
			fmt.Sprint(acl.UDP, true):  {Src: at(self4, 5000), Dst: at(alice4, 53), Proto: acl.UDP, Peer: "alice", Out: true, Rule: ref(0), Opened: start, LastSeen: later, Packets: 2, Bytes: 90},
			fmt.Sprint(acl.ICMP, true): {Src: at(self4, 77), Dst: at(alice4, 0), Proto: acl.ICMP, Peer: "alice", Out: true, Rule: ref(0), Opened: later, LastSeen: later, Packets: 1, Bytes: 28},
			fmt.Sprint(acl.UDP, false): {Src: at(alice4, 6000), Dst: at(self4, 7), Proto: acl.UDP, Peer: "alice", Rule: ref(1), Opened: later, LastSeen: later, Packets: 1, Bytes: 30},
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Error(diff)
		}
		if st := f.Stats(); st.EgressPassed != 2 || st.IngressPassed != 2 {
			t.Errorf("stats %+v", st)
		}
	})
}
