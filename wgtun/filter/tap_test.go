package filter

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
)

// watched collects what a tap is shown.
type watched struct {
	mu   sync.Mutex
	seen []Sighting
}

func (w *watched) see(s Sighting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Packet = append([]byte(nil), s.Packet...)
	w.seen = append(w.seen, s)
}

// take returns the only sighting since the last call, and its packet; its time must be now.
func (w *watched) take(t *testing.T, what string) (s Sighting, pkt []byte) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) != 1 {
		t.Fatalf("%s: %d sightings", what, len(w.seen))
	}
	s, w.seen = w.seen[0], nil
	if d := time.Since(s.At); d < 0 || d > time.Minute {
		t.Errorf("%s: seen %v ago", what, d)
	}
	pkt, s.Packet, s.At = s.Packet, nil, time.Time{}
	return s, pkt
}

func TestTapSeesVerdictPeerAndRule(t *testing.T) {
	families(t, func(t *testing.T, self, alice netip.Addr) {
		f := newFilter(t)
		allow := acl.Rule{Ref: acl.Ref{Section: "grants", Index: 4, Line: 9}, Src: roles(roleSelf), Dst: roles(roleAlice), Ports: []acl.Ports{udpPort(53), whole4(acl.ICMP), {Proto: acl.ICMPv6, Last: 65535}}}
		in := acl.Rule{Ref: acl.Ref{Section: "grants", Index: 5, Line: 12}, Src: roles(roleAlice), Dst: roles(roleSelf), Ports: []acl.Ports{udpPort(53)}}
		deny := acl.Rule{Ref: acl.Ref{Section: "denies", Index: 0, Line: 30}, Src: roles(roleSelf), Dst: roles(roleAlice), Ports: []acl.Ports{udpPort(9)}}
		f.swapRules([]acl.Rule{allow, in}, []acl.Rule{deny}, nil)
		w := &watched{}
		defer f.Watch(&Tap{Passed: true, Denied: true, See: w.see})()
		request := udp(at(self, 5000), at(alice, 53), 1)
		d := newDatagram(alice, self, 7, 3000)
		proto := map[bool]acl.Proto{false: acl.ICMP, true: acl.ICMPv6}[self.Is6()]
		pass := Result{Verdict: Pass}
		for _, tt := range []struct {
			name string
			out  bool
			pkt  []byte
			want Sighting
		}{
			{"opens", true, request, Sighting{Local: at(self, 5000), Remote: at(alice, 53), Proto: acl.UDP, Result: pass, Rule: allow.Ref}},
			{"answers", false, udp(at(alice, 53), at(self, 5000), 1), Sighting{Local: at(self, 5000), Remote: at(alice, 53), Proto: acl.UDP, Result: pass, Rule: allow.Ref}},
			{"error about it", false, unreachable(alice, self, request), Sighting{Local: at(self, 0), Remote: at(alice, 0), Proto: proto, Result: pass, Rule: allow.Ref}},
			{"echo", true, echo(self, alice, 7, false), Sighting{Local: at(self, 0), Remote: at(alice, 0), Proto: proto, Result: pass, Rule: allow.Ref}},
			{"first fragment", false, d.piece(0, 1000), Sighting{Local: at(self, 53), Remote: at(alice, 5000), Proto: acl.UDP, Result: pass, Rule: in.Ref}},
			{"second", false, d.piece(1000, 2000), Sighting{Local: at(self, 0), Remote: at(alice, 0), Proto: acl.UDP, Result: pass, Rule: in.Ref}},
			{"last", false, d.piece(2000, 3008), Sighting{Local: at(self, 0), Remote: at(alice, 0), Proto: acl.UDP, Result: pass, Rule: in.Ref}},
			{"no rule", true, udp(at(self, 5000), at(alice, 54), 1), Sighting{Local: at(self, 5000), Remote: at(alice, 54), Proto: acl.UDP, Result: Result{Reject, ReasonNoRule}}},
			{"denied", true, udp(at(self, 5000), at(alice, 9), 1), Sighting{Local: at(self, 5000), Remote: at(alice, 9), Proto: acl.UDP, Result: Result{Reject, ReasonDenied}, Rule: deny.Ref}},
			{"refused of a peer", false, udp(at(alice, 53), at(self, 54), 1), Sighting{Local: at(self, 54), Remote: at(alice, 53), Proto: acl.UDP, Result: Result{Drop, ReasonNoRule}}},
		} {
			judge, dir := f.Ingress, ingress
			if tt.out {
				judge, dir = f.Egress, egress
			}
			if got := judge(tt.pkt); got != tt.want.Result {
				t.Errorf("%s: %v", tt.name, got)
			}
			got, pkt := w.take(t, tt.name)
			tt.want.Peer, tt.want.Out = "alice", dir == egress
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("%s: %s", tt.name, diff)
			}
			if diff := cmp.Diff(tt.pkt, pkt); diff != "" {
				t.Errorf("%s: %s", tt.name, diff)
			}
		}
	})
}

