package wgtun

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

// cutWithin is how long after its cause a flow may still pass, in virtual time: no cause waits for more than one sweep.
const cutWithin = 200 * time.Millisecond

// kill is a way for a flow to lose its permission, and to get it back. after is how long after cause the loss is due.
type kill struct {
	name    string
	setUp   func(w *world) // nil: both grants, the usual lease
	cause   func(w *world) (after time.Duration)
	restore func(w *world)
}

func open(w *world) { w.apply(both(w.nodes[0], w.nodes[1])...) }

func (w *world) timed(until time.Time) []grant {
	a, b := w.nodes[0], w.nodes[1]
	return []grant{{from: a, to: b, until: until}, {from: b, to: a, until: until}}
}

var kills = []kill{
	{
		name: "policy",
		cause: func(w *world) time.Duration {
			// The two stay peers: a third grant, for another opener, keeps them in each other's maps.
			w.apply(grant{from: w.nodes[1], to: w.nodes[0]})
			return 0
		},
		restore: open,
	},
	{
		name:    "removal",
		cause:   func(w *world) time.Duration { w.apply(); return 0 },
		restore: open,
	},
	{
		name: "device change",
		cause: func(w *world) time.Duration {
			// The node id and its addresses are now another machine's, which is not there.
			b := w.nodes[1]
			device, tk, pk := b.device, b.tk, b.pk
			b.device, b.tk, b.pk = key.NewDevice().Public(), key.NewTunnel(), key.NewProbe()
			w.gen++
			if _, err := w.nodes[0].tunnel.Apply(w.state(w.nodes[0], testLease, both(w.nodes[0], b)...)); err != nil {
				w.t.Fatal(err)
			}
			b.device, b.tk, b.pk = device, tk, pk
			if _, err := b.tunnel.Apply(w.state(b, testLease)); err != nil {
				w.t.Fatal(err)
			}
			return 0
		},
		restore: open,
	},
	{
		name:    "deadline",
		setUp:   func(w *world) { w.apply(w.timed(time.Now().Add(time.Minute))...) },
		cause:   func(w *world) time.Duration { return time.Minute },
		restore: open,
	},
	{
		name:    "lease",
		setUp:   func(w *world) { w.applyFor(time.Minute, both(w.nodes[0], w.nodes[1])...) },
		cause:   func(w *world) time.Duration { return time.Minute },
		restore: open,
	},
	{
		name: "lease given up",
		cause: func(w *world) time.Duration {
			w.applyFor(0, both(w.nodes[0], w.nodes[1])...)
			return 0
		},
		restore: open,
	},
	{
		name: "quarantine: the zero State",
		cause: func(w *world) time.Duration {
			for _, n := range w.nodes {
				if _, err := n.tunnel.Apply(State{}); err != nil {
					w.t.Fatal(err)
				}
			}
			return 0
		},
		restore: open,
	},
}

// TestKillPath is the one kill path: every cause against every kind of flow, in both families, each cut at both ends, and each
// working again at once when permission comes back (DESIGN.md section 6, rules 5 and 7).
func TestKillPath(t *testing.T) {
	for _, k := range kills {
		for _, kind := range flowKinds {
			for family, name := range []string{"IPv4", "IPv6"} {
				t.Run(fmt.Sprintf("%s/%s/%s", k.name, kind.name, name), func(t *testing.T) {
					nettest.Bubble(t, func(t *testing.T) {
						w := newWorld(t, 2)
						killAndRestore(t, w, k, func(n int) exchange {
							return kind.make(w.nodes[0].addrs[family], w.nodes[1].addrs[family], n)
						})
					})
				})
			}
		}
	}
}

func killAndRestore(t *testing.T, w *world, k kill, make func(n int) exchange) {
	a, b := w.nodes[0], w.nodes[1]
	setUp := k.setUp
	if setUp == nil {
		setUp = open
	}
	setUp(w)
	start := time.Now()
	live := make(0)
	if err := converse(a, b, live, 0, 3, time.Second); err != nil {
		t.Fatalf("before: %v", err)
	}
	due := start.Add(k.cause(w))
	if wait := time.Until(due); wait > 0 {
		time.Sleep(wait - time.Second)
		if err := converse(a, b, live, 4, 4, 0); err != nil {
			t.Fatalf("a second before its end: %v", err)
		}
		time.Sleep(time.Until(due) + cutWithin)
	}
	wasReset := anyPacket(append(a.received(), b.received()...), isReset)
	if _, tcp := live.(tcpExchange); tcp != wasReset {
		t.Errorf("a reset was seen: %v, want %v", wasReset, tcp)
	}
	for _, n := range w.nodes {
		if cuts := n.cutSoFar(); len(cuts) != 1 {
			t.Errorf("node %s told of %d cuts, want 1: %v", n.id, len(cuts), cuts)
		}
		if flows := n.tunnel.Flows(); len(flows) != 0 {
			t.Errorf("node %s still has flows: %v", n.id, flows)
		}
	}
	if err := passes(a, b, live.request(5), 0); err == nil {
		t.Error("the opener's packet still passes")
	}
	if err := passes(b, a, live.reply(5), 0); err == nil {
		t.Error("the answerer's packet still passes")
	}
	k.restore(w)
	if err := converse(a, b, make(1), 0, 3, cutWithin); err != nil {
		t.Errorf("restored: %v", err)
	}
}

func anyPacket(packets [][]byte, is func([]byte) bool) bool {
	for _, p := range packets {
		if is(p) {
			return true
		}
	}
	return false
}

// TestOneHonestEndCuts has only one end learn of the narrower policy: the flow must still end.
func TestOneHonestEndCuts(t *testing.T) {
	for _, kind := range flowKinds {
		for told := range 2 {
			t.Run(fmt.Sprintf("%s/told %d", kind.name, told), func(t *testing.T) {
				nettest.Bubble(t, func(t *testing.T) {
					w := newWorld(t, 2)
					a, b := w.nodes[0], w.nodes[1]
					open(w)
					live := kind.make(a.addrs[0], b.addrs[0], 0)
					if err := converse(a, b, live, 0, 2, time.Second); err != nil {
						t.Fatal(err)
					}
					n := w.nodes[told]
					w.gen++
					if _, err := n.tunnel.Apply(w.state(n, testLease, grant{from: b, to: a})); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if err := passes(a, b, live.request(3), 0); err == nil {
						t.Error("the opener's packet still passes")
					}
					if err := passes(b, a, live.reply(3), 0); err == nil {
						t.Error("the answerer's packet still passes")
					}
				})
			})
		}
	}
}

// TestTombstone has the answering side go on sending after the cut, under rules that would let it open the same tuple itself.
func TestTombstone(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		// The opener's port is 80 as well, so that the rule from b to a fits the reverse tuple.
		live := udpExchange{netip.AddrPortFrom(a.addrs[0], 80), netip.AddrPortFrom(b.addrs[0], 80)}
		if err := converse(a, b, live, 0, 2, time.Second); err != nil {
			t.Fatal(err)
		}
		w.apply(grant{from: b, to: a})
		for i := range 5 {
			if err := passes(b, a, live.reply(3+i), 0); err == nil {
				t.Fatal("the answering side re-opened a cut flow the other way")
			}
			time.Sleep(time.Second)
		}
		if got := a.tunnel.Stats().Filter; got.Flows != 0 {
			t.Errorf("%d flows are live", got.Flows)
		}
	})
}
