package filter

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// datagram is a UDP datagram of alice's to this node, to be cut in pieces.
type datagram struct {
	from, to netip.AddrPort
	payload  []byte
	id       uint16
}

func newDatagram(from, to netip.Addr, id uint16, data int) datagram {
	d := datagram{from: at(from, 5000), to: at(to, 53), id: id}
	whole := udp(d.from, d.to, data)
	d.payload = whole[len(whole)-8-data:]
	return d
}

// piece is the fragment of payload[from:to].
func (d datagram) piece(from, to int) []byte {
	more := to < len(d.payload)
	return d.raw(from, more, d.payload[from:to])
}

func (d datagram) raw(from int, more bool, payload []byte) []byte {
	if d.from.Addr().Is4() {
		return piece4(d.from.Addr(), d.to.Addr(), packet.ProtoUDP, d.id, from, more, payload)
	}
	return piece6(d.from.Addr(), d.to.Addr(), packet.ProtoUDP, uint32(d.id), from, more, payload)
}

func TestFragments(t *testing.T) {
	families(t, func(t *testing.T, self, alice netip.Addr) {
		admit := func(t *testing.T) *Filter { return newFilter(t, inRule(udpPort(53)), outRule(udpPort(53))) }
		for _, tt := range []struct {
			name string
			run  func(t *testing.T, f *Filter, d datagram)
		}{
			{"in order", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				passes(t, "second", f.Ingress(d.piece(1000, 2000)))
				passes(t, "last", f.Ingress(d.piece(2000, 3008)))
				refused(t, "more of a complete one", f.Ingress(d.piece(1000, 2000)), ReasonFragment)
				if n := f.Stats().Fragmented; n != 0 {
					t.Errorf("%d packets under way after the last fragment", n)
				}
			}},
			{"later ones in disorder", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				passes(t, "last", f.Ingress(d.piece(2000, 3008)))
				passes(t, "second", f.Ingress(d.piece(1000, 2000)))
			}},
			{"later one without first", func(t *testing.T, f *Filter, d datagram) {
				refused(t, "second", f.Ingress(d.piece(1000, 2000)), ReasonFragment)
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
			}},
			{"first refused by the rules", func(t *testing.T, f *Filter, d datagram) {
				binary.BigEndian.PutUint16(d.payload[2:], 54)
				refused(t, "first", f.Ingress(d.piece(0, 1000)), ReasonNoRule)
				refused(t, "second", f.Ingress(d.piece(1000, 2000)), ReasonFragment)
			}},
			{"the other direction", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				refused(t, "second, going out", f.Egress(d.piece(1000, 2000)), ReasonFragment)
			}},
			{"another id", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				d.id++
				refused(t, "second of another", f.Ingress(d.piece(1000, 2000)), ReasonFragment)
			}},
			{"another peer", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				d.from = at(map[bool]netip.Addr{true: bob4, false: bob6}[self.Is4()], 5000)
				refused(t, "bob's second", f.Ingress(d.piece(1000, 2000)), ReasonFragment)
			}},
			{"overlap by one piece", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				refused(t, "second", f.Ingress(d.piece(992, 2000)), ReasonFragmentClash)
				refused(t, "the right second", f.Ingress(d.piece(1000, 2000)), ReasonFragmentClash)
			}},
			{"second first over the ports", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				other := newDatagram(d.from.Addr(), d.to.Addr(), d.id, 3000)
				refused(t, "another first", f.Ingress(other.piece(0, 1008)), ReasonFragmentClash)
				refused(t, "second", f.Ingress(d.piece(1000, 2000)), ReasonFragmentClash)
			}},
			{"exact repetition", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				refused(t, "first again", f.Ingress(d.piece(0, 1000)), ReasonFragmentClash)
				passes(t, "second", f.Ingress(d.piece(1000, 2000)))
				refused(t, "second again", f.Ingress(d.piece(1000, 2000)), ReasonFragmentClash)
				passes(t, "last", f.Ingress(d.piece(2000, 3008)))
			}},
			{"inside another", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				refused(t, "inside the first", f.Ingress(d.piece(8, 16)), ReasonFragmentClash)
			}},
			{"beyond the last", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				passes(t, "last", f.Ingress(d.piece(2000, 3008)))
				refused(t, "beyond", f.Ingress(d.raw(3200, true, make([]byte, 8))), ReasonFragmentClash)
			}},
			{"last before others", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				passes(t, "third", f.Ingress(d.raw(2000, true, make([]byte, 8))))
				refused(t, "last that ends before it", f.Ingress(d.raw(1000, false, make([]byte, 8))), ReasonFragmentClash)
			}},
			{"two lasts", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				passes(t, "last", f.Ingress(d.piece(2000, 3008)))
				refused(t, "another last", f.Ingress(d.raw(1000, false, make([]byte, 8))), ReasonFragmentClash)
			}},
			{"first of 8 bytes and the rest", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first with only the header", f.Ingress(d.piece(0, 8)))
				passes(t, "rest", f.Ingress(d.piece(8, 3008)))
			}},
			{"too many pieces", func(t *testing.T, f *Filter, d datagram) {
				d = newDatagram(d.from.Addr(), d.to.Addr(), d.id, 8*(maxPieces+2))
				for i := range maxPieces {
					passes(t, "piece", f.Ingress(d.piece(8*i, 8*i+8)))
				}
				refused(t, "one too many", f.Ingress(d.piece(8*maxPieces, 8*maxPieces+8)), ReasonFragmentClash)
			}},
			{"tiny first", func(t *testing.T, f *Filter, d datagram) {
				syn := seg{from: at(alice, 1), to: at(self, 53), flags: fSYN}.bytes()
				d.payload = syn[len(syn)-20:]
				b := d.raw(0, true, d.payload[:16])
				if self.Is4() {
					b[9] = packet.ProtoTCP
					sum4(b)
				} else {
					b[40] = packet.ProtoTCP
				}
				refused(t, "TCP header in two", f.Ingress(b), reasonOfFault(packet.FaultTinyFragment))
			}},
			{"flow cut in between", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				if cuts := f.Swap(policyOf(outRule(udpPort(53)))); len(cuts) != 1 {
					t.Fatalf("cut %v", cuts)
				}
				refused(t, "second", f.Ingress(d.piece(1000, 2000)), ReasonCut)
				f.Swap(policyOf(inRule(udpPort(53))))
				passes(t, "the next datagram", f.Ingress(newDatagram(alice, self, d.id+1, 500).piece(0, 508)))
				refused(t, "second of the old", f.Ingress(d.piece(1000, 2000)), ReasonFragment)
				passes(t, "first again, after access was restored", f.Ingress(d.piece(0, 1000)))
			}},
			{"flow cut and opened again in between", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				f.Swap(policyOf())
				f.Swap(policyOf(inRule(udpPort(53))))
				passes(t, "another datagram", f.Ingress(newDatagram(alice, self, d.id+1, 500).piece(0, 508)))
				refused(t, "second of the cut flow", f.Ingress(d.piece(1000, 2000)), ReasonCut)
			}},
			{"flow reopened at the same instant under another peer's name", func(t *testing.T, f *Filter, d datagram) {
				passes(t, "first", f.Ingress(d.piece(0, 1000)))
				p := policyOf(inRule(udpPort(53)))
				p.Rules.Subjects[1].Node = "alice2"
				f.Swap(p)
				refused(t, "second", f.Ingress(d.piece(1000, 2000)), ReasonCut)
			}},
		} {
			t.Run(tt.name, func(t *testing.T) { tt.run(t, admit(t), newDatagram(alice, self, 77, 3000)) })
		}
	})
}

