package filter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// parsed reads an answer and holds its checksums right.
func parsed(t *testing.T, b []byte) *packet.View {
	t.Helper()
	var v packet.View
	if fault := v.Parse(b); fault != packet.FaultNone || !v.TransportChecksumOK() {
		t.Fatalf("answer %x cannot be read: %v", b, fault)
	}
	return &v
}

// resets checks a reset toward the local end of c: the sequence number that the local stack expects next, no other.
func resets(t *testing.T, b []byte, c *conn) {
	t.Helper()
	if len(b) == 0 {
		t.Fatal("no reset")
	}
	v := parsed(t, b)
	s := v.TCP()
	from, to := netip.AddrPortFrom(v.Src().Netip(), v.SrcPort()), netip.AddrPortFrom(v.Dst().Netip(), v.DstPort())
	if from != c.remote || to != c.local || s.Flags&fRST == 0 || s.Seq != c.rcv {
		t.Errorf("reset %v to %v seq %d flags %#x; want %v to %v seq %d", from, to, s.Seq, s.Flags, c.remote, c.local, c.rcv)
	}
}

func TestSwapCutsTCPAtOnce(t *testing.T) {
	for name, out := range map[string]bool{"opened out": true, "opened in": false} {
		t.Run(name, func(t *testing.T) {
			families(t, func(t *testing.T, self, alice netip.Addr) {
				rule, other := outRule(tcpPort(80)), inRule(tcpPort(80))
				port := at(self, 40000)
				remote := at(alice, 80)
				if !out {
					rule, other = inRule(tcpPort(40000)), outRule(tcpPort(40000))
				}
				f := newFilter(t, rule)
				c := dial(t, f, port, remote, out)
				passes(t, "data", c.send(fACK, 100))
				passes(t, "data", c.recv(fACK, 700))
				passes(t, "acknowledgment", c.send(fACK, 0))
				passes(t, "data not acknowledged yet", c.recv(fACK, 300))

				p := policyOf(other)
				cuts := f.Swap(p)
				if len(cuts) != 1 || cuts[0].Cause != "policy" || cuts[0].Generation != p.Generation || cuts[0].Flow.Out != out {
					t.Fatalf("cut %+v", cuts)
				}
				resets(t, cuts[0].Reset, c)
				refused(t, "peer's retransmission", f.Ingress(c.inward(fACK, 10).bytes()), ReasonCut)
				got := f.Egress(c.outward(fACK, 10).bytes())
				refused(t, "local retransmission", got, ReasonCut)
				if got.Verdict != Reject {
					t.Errorf("local retransmission: verdict %d, want Reject", got.Verdict)
				}
				resets(t, f.AppendReject(nil, c.outward(fACK, 10).bytes()), c)
				refused(t, "SYN under a rule that is gone", f.Egress(seg{from: port, to: at(alice, 79), flags: fSYN}.bytes()), ReasonNoRule)

				// Access restored works at once, on the same ports.
				if cuts := f.Swap(policyOf(rule)); len(cuts) != 0 {
					t.Errorf("tombstones were cut again: %v", cuts)
				}
				refused(t, "the old connection", f.Ingress(c.inward(fACK, 10).bytes()), ReasonCut)
				dial(t, f, port, remote, out)
			})
		})
	}
}

// A reset must not go beyond the window that the local end offered: a hostile peer sends beyond it, so that no reset would be taken.
func TestResetIgnoresDataBeyondTheWindow(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80)))
	c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
	expected := c.rcv
	s := c.inward(fACK, 100)
	s.seq += 64000 + 1000
	passes(t, "segment a little beyond the window", f.Ingress(s.bytes()))
	cuts := f.Swap(policyOf())
	c.rcv = expected
	resets(t, cuts[0].Reset, c)
}

