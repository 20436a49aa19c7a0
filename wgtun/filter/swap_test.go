package filter

import (
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
				if len(cuts) != 1 || cuts[0].Cause != "policy" || cuts[0].Generation != p.Generation || cuts[0].Flow().Out != out {
					t.Fatalf("cut %+v", cuts)
				}
				resets(t, cuts[0].AppendReset(nil), c)
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
	resets(t, cuts[0].AppendReset(nil), c)
}

func TestResetOfAnUnansweredSYN(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80)), inRule(tcpPort(22)))
	passes(t, "SYN out", f.Egress(seg{from: at(self4, 40000), to: at(alice4, 80), seq: 500, flags: fSYN}.bytes()))
	passes(t, "SYN in", f.Ingress(seg{from: at(alice4, 50000), to: at(self4, 22), seq: 900, flags: fSYN}.bytes()))
	got := map[bool]packet.TCPSegment{}
	for _, c := range f.Swap(policyOf()) {
		got[c.Flow().Out] = parsed(t, c.AppendReset(nil)).TCP()
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
			if cuts := f.Swap(policyOf(back)); len(cuts) != 3 || cuts[0].AppendReset(nil) != nil {
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
	if len(cuts) != 1 || cuts[0].Flow().Dst != gone.remote || cuts[0].Generation != next.Generation {
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
				f.Census(50)
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
