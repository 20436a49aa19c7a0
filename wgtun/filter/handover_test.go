package filter

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// successor is a new filter with rules, which took over what f saved so long ago.
func successor(t *testing.T, f *Filter, ago time.Duration, rules ...acl.Rule) (*Filter, []Cut) {
	t.Helper()
	next := newFilter(t, rules...)
	cuts, err := next.Restore(f.Save(), ago)
	if err != nil {
		t.Fatal(err)
	}
	return next, cuts
}

func TestFlowsGoOnInTheNextFilter(t *testing.T) {
	families(t, func(t *testing.T, self, alice netip.Addr) {
		rules := []acl.Rule{outRule(tcpPort(443), udpPort(53)), inRule(tcpPort(22), whole4(acl.ICMP), whole4(acl.ICMPv6))}
		f := newFilter(t, rules...)
		web := dial(t, f, at(self, 40000), at(alice, 443), true)
		shell := dial(t, f, at(self, 22), at(alice, 50000), false)
		passes(t, "data", web.send(packet.ACK, 100))
		passes(t, "query", f.Egress(udp(at(self, 40001), at(alice, 53), 10)))
		passes(t, "echo", f.Ingress(echo(alice, self, 7, false)))
		before := f.Flows()
		next, cuts := successor(t, f, time.Second, rules...)
		if len(cuts) != 0 {
			t.Fatalf("cut: %v", cuts)
		}
		after := next.Flows()
		if len(before) != 4 || len(after) != 4 {
			t.Fatalf("%d flows became %d", len(before), len(after))
		}
		for _, b := range before {
			i := slices.IndexFunc(after, func(a Flow) bool { return a.Src == b.Src && a.Dst == b.Dst })
			if i < 0 || after[i].Packets != b.Packets || after[i].Bytes != b.Bytes || after[i].Rule != b.Rule || after[i].Out != b.Out {
				t.Errorf("%+v became %+v", b, after)
			}
		}
		for _, c := range []*conn{web, shell} {
			c.f = next
			passes(t, "more data", c.send(packet.ACK, 100))
			passes(t, "its answer", c.recv(packet.ACK, 1000))
		}
		passes(t, "the answer to the query", next.Ingress(udp(at(alice, 53), at(self, 40001), 10)))
		passes(t, "the answer to the echo", next.Egress(echo(self, alice, 7, true)))
		far := web.inward(packet.RST, 0)
		far.seq += 1 << 30
		refused(t, "a reset out of the window", next.Ingress(far.bytes()), ReasonTCPWindow)
	})
}

// What the rules do not allow any more is cut as by a change of rules, and stays cut.
func TestHandedFlowIsJudgedAnew(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(443)), inRule(udpPort(53)))
	web := dial(t, f, at(self4, 40000), at(alice4, 443), true)
	passes(t, "a query", f.Ingress(udp(at(alice4, 40001), at(self4, 53), 10)))
	next, cuts := successor(t, f, time.Second, outRule(udpPort(40001)))
	if len(cuts) != 2 {
		t.Fatalf("cut: %v", cuts)
	}
	for _, c := range cuts {
		if c.Cause != causePolicy {
			t.Errorf("cause %q", c.Cause)
		}
		if c.Flow().Proto == acl.TCP {
			resets(t, c.AppendReset(nil), web)
		}
	}
	web.f = next
	refused(t, "data of a cut connection", web.recv(packet.ACK, 10), ReasonCut)
	refused(t, "the answer to a cut query, which a rule would let open the flow the other way", next.Egress(udp(at(self4, 53), at(alice4, 40001), 10)), ReasonCut)
	third, _ := successor(t, next, time.Second, outRule(udpPort(40001)))
	refused(t, "the same, a filter later", third.Egress(udp(at(self4, 53), at(alice4, 40001), 10)), ReasonCut)
}

func TestHandedFlowEndsInTime(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53), tcpPort(443)))
	passes(t, "query", f.Egress(udp(at(self4, 40001), at(alice4, 53), 10)))
	dial(t, f, at(self4, 40000), at(alice4, 443), true)
	next, _ := successor(t, f, 31*time.Second, outRule(udpPort(53), tcpPort(443)))
	if flows := next.Flows(); len(flows) != 1 || flows[0].Proto != acl.TCP {
		t.Errorf("after 31 s: %v", flows)
	}
	rule := outRule(tcpPort(443))
	rule.Until = time.Now().Add(-time.Second).UnixMilli()
	if late, cuts := successor(t, f, time.Second, rule); len(cuts) != 2 || len(late.Flows()) != 0 {
		t.Errorf("by a rule that has ended: %v", late.Flows())
	}
}

// Before a flow is there again its end may send: an answer would end it.
func TestRefusalsAreNotAnsweredBeforeTheHandover(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(443)))
	c := dial(t, f, at(self4, 40000), at(alice4, 443), true)
	next := New()
	segment := c.outward(packet.ACK, 0).bytes()
	try := func(want Verdict) {
		t.Helper()
		if got := next.Egress(segment); got.Verdict != want || got.Reason == ReasonNone {
			t.Errorf("%+v", got)
		}
	}
	next.AwaitRestore(time.Hour)
	try(Drop)
	next.Swap(policyOf(outRule(tcpPort(443))))
	try(Drop)
	next.AwaitRestore(-time.Second)
	try(Reject)
	next.AwaitRestore(time.Hour)
	if _, err := next.Restore(f.Save(), time.Second); err != nil {
		t.Fatal(err)
	}
	if got := next.Egress(seg{from: at(self4, 40001), to: at(alice4, 443), seq: 1, ack: 1, flags: packet.ACK}.bytes()); got.Verdict != Reject {
		t.Errorf("after the handover: %+v", got)
	}
}