// An IPv6 receiver puts fragments together by addresses and id alone (RFC 8200 section 4.5): another next header makes no other packet of
// one that overlaps.
func TestNextHeaderTellsNoFragmentsApart(t *testing.T) {
	f := newFilter(t, inRule(udpPort(53), tcpPort(80)))
	d := newDatagram(alice6, self6, 77, 3000)
	passes(t, "first", f.Ingress(d.piece(0, 1000)))
	segment := seg{from: at(alice6, 1), to: at(self6, 80), flags: fSYN}.bytes()[40:]
	over := piece6(alice6, self6, packet.ProtoTCP, 77, 0, true, append(segment, make([]byte, 4)...))
	refused(t, "first of TCP over it", f.Ingress(over), ReasonFragmentClash)
	refused(t, "second", f.Ingress(d.piece(1000, 2000)), ReasonFragmentClash)
}

func TestFragmentsDoNotOutliveFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, inRule(udpPort(53)))
		d := newDatagram(alice4, self4, 1, 3000)
		passes(t, "first", f.Ingress(d.piece(0, 1000)))
		time.Sleep(fragmentLife - time.Millisecond)
		passes(t, "second in time", f.Ingress(d.piece(1000, 2000)))
		time.Sleep(time.Millisecond)
		refused(t, "last too late", f.Ingress(d.piece(2000, 3008)), ReasonFragment)
		passes(t, "first of the next with the same id", f.Ingress(d.piece(0, 1000)))
		advance(f, fragmentLife)
		if st := f.Stats(); st.Fragmented != 0 || len(f.frags.wholes) != 0 {
			t.Errorf("%d packets under way after Sweep", st.Fragmented)
		}
	})
}