func TestResetOfAnUnansweredSYN(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80)), inRule(tcpPort(22)))
	passes(t, "SYN out", f.Egress(seg{from: at(self4, 40000), to: at(alice4, 80), seq: 500, flags: fSYN}.bytes()))
	passes(t, "SYN in", f.Ingress(seg{from: at(alice4, 50000), to: at(self4, 22), seq: 900, flags: fSYN}.bytes()))
	got := map[bool]packet.TCPSegment{}
	for _, c := range f.Swap(policyOf()) {
		got[c.Flow.Out] = parsed(t, c.Reset).TCP()
	}
	want := map[bool]packet.TCPSegment{true: {Ack: 501, Flags: fRST | fACK}, false: {Seq: 901, Flags: fRST}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The kill path for flows without connections: refused in both directions, told to the local program, and the answering side's packets
// do not open the same tuple the other way while the tombstone stands.
func TestSwapCutsDatagrams(t *testing.T) {
	families(t, func(t *testing.T, self, alice netip.Addr) {
		synctest.Test(t, func(t *testing.T) {
			out := outRule(udpPort(53), whole4(acl.ICMP), whole4(acl.ICMPv6), whole4(47))
			back := inRule(whole4(acl.UDP), whole4(acl.ICMP), whole4(acl.ICMPv6), whole4(47))
			f := newFilter(t, out, back)
			type exchange struct{ request, answer []byte }
			raw := func(from, to netip.Addr) []byte { return ip(from, to, 47, make([]byte, 24)) }
			flows := map[string]exchange{
				"UDP": {udp(at(self, 5000), at(alice, 53), 9), udp(at(alice, 53), at(self, 5000), 9)},
				"GRE": {raw(self, alice), raw(alice, self)},
			}
			for name, x := range flows {
				passes(t, name, f.Egress(x.request))
				passes(t, name, f.Ingress(x.answer))
			}
			passes(t, "echo", f.Egress(echo(self, alice, 7, false)))
			if cuts := f.Swap(policyOf(back)); len(cuts) != 3 || cuts[0].Reset != nil {
				t.Fatalf("cut %v", cuts)
			}
			refused(t, "echo reply", f.Ingress(echo(alice, self, 7, true)), ReasonCut)
			for name, x := range flows {
				got := f.Egress(x.request)
				refused(t, name+" request", got, ReasonNoRule)
				if got.Verdict != Reject {
					t.Errorf("%s request is not answered", name)
				}
				v := parsed(t, f.AppendReject(nil, x.request))
				if kind, typ, code := v.ICMP(); kind != packet.ICMPError || (typ != 3 || code != 13) && (typ != 1 || code != 1) {
					t.Errorf("%s request answered by type %d code %d", name, typ, code)
				}
				refused(t, name+" answer, which a rule would let open a flow", f.Ingress(x.answer), ReasonCut)
			}
			advance(f, 59*time.Second)
			refused(t, "answer after 59 s", f.Ingress(flows["UDP"].answer), ReasonCut)
			f.Swap(policyOf(out, back))
			for name, x := range flows {
				passes(t, name+" request after access was restored", f.Egress(x.request))
				passes(t, name+" answer after access was restored", f.Ingress(x.answer))
			}
			f.Swap(policyOf(back))
			advance(f, 61*time.Second)
			passes(t, "the other way after the tombstone", f.Ingress(flows["UDP"].answer))
		})
	})
}

// advance lets time pass as the tunnel would.
func advance(f *Filter, d time.Duration) (cuts []Cut) {
	for ; d > 0; d -= 100 * time.Millisecond {
		time.Sleep(min(d, 100*time.Millisecond))
		cuts = append(cuts, f.Sweep()...)
	}
	return cuts
}

func TestSwapKeepsWhatIsStillAllowed(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80), udpPort(53)), inRule(tcpPort(22)))
	a := dial(t, f, at(self4, 40000), at(alice4, 80), true)
	b := dial(t, f, at(self6, 22), at(alice6, 50000), false)
	request := udp(at(self4, 5000), at(alice4, 53), 1)
	passes(t, "UDP", f.Egress(request))
	for range 3 {
		if cuts := f.Swap(policyOf(inRule(tcpPort(22), tcpPort(23)), outRule(udpPort(53)), outRule(tcpPort(80), tcpPort(443)))); len(cuts) != 0 {
			t.Fatalf("cut %v", cuts)
		}
		for _, c := range []*conn{a, b} {
			passes(t, "data", c.send(fACK, 100))
			passes(t, "data", c.recv(fACK, 100))
		}
		passes(t, "UDP answer", f.Ingress(udp(at(alice4, 53), at(self4, 5000), 1)))
	}
	for _, fl := range f.Flows() {
		if want := map[uint16]int{80: 2, 53: 1, 22: 0}[fl.Dst.Port()]; fl.Rule.Index != want {
			t.Errorf("flow to %v is under rule %d, want %d", fl.Dst, fl.Rule.Index, want)
		}
	}
}