func TestTapOfStrangersAndRubbish(t *testing.T) {
	f := newFilter(t)
	w := &watched{}
	defer f.Watch(&Tap{Denied: true, See: w.see})()
	f.Egress(udp(at(self4, 5000), at(stranger, 53), 1))
	if s, _ := w.take(t, "stranger"); s.Peer != "" || s.Reason != ReasonUnknownPeer || s.Remote != at(stranger, 53) {
		t.Errorf("%+v", s)
	}
	f.Ingress([]byte{0x45})
	if s, pkt := w.take(t, "rubbish"); s.Remote.IsValid() || s.Verdict != Drop || len(pkt) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestTapsSeeWhatTheyWantUntilStopped(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)))
	allowed, refused := udp(at(self4, 5000), at(alice4, 53), 1), udp(at(self4, 5000), at(alice4, 54), 1)
	var passes, denials atomic.Int64
	count := func(n *atomic.Int64) func(Sighting) { return func(Sighting) { n.Add(1) } }
	stopPasses := f.Watch(&Tap{Passed: true, See: count(&passes)})
	stopDenials := f.Watch(&Tap{Denied: true, See: count(&denials)})
	f.Egress(allowed)
	f.Egress(refused)
	f.Egress(refused)
	stopPasses()
	stopPasses()
	f.Egress(allowed)
	f.Egress(refused)
	stopDenials()
	f.Egress(refused)
	if passes.Load() != 1 || denials.Load() != 3 {
		t.Errorf("%d passed, %d denied; want 1 and 3", passes.Load(), denials.Load())
	}
	if f.taps.Load() != nil {
		t.Error("packets still look for taps")
	}
}

// Taps come and go, and rules change, while packets pass and are refused.
func TestTapsUnderWay(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)), inRule(udpPort(53)))
	stop := make(chan struct{})
	var tasks sync.WaitGroup
	for i := range 3 {
		tasks.Go(func() {
			d := newDatagram(alice4, self4, uint16(i), 3000)
			for n := uint16(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				f.Egress(udp(at(self4, 5000), at(alice4, 53+n%2), 1))
				f.Ingress(d.piece(0, 1000))
				f.Ingress(d.piece(1000, 3008))
			}
		})
	}
	var seen atomic.Int64
	began := time.Now()
	for i := 0; i < 200 || seen.Load() == 0 && time.Since(began) < 10*time.Second; i++ { // on a busy machine nobody may have had a turn
		remove := f.Watch(&Tap{Passed: true, Denied: i%2 == 0, See: func(s Sighting) {
			if s.Verdict == Pass == (s.Reason != ReasonNone) {
				t.Errorf("verdict %v with reason %q", s.Verdict, s.Reason)
			}
			seen.Add(1)
		}})
		f.Swap(policyOf(outRule(udpPort(53)), inRule(udpPort(53))))
		remove()
	}
	close(stop)
	tasks.Wait()
	if seen.Load() == 0 {
		t.Error("nothing was seen")
	}
}

func TestWatchedPacketAllocatesNothing(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)))
	bytes := 0
	defer f.Watch(&Tap{Passed: true, Denied: true, See: func(s Sighting) { bytes += len(s.Packet) }})()
	for name, pkt := range map[string][]byte{"passed": udp(at(self4, 5000), at(alice4, 53), 1), "refused": udp(at(self4, 5000), at(alice4, 54), 1)} {
		if n := testing.AllocsPerRun(100, func() { f.Egress(pkt) }); n != 0 {
			t.Errorf("%s: %v allocations a packet", name, n)
		}
	}
}