func TestFragmentedEcho(t *testing.T) {
	f := newFilter(t, outRule(whole4(acl.ICMP)))
	whole := icmp(self4, alice4, packet.EchoRequest4, 0, make([]byte, 2004))[20:]
	passes(t, "first", f.Egress(piece4(self4, alice4, 1, 9, 0, true, whole[:1000])))
	passes(t, "last", f.Egress(piece4(self4, alice4, 1, 9, 1000, false, whole[1000:])))
	about := unreachable(alice4, self4, append(echo(self4, alice4, 0, false), make([]byte, 28)...))[20:]
	passes(t, "error in one", f.Ingress(ip(alice4, self4, 1, about)))
	refused(t, "error in fragments", f.Ingress(piece4(alice4, self4, 1, 9, 0, true, about[:56])), ReasonICMPQuote)
}

// Data of which only the first fragment shows its length must not put the rest of the connection out of window.
func TestFragmentedSegmentKeepsTheConnection(t *testing.T) {
	c := dial(t, newFilter(t, outRule(tcpPort(80))), at(self4, 40000), at(alice4, 80), true)
	b := c.inward(fACK, 4000).bytes()[20:]
	passes(t, "first", c.f.Ingress(piece4(alice4, self4, 6, 3, 0, true, b[:1024])))
	passes(t, "last", c.f.Ingress(piece4(alice4, self4, 6, 3, 1024, false, b[1024:])))
	c.rcv += 4000
	passes(t, "acknowledgment", c.send(fACK, 0))
	passes(t, "data", c.recv(fACK, 100))
	passes(t, "data", c.send(fACK, 100))
}

func TestFragmentFloodOfOnePeerLeavesRoomForOthers(t *testing.T) {
	any := acl.Rule{Src: roles(roleAny), Dst: roles(roleSelf), Ports: []acl.Ports{udpPort(53)}}
	f := NewWithLimits(Limits{Flows: 1000, Fragments: 100})
	f.Swap(policyOf(any))
	flood := 0
	for id := range uint16(1000) {
		switch got := f.Ingress(newDatagram(alice4, self4, id, 3000).piece(0, 1000)); {
		case got.Verdict == Pass:
			flood++
		case got.Reason != ReasonFragmentsFull:
			t.Fatalf("refused as %q", got.Reason)
		}
	}
	if flood > 50 || flood < 48 {
		t.Errorf("the flood took %d of 100", flood)
	}
	d := newDatagram(bob4, self4, 1, 3000)
	passes(t, "bob's first", f.Ingress(d.piece(0, 1000)))
	passes(t, "bob's last", f.Ingress(d.piece(1000, 3008)))
	if n := f.Stats().Fragmented; n != flood {
		t.Errorf("%d packets under way, want %d", n, flood)
	}
}