// DESIGN.md section 6, rule 6: the step between two policies.
func TestIntersect(t *testing.T) {
	old := policyOf(outRule(tcpPort(80), tcpPort(81), udpPort(53)))
	next := policyOf(outRule(tcpPort(80), tcpPort(82), udpPort(53)))
	f := New()
	f.Swap(old)
	c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
	gone := dial(t, f, at(self4, 40001), at(alice4, 81), true)
	syn := func(port uint16) Result {
		return f.Egress(seg{from: at(self4, 50000+port), to: at(alice4, port), flags: fSYN}.bytes())
	}
	cuts := f.Swap(Intersect(old, next, nil))
	if len(cuts) != 1 || cuts[0].Flow.Dst != gone.remote || cuts[0].Generation != next.Generation {
		t.Fatalf("cut %v", cuts)
	}
	passes(t, "kept flow", c.send(fACK, 5))
	passes(t, "allowed by both", syn(80))
	refused(t, "only in the old", syn(81), ReasonNoRule)
	refused(t, "only in the new", syn(82), ReasonNoRule)
	if cuts := f.Swap(next); len(cuts) != 0 {
		t.Fatalf("widening cut %v", cuts)
	}
	passes(t, "kept flow", c.recv(fACK, 5))
	passes(t, "only in the new", syn(82))

	// Steps may pile up when one was not finished.
	third := policyOf(outRule(tcpPort(80), tcpPort(81), tcpPort(82)))
	f.Swap(Intersect(Intersect(old, next, nil), third, nil))
	refused(t, "not in the first", syn(83), ReasonNoRule)
	refused(t, "in first and third only", f.Egress(seg{from: at(self4, 1), to: at(alice4, 81), flags: fSYN}.bytes()), ReasonNoRule)
	refused(t, "in second and third only", f.Egress(seg{from: at(self4, 1), to: at(alice4, 82), flags: fSYN}.bytes()), ReasonNoRule)
	passes(t, "in all three", syn(80))

	for name, p := range map[string]*Policy{
		"from nothing": Intersect(nil, next, nil), "to nothing": Intersect(old, nil, nil), "from zero": Intersect(&Policy{}, next, nil),
		"other self": Intersect(&Policy{Self: "bob", Rules: old.Rules, NotAfter: old.NotAfter}, next, nil),
	} {
		f.Swap(p)
		if got := syn(80); got.Verdict == Pass {
			t.Errorf("%s: a SYN passes", name)
		}
	}
}

func TestIntersectDeniesDeparting(t *testing.T) {
	old, next := policyOf(outRule(udpPort(53))), policyOf(outRule(udpPort(53)))
	f := New()
	f.Swap(old)
	pkt := udp(at(self4, 5000), at(alice4, 53), 1)
	passes(t, "before", f.Egress(pkt))
	if cuts := f.Swap(Intersect(old, next, func(n acl.NodeID) bool { return n == "alice" })); len(cuts) != 1 {
		t.Errorf("cut %v", cuts)
	}
	refused(t, "departing", f.Egress(pkt), ReasonDeparting)
	f.Swap(next)
	passes(t, "whole", f.Egress(pkt))
}