// A flow may change peers while no filter looks: its address has gone to another node.
func TestHandedFlowOfAnotherNodeIsCut(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(443)))
	dial(t, f, at(self4, 40000), at(alice4, 443), true)
	next := New()
	p := policyOf(outRule(tcpPort(443)))
	p.Rules.Subjects = subjects()
	p.Rules.Subjects[1].Node = "mallory"
	next.Swap(p)
	cuts, err := next.Restore(f.Save(), time.Second)
	if err != nil || len(cuts) != 1 || len(next.Flows()) != 0 {
		t.Errorf("cut %v, %v; %v lives", cuts, err, next.Flows())
	}
}

func TestHandoverMakesNoRoomThatIsNotThere(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)))
	for port := range uint16(200) {
		passes(t, "query", f.Egress(udp(at(self4, 40000+port), at(alice4, 53), 1)))
	}
	next := NewWithLimits(Limits{Flows: 100, Fragments: 1})
	next.Swap(policyOf(outRule(udpPort(53))))
	if _, err := next.Restore(f.Save(), 0); err != nil {
		t.Fatal(err)
	}
	if n := next.Stats().Flows; n > 50 || n < 40 {
		t.Errorf("%d flows of one peer in a table for 100", n)
	}
}

// A flow that has begun before the handover is read stays as it is.
func TestHandoverLeavesNewerFlows(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)))
	for range 5 {
		passes(t, "query", f.Egress(udp(at(self4, 40001), at(alice4, 53), 1)))
	}
	next := newFilter(t, outRule(udpPort(53)))
	passes(t, "query", next.Egress(udp(at(self4, 40001), at(alice4, 53), 1)))
	if _, err := next.Restore(f.Save(), 0); err != nil {
		t.Fatal(err)
	}
	if flows := next.Flows(); len(flows) != 1 || flows[0].Packets != 1 {
		t.Errorf("%+v", flows)
	}
}

func TestDamagedHandoverIsRefusedWhole(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53), tcpPort(443)))
	passes(t, "query", f.Egress(udp(at(self4, 40001), at(alice4, 53), 1)))
	dial(t, f, at(self4, 40000), at(alice4, 443), true)
	whole := f.Save()
	flowAt := len(whole) - flowSize
	set := func(at int, values ...byte) []byte {
		b := slices.Clone(whole)
		copy(b[at:], values)
		return b
	}
	bad := map[string][]byte{
		"nothing": nil, "another version": set(7, 9), "too long": append(slices.Clone(whole), 0), "ends of two families": set(flowAt+8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "IPv6, it says": set(flowAt+32+6, 1), "no such state": set(flowAt+40, byte(stateClosed)),
		"a forgotten flow": set(flowAt+40, byte(stateForgotten)), "a datagram's state for TCP": set(flowAt+40, 99),
		"no such direction": set(flowAt+41, 2), "idle before it began": set(flowAt+43+7, 0x80), "no such peer": set(flowAt+59, 9), "no such rule": set(flowAt+63, 9),
		"more peers than there is room for": set(8, 0xff, 0xff, 0xff, 0xff), "too great a window scale": set(flowAt+91+16, 15),
		"a window without a scale that is beyond 16 bits": set(flowAt+91+12, 0, 0, 1, 0), "a window of the whole sequence space": set(flowAt+111+12, 0xff, 0xff, 0xff, 0xff),
	}
	for n := range len(whole) {
		bad[string(binary.AppendVarint([]byte("cut at "), int64(n)))] = whole[:n]
	}
	for name, b := range bad {
		next := newFilter(t, outRule(udpPort(53), tcpPort(443)))
		if _, err := next.Restore(b, 0); !errors.Is(err, ErrHandover) || next.Stats().Flows != 0 {
			t.Errorf("%q: %v, %d flows", name, err, next.Stats().Flows)
		}
	}
	if _, err := New().Restore(whole, 0); !errors.Is(err, ErrHandover) {
		t.Errorf("without rules: %v", err)
	}
	if _, err := newFilter(t).Restore(whole, -1); !errors.Is(err, ErrHandover) {
		t.Errorf("from the future: %v", err)
	}
}

func FuzzRestore(f *testing.F) {
	from := newFilter(f, outRule(udpPort(53), tcpPort(443)))
	from.Egress(udp(at(self4, 40001), at(alice4, 53), 1))
	from.Egress(seg{from: at(self4, 40000), to: at(alice4, 443), flags: packet.SYN}.bytes())
	f.Add(from.Save())
	f.Fuzz(func(t *testing.T, b []byte) {
		next := newFilter(t, outRule(udpPort(53), tcpPort(443)))
		if _, err := next.Restore(b, time.Second); err != nil {
			return
		}
		for _, fl := range next.Flows() { // whatever it says, nothing lives that the rules refuse
			if !fl.Out || fl.Dst.Port() != 53 && fl.Dst.Port() != 443 || fl.Dst.Addr() != alice4 && fl.Dst.Addr() != alice6 {
				t.Fatalf("%+v", fl)
			}
		}
		next.Ingress(udp(at(alice4, 53), at(self4, 40001), 1))
		next.Ingress(seg{from: at(alice4, 443), to: at(self4, 40000), flags: packet.ACK}.bytes())
		next.Swap(policyOf())
	})
}
