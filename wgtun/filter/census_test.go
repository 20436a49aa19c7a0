package filter

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
)

func sorted(c Census) []FlowCount {
	slices.SortFunc(c.Counts, func(a, b FlowCount) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return c.Counts
}

func TestCensusSumsUpFlowsThatDifferInTheOpenersPort(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80), udpPort(53), whole4(acl.ICMP)), inRule(tcpPort(22)))
	if c := f.Census(10); c.Total != 0 || len(c.Counts) != 0 || c.Truncated() {
		t.Errorf("an empty table: %+v", c)
	}
	for i := range uint16(3) {
		dial(t, f, at(self4, 40000+i), at(alice4, 80), true)
	}
	dial(t, f, at(self6, 40000), at(alice6, 80), true)
	dial(t, f, at(self4, 22), at(alice4, 50000), false)
	dial(t, f, at(self4, 22), at(alice4, 50001), false)
	passes(t, "UDP", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	passes(t, "echo", f.Egress(echo(self4, alice4, 7, false)))
	refused(t, "a port of no rule", f.Egress(udp(at(self4, 5000), at(alice4, 54), 1)), ReasonNoRule)
	over := dial(t, f, at(self4, 41000), at(alice4, 80), true)
	passes(t, "reset", over.recv(fRST, 0))
	want := []FlowCount{
		{Peer: "alice", Local: self4, Remote: alice4, Out: true, Proto: acl.TCP, Port: 80, Count: 3},
		{Peer: "alice", Local: self6, Remote: alice6, Out: true, Proto: acl.TCP, Port: 80, Count: 1},
		{Peer: "alice", Local: self4, Remote: alice4, Proto: acl.TCP, Port: 22, Count: 2},
		{Peer: "alice", Local: self4, Remote: alice4, Out: true, Proto: acl.UDP, Port: 53, Count: 1},
		{Peer: "alice", Local: self4, Remote: alice4, Out: true, Proto: acl.ICMP, Count: 1},
	}
	c := f.Census(10)
	if got := sorted(c); !slices.Equal(got, sorted(Census{Counts: want})) || c.Total != 8 || c.Truncated() {
		t.Errorf("total %d, truncated %v, %+v", c.Total, c.Truncated(), got)
	}
	f.Swap(policyOf(outRule(udpPort(53))))
	if c := f.Census(10); c.Total != 1 || len(c.Counts) != 1 || c.Counts[0].Port != 53 {
		t.Errorf("tombstones are counted: %+v", c)
	}
}

func TestCensusIsBoundedAndItsTotalExact(t *testing.T) {
	f := newFilter(t, outRule(whole4(acl.UDP)))
	for port := range uint16(500) {
		for from := range uint16(2) {
			passes(t, "UDP", f.Egress(udp(at(self4, 5000+from), at(alice4, 1+port), 1)))
		}
	}
	c := f.Census(100)
	if c.Total != 1000 || len(c.Counts) != 100 || !c.Truncated() {
		t.Errorf("total %d in %d entries, truncated %v", c.Total, len(c.Counts), c.Truncated())
	}
	if c := f.Census(500); c.Total != 1000 || len(c.Counts) != 500 || c.Truncated() {
		t.Errorf("total %d in %d entries, truncated %v", c.Total, len(c.Counts), c.Truncated())
	}
}

// What is idle for too long is not live, whether or not a sweep has been there.
func TestCensusLeavesOutIdleFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(udpPort(53)))
		passes(t, "UDP", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
		time.Sleep(31 * time.Second)
		if c := f.Census(10); c.Total != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// BenchmarkCensus walks a full table: what a node pays for each question.
func BenchmarkCensus(b *testing.B) {
	f := newFilter(b, outRule(whole4(acl.UDP)))
	for i := range DefaultLimits.Flows / 2 {
		f.Egress(udp(at(self4, uint16(1024+i%60000)), at(alice4, uint16(1+i/60000)), 1))
	}
	for b.Loop() {
		if c := f.Census(4096); c.Total < 60000 {
			b.Fatal(c.Total)
		}
	}
}