// An address that changes hands is refused to both holders in between, and its flows are cut.
func TestAddressThatMovesIsDeniedInBetween(t *testing.T) {
	for _, tt := range []struct {
		name string
		move func(s []acl.Subject)
		addr netip.Addr
	}{
		{"address", func(s []acl.Subject) {
			s[1].Addresses = []netip.Addr{alice6}
			s[2].Addresses = []netip.Addr{bob4, bob6, alice4}
		}, alice4},
		{"route", func(s []acl.Subject) { s[1].Routes, s[2].Routes = s[2].Routes, nil }, behindBob},
		{"narrower route", func(s []acl.Subject) { s[1].Routes = []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")} }, behindBob},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rule := acl.Rule{Src: roles(roleAny), Ports: []acl.Ports{udpPort(53)},
				Dst: acl.Set{Roles: []acl.RoleID{roleAny}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
			old, next := policyOf(rule), policyOf(rule)
			tt.move(next.Rules.Subjects)
			f := New()
			f.Swap(old)
			pkt := udp(at(self4, 5000), at(tt.addr, 53), 1)
			answer := udp(at(tt.addr, 53), at(self4, 5000), 1)
			passes(t, "before", f.Egress(pkt))
			if cuts := f.Swap(Intersect(old, next, nil)); len(cuts) != 1 {
				t.Fatalf("cut %v", cuts)
			}
			refused(t, "in between", f.Egress(pkt), ReasonDeparting)
			refused(t, "answer in between", f.Ingress(answer), ReasonCut)
			f.Swap(next)
			passes(t, "after", f.Egress(pkt))

			// And in one step, too, no flow passes from one holder to the next.
			if cuts := f.Swap(&Policy{Self: "self", Rules: old.Rules, NotAfter: old.NotAfter}); len(cuts) != 1 {
				t.Errorf("one step cut %v", cuts)
			}
		})
	}
}

func TestAnotherSelfCutsEverything(t *testing.T) {
	rule := acl.Rule{Src: roles(roleAny), Dst: roles(roleAny), Ports: []acl.Ports{udpPort(53)}}
	p := policyOf(rule)
	f := New()
	f.Swap(p)
	passes(t, "before", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	other := *p
	other.Rules = rulesOf(rule)
	other.Rules.Subjects[0].Node = "reborn"
	other.Self = "reborn"
	if cuts := f.Swap(&other); len(cuts) != 1 {
		t.Errorf("cut %v", cuts)
	}
}

func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf(outRule(tcpPort(80), udpPort(53)))
		p.NotAfter = time.Now().Add(time.Minute)
		f := New()
		f.Swap(p)
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		if cuts := advance(f, 59*time.Second); len(cuts) != 0 {
			t.Fatalf("cut early: %v", cuts)
		}
		passes(t, "before the end", c.send(fACK, 1))
		cuts := advance(f, time.Second)
		if len(cuts) != 1 || cuts[0].Cause != "lease" {
			t.Fatalf("cut %v", cuts)
		}
		resets(t, cuts[0].Reset, c)
		refused(t, "segment", c.send(fACK, 1), ReasonLease)
		refused(t, "segment", c.recv(fACK, 1), ReasonLease)
		refused(t, "new flow", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), ReasonLease)
		refused(t, "ICMP error", f.Ingress(unreachable(alice4, self4, udp(at(self4, 5000), at(alice4, 53), 1))), ReasonLease)
		if n := len(f.Flows()); n != 0 {
			t.Errorf("%d flows live after the lease", n)
		}
		f.Extend(time.Now().Add(time.Minute))
		passes(t, "new flow after Extend", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
		refused(t, "cut flow after Extend", c.send(fACK, 1), ReasonCut)
		f.Extend(time.Now())
		passes(t, "Extend does not shorten", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	})
}

func TestExtendKeepsFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf(outRule(tcpPort(80)))
		p.NotAfter = time.Now().Add(time.Minute)
		f := New()
		f.Swap(p)
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		advance(f, 59*time.Second)
		f.Extend(time.Now().Add(time.Minute))
		if cuts := advance(f, 30*time.Second); len(cuts) != 0 {
			t.Errorf("cut %v", cuts)
		}
		passes(t, "segment", c.send(fACK, 1))
		// What is put in force with its lease already over refuses at once, and says why.
		late := policyOf(outRule(tcpPort(80)))
		late.NotAfter = time.Now()
		if cuts := f.Swap(late); len(cuts) != 1 || cuts[0].Cause != "lease" {
			t.Errorf("cut %v", cuts)
		}
	})
}

// The lease holds also where nobody sweeps: a busy flow reads the clock itself.
func TestLeaseWithoutSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf(outRule(udpPort(53)))
		p.NotAfter = time.Now().Add(time.Minute)
		f := New()
		f.Swap(p)
		time.Sleep(time.Minute)
		for range ticksPerRead {
			f.Egress(udp(at(self4, 5000), at(alice4, 53), 1))
		}
		refused(t, "a packet after some", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), ReasonLease)
	})
}

func TestRuleDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		first, longer := outRule(tcpPort(80)), outRule(acl.Ports{Proto: acl.TCP, First: 80, Last: 81})
		first.Until = start.Add(10 * time.Second).UnixMilli()
		longer.Until = start.Add(20 * time.Second).UnixMilli()
		f := newFilter(t, first, longer, outRule(tcpPort(22)))
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		kept := dial(t, f, at(self4, 40001), at(alice4, 22), true)
		for _, fl := range f.Flows() {
			want := time.Time{}
			if fl.Dst.Port() == 80 {
				want = time.UnixMilli(longer.Until)
			}
			if !fl.Until.Equal(want) {
				t.Errorf("flow to %v ends %v, want %v", fl.Dst, fl.Until, want)
			}
		}
		if cuts := advance(f, 15*time.Second); len(cuts) != 0 {
			t.Fatalf("cut while another rule allows: %v", cuts)
		}
		passes(t, "segment", c.send(fACK, 1))
		passes(t, "SYN under the longer rule", f.Egress(seg{from: at(self4, 40002), to: at(alice4, 80), flags: fSYN}.bytes()))
		for _, fl := range f.Flows() {
			if fl.Src.Port() == 40002 && fl.Rule.Index != 1 {
				t.Errorf("new flow is under rule %d", fl.Rule.Index)
			}
		}
		cuts := advance(f, 5*time.Second)
		if len(cuts) != 2 || cuts[0].Cause != "deadline" {
			t.Fatalf("at the deadline cut %v", cuts)
		}
		refused(t, "segment", c.send(fACK, 1), ReasonCut)
		refused(t, "SYN", f.Egress(seg{from: at(self4, 40003), to: at(alice4, 80), flags: fSYN}.bytes()), ReasonNoRule)
		passes(t, "flow without deadline", kept.send(fACK, 1))
	})
}

// A packet that comes between the deadline and the next Sweep is judged by the deadline, and the cut is reported by that Sweep.
func TestRuleDeadlineOnPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := outRule(tcpPort(80))
		rule.Until = time.Now().Add(10 * time.Second).UnixMilli()
		f := newFilter(t, rule)
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		time.Sleep(10 * time.Second)
		f.clock.read()
		refused(t, "segment", c.recv(fACK, 1), ReasonCut)
		if cuts := f.Sweep(); len(cuts) != 1 || cuts[0].Cause != "deadline" {
			t.Errorf("cut %v", cuts)
		}
	})
}

// Deadlines are wall time at the coordinator; the node's own clock may be off by a known amount.
func TestClockOffset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := outRule(udpPort(53))
		rule.Until = time.Now().Add(time.Hour).UnixMilli()
		p := policyOf(rule)
		p.ClockOffset = time.Hour - 10*time.Second
		f := New()
		f.Swap(p)
		pkt := udp(at(self4, 5000), at(alice4, 53), 1)
		advance(f, 9*time.Second)
		passes(t, "before", f.Egress(pkt))
		advance(f, time.Second)
		refused(t, "after", f.Egress(pkt), ReasonNoRule)
	})
}

func TestDeadlineConversion(t *testing.T) {
	wall := time.UnixMilli(1_700_000_000_000)
	for _, tt := range []struct {
		until int64
		want  int64
	}{
		{0, never},
		{1_700_000_000_000, 77},
		{1_700_000_001_000, 77 + int64(time.Second)},
		{1_699_999_999_000, 77 - int64(time.Second)},
	} {
		if got := deadline(tt.until, wall, 77); got != tt.want {
			t.Errorf("deadline(%d) = %d, want %d", tt.until, got, tt.want)
		}
	}
	if got := deadline(1<<62, wall, 77); got < 1<<60 || got == never {
		t.Errorf("a deadline in the far future became %d", got)
	}
	if got := deadline(-1<<63, wall, 77); got > 0 {
		t.Errorf("a deadline in the far past became %d", got)
	}
	if got := deadline(1_700_000_000_001, wall.Add(900*time.Microsecond), 0); got != int64(100*time.Microsecond) {
		t.Errorf("part of a millisecond: %d", got)
	}
}

func TestIdleTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(tcpPort(80), udpPort(53)))
		unreplied, replied := udp(at(self4, 5000), at(alice4, 53), 1), udp(at(self4, 5001), at(alice4, 53), 1)
		answer := func(port uint16) Result { return f.Ingress(udp(at(alice4, 53), at(self4, port), 1)) }
		passes(t, "UDP", f.Egress(unreplied))
		passes(t, "UDP", f.Egress(replied))
		passes(t, "answer", answer(5001))
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		passes(t, "SYN", f.Egress(seg{from: at(self4, 40001), to: at(alice4, 80), flags: fSYN}.bytes()))
		advance(f, 29*time.Second)
		passes(t, "late answer", f.Ingress(udp(at(alice4, 53), at(self4, 5000), 1)))
		advance(f, 150*time.Second)
		passes(t, "answer after 179 s", answer(5001))
		advance(f, 31*time.Second)
		refused(t, "answer after 181 s", answer(5000), ReasonNoRule)
		advance(f, 200*time.Second)
		refused(t, "answer after 231 s", answer(5001), ReasonNoRule)
		if n := len(f.Flows()); n != 1 {
			t.Errorf("%d flows live, want the connection only", n)
		}
		if n := f.Stats().Flows; n != 1 {
			t.Errorf("%d flows in the table", n)
		}
		time.Sleep(3 * time.Hour)
		f.Sweep()
		passes(t, "established after three idle hours", c.recv(fACK, 1))
		c.send(fFIN|fACK, 0)
		time.Sleep(11 * time.Minute)
		f.Sweep()
		refused(t, "half closed after 11 min", c.recv(fACK, 1), ReasonNoFlow)
	})
}