// Fragments of one packet in every order: the first opens the way, what came before it is lost, what comes after passes.
func TestEveryOrderOfFragments(t *testing.T) {
	families(t, func(t *testing.T, self, alice netip.Addr) {
		d := newDatagram(alice, self, 77, 2000)
		cuts := []int{0, 504, 1000, 1504, len(d.payload)}
		for order := range permutations(4) {
			f := newFilter(t, inRule(udpPort(53)))
			firstSeen := false
			for _, i := range order {
				firstSeen = firstSeen || i == 0
				got := f.Ingress(d.piece(cuts[i], cuts[i+1]))
				if (got.Verdict == Pass) != firstSeen {
					t.Errorf("order %v, piece %d: %v", order, i, got)
				}
			}
			if n, whole := f.Stats().Fragmented, order[0] == 0; (n == 0) != whole {
				t.Errorf("order %v: %d packets under way", order, n)
			}
		}
	})
}

// permutations yields the orders of n things.
func permutations(n int) func(func([]int) bool) {
	return func(yield func([]int) bool) {
		var place func(done []int) bool
		place = func(done []int) bool {
			if len(done) == n {
				return yield(done)
			}
			for i := range n {
				if !slices.Contains(done, i) && !place(append(slices.Clone(done), i)) {
					return false
				}
			}
			return true
		}
		place(nil)
	}
}

// First fragments of every protocol and size: none passes, and opens the way for others, but by a rule and with all that tells its flow.
func TestFragmentsOfEveryProtocol(t *testing.T) {
	f := newFilter(t, inRule(udpPort(53), tcpPort(80)))
	id := uint16(0)
	for proto := range 256 {
		for size := 8; size <= 64; size += 8 {
			id++
			b := make([]byte, 64)
			b[1], b[3], b[4], b[12], b[13] = 7, 53, 0xff, 0x50, fACK // a datagram that is allowed, or a segment of no connection
			got := f.Ingress(piece4(alice4, self4, uint8(proto), id, 0, true, b[:size]))
			if want := proto == packet.ProtoUDP; (got.Verdict == Pass) != want {
				t.Errorf("protocol %d, %d bytes: %v", proto, size, got)
			}
			later := f.Ingress(piece4(alice4, self4, uint8(proto), id, size, false, b[:size]))
			if later.Verdict != got.Verdict {
				t.Errorf("protocol %d, %d bytes: first %v, later one %v", proto, size, got, later)
			}
		}
	}
}

// A first fragment that finds no place must leave nothing: neither a flow nor a packet that counts as passed.
func TestFirstFragmentWithoutAPlaceOpensNothing(t *testing.T) {
	f := NewWithLimits(Limits{Flows: 1000, Fragments: 20})
	f.Swap(policyOf(inRule(udpPort(53))))
	passed := 0
	for i := range uint16(100) {
		d := newDatagram(alice4, self4, i, 1000)
		d.from = at(alice4, 1000+i)
		whole := udp(d.from, d.to, 1000)
		d.payload = whole[20:]
		if f.Ingress(d.piece(0, 504)).Verdict == Pass {
			passed++
		}
	}
	if st := f.Stats(); passed == 100 || st.Flows != passed || st.IngressPassed != uint64(passed) || st.Fragmented != passed {
		t.Errorf("%d fragments passed: %+v", passed, st)
	}
}