func TestSweepForgetsTombstones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(udpPort(53)))
		for i := range 1000 {
			f.Egress(udp(at(self4, uint16(5000+i)), at(alice4, 53), 1))
		}
		f.Swap(policyOf())
		if st := f.Stats(); st.Flows != 0 || f.table.tombs.Load() != 1000 {
			t.Errorf("%d flows, %d tombstones", st.Flows, f.table.tombs.Load())
		}
		advance(f, 65*time.Second)
		if n := f.table.tombs.Load(); n != 0 {
			t.Errorf("%d tombstones after 65 s", n)
		}
		for i := range f.table.shards {
			if s := &f.table.shards[i]; s.n != 0 || len(s.slots) != minSlots {
				t.Fatalf("shard %d keeps %d flows in %d slots", i, s.n, len(s.slots))
			}
		}
	})
}

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

// R7: a packet judged under old rules must not leave a flow that the new rules forbid, however the two interleave. Run it with -race.
func TestSwapRace(t *testing.T) {
	f := New()
	allow, deny := policyOf(outRule(udpPort(53), tcpPort(80))), policyOf()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				port := uint16(1024 + w*2000 + i%2000)
				f.Egress(udp(at(self4, port), at(alice4, 53), 1))
				f.Ingress(udp(at(alice4, 53), at(self4, port), 1))
				f.Egress(seg{from: at(self4, port), to: at(alice4, 80), flags: fSYN}.bytes())
				f.AppendReject(nil, udp(at(self4, port), at(alice4, 53), 1))
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				f.Sweep()
				f.Flows()
				f.Stats()
				f.TakeEvidence()
			}
		}
	})
	cut := 0
	for range 100 {
		f.Swap(allow)
		time.Sleep(time.Millisecond / 4)
		cut += len(f.Swap(deny))
		// From here on nothing may live that was admitted before.
		if flows := f.Flows(); len(flows) != 0 {
			t.Errorf("%d flows outlived the rules that admitted them", len(flows))
			break
		}
	}
	close(stop)
	wg.Wait()
	f.Swap(deny)
	if st := f.Stats(); st.Flows != 0 {
		t.Errorf("the table still counts %d flows", st.Flows)
	}
	for _, p := range f.registry.peers {
		if n := p.flows.Load(); n != 0 {
			t.Errorf("%s still counts %d flows", p.id, n)
		}
	}
	if cut == 0 {
		t.Error("nothing was ever cut: the test proves nothing")
	}
}

// A packet that finds its flow between the store of the new rules and the sweep of its shard is judged by the new ones.
func TestKnownFlowIsJudgedByTheRulesInForce(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)))
	passes(t, "before", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	r := f.prepare(policyOf())
	f.rules.Store(r)
	r.notAfter.Store(never)
	refused(t, "answer", f.Ingress(udp(at(alice4, 53), at(self4, 5000), 1)), ReasonCut)
	if cuts := f.Sweep(); len(cuts) != 1 {
		t.Errorf("Sweep reports %v", cuts)
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
			fmt.Sprint(acl.UDP, true):  {Src: at(self4, 5000), Dst: at(alice4, 53), Proto: acl.UDP, Out: true, Rule: ref(0), Opened: start, LastSeen: later, Packets: 2, Bytes: 90},
			fmt.Sprint(acl.ICMP, true): {Src: at(self4, 77), Dst: at(alice4, 0), Proto: acl.ICMP, Out: true, Rule: ref(0), Opened: later, LastSeen: later, Packets: 1, Bytes: 28},
			fmt.Sprint(acl.UDP, false): {Src: at(alice4, 6000), Dst: at(self4, 7), Proto: acl.UDP, Rule: ref(1), Opened: later, LastSeen: later, Packets: 1, Bytes: 30},
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Error(diff)
		}
		if st := f.Stats(); st.EgressPassed != 2 || st.IngressPassed != 2 {
			t.Errorf("stats %+v", st)
		}
	})
}
