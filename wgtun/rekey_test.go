package wgtun

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

// certify gives every node's State a next key of n, and returns it.
func (w *world) certify(n *node, grants ...grant) key.TunnelPrivate {
	w.t.Helper()
	next := key.NewTunnel()
	w.applyNext(map[*node]key.TunnelPublic{n: next.Public()}, grants...)
	return next
}

func (w *world) applyNext(next map[*node]key.TunnelPublic, grants ...grant) {
	w.t.Helper()
	w.gen++
	for _, n := range w.nodes {
		if _, err := n.tunnel.Apply(w.withNext(n, next, grants...)); err != nil {
			w.t.Fatalf("node %s: %v", n.id, err)
		}
	}
}

func (w *world) withNext(n *node, next map[*node]key.TunnelPublic, grants ...grant) State {
	s := w.state(n, testLease, grants...)
	for other, k := range next {
		for i := range s.Peers {
			if s.Peers[i].Node == other.id {
				s.Peers[i].Next = &k
			}
		}
	}
	return s
}

// rekey changes n's key and waits for its peers.
func (n *node) rekey(next key.TunnelPrivate) (without int) {
	n.w.t.Helper()
	k, err := n.tunnel.Rekey(next)
	if err != nil {
		n.w.t.Error(err)
		return -1
	}
	n.tk = next
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	return k.Wait(ctx)
}

// hasKey reports whether n's device has a peer with that key.
func (n *node) hasKey(k key.TunnelPublic) bool {
	text, _ := n.tunnel.roster.engine.IpcGet()
	return bytes.Contains([]byte(text), []byte(hexKey(k)))
}

// stream sends numbered datagrams both ways, 2,000 a second each, until stop is called; that returns what was lost.
type stream struct {
	a, b   *node
	e      udpExchange
	stop   context.CancelFunc
	done   sync.WaitGroup
	sent   int
	mu     sync.Mutex
	gotten [2]int
}

func startStream(a, b *node, e udpExchange) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{a: a, b: b, e: e, stop: cancel}
	for i, n := range []*node{a, b} {
		s.done.Go(func() {
			for {
				if _, err := n.tun.Recv(ctx); err != nil {
					return
				}
				s.mu.Lock()
				s.gotten[i]++
				s.mu.Unlock()
			}
		})
	}
	s.done.Go(func() {
		for ; ctx.Err() == nil; s.sent++ {
			for _, p := range e.request(s.sent) {
				a.tun.Send(p)
			}
			if s.sent > 0 { // after the flow is open
				for _, p := range e.reply(s.sent) {
					b.tun.Send(p)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Microsecond):
			}
			if s.sent == 0 {
				time.Sleep(time.Second)
			}
		}
	})
	return s
}

func (s *stream) end() (lost [2]int, total int) {
	time.Sleep(time.Second)
	s.stop()
	s.done.Wait()
	for i, n := range []*node{s.a, s.b} {
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			s.gotten[i] += len(n.received())
		}
	}
	return [2]int{s.sent - 1 - s.gotten[0], s.sent - s.gotten[1]}, s.sent
}

func newStream(a, b *node) *stream {
	return startStream(a, b, udpExchange{netip.AddrPortFrom(a.addrs[0], 40000), netip.AddrPortFrom(b.addrs[0], 80)})
}

// TestRekeyLosesNoPacket changes the key of either end, of both one after the other, and of both at one moment, again and again, under 2,000
// datagrams a second each way.
func TestRekeyLosesNoPacket(t *testing.T) {
	for _, tt := range []struct {
		name string
		who  func(a, b *node) []*node // whose keys change at one moment
	}{
		{"a", func(a, _ *node) []*node { return []*node{a} }},
		{"b", func(_, b *node) []*node { return []*node{b} }},
		{"both", func(a, b *node) []*node { return []*node{a, b} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nettest.Bubble(t, func(t *testing.T) {
				w := newWorld(t, 2)
				a, b := w.nodes[0], w.nodes[1]
				open(w)
				s := newStream(a, b)
				time.Sleep(2 * time.Second)
				for round := range 4 {
					rotating := tt.who(a, b)
					old, next := make(map[*node]key.TunnelPublic), make(map[*node]key.TunnelPublic)
					keys := make(map[*node]key.TunnelPrivate)
					for _, n := range rotating {
						keys[n] = key.NewTunnel()
						old[n], next[n] = n.tk.Public(), keys[n].Public()
					}
					w.applyNext(next, both(a, b)...)
					time.Sleep(6 * time.Second)
					for _, n := range rotating {
						if u := n.tunnel.Unready(next[n]); len(u) != 0 {
							t.Fatalf("round %d: node %s: %v do not know its next key", round, n.id, u)
						}
					}
					var wg sync.WaitGroup
					for _, n := range rotating {
						wg.Go(func() {
							began := time.Now()
							if without := n.rekey(keys[n]); without != 0 {
								t.Errorf("round %d: node %s: %d peers without a session after %v", round, n.id, without, time.Since(began))
							}
						})
					}
					wg.Wait()
					time.Sleep(2 * time.Second)
					for n, k := range old {
						other := a
						if n == a {
							other = b
						}
						if other.hasKey(k) || !other.hasKey(next[n]) {
							t.Errorf("round %d: node %s has %s's old key: %v, its new one: %v", round, other.id, n.id, other.hasKey(k), other.hasKey(next[n]))
						}
					}
					w.apply(both(a, b)...) // of the new keys alone
					time.Sleep(time.Second)
				}
				if lost, total := s.end(); lost != [2]int{} {
					t.Errorf("of %d datagrams each way %v were lost", total, lost)
				}
				if len(a.cutSoFar())+len(b.cutSoFar()) != 0 {
					t.Error("a flow was cut")
				}
			})
		})
	}
}

// TestRekeyBesideEverything has maps come, and peers be reaped, at any moment of a change.
func TestRekeyBesideEverything(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		s := newStream(a, b)
		time.Sleep(2 * time.Second)
		random := rand.New(rand.NewPCG(1, 2))
		for round := range 8 {
			next := w.certify(a, both(a, b)...)
			time.Sleep(6 * time.Second)
			var wg sync.WaitGroup
			stale := w.withNext(b, map[*node]key.TunnelPublic{a: next.Public()}, both(a, b)...) // names the former key still
			ctx, cancel := context.WithCancel(t.Context())
			pause := time.Duration(100+random.IntN(3000)) * time.Microsecond
			wg.Go(func() {
				for ctx.Err() == nil {
					if _, err := b.tunnel.Apply(stale); err != nil {
						t.Error(err)
					}
					b.tunnel.roster.reap()
					time.Sleep(pause)
				}
			})
			if without := a.rekey(next); without != 0 {
				t.Errorf("round %d: no session", round)
			}
			time.Sleep(20 * time.Millisecond)
			cancel()
			wg.Wait()
			if k := b.tunnel.roster.nodes[a.id].peer.Tunnel; k != next.Public() {
				t.Fatalf("round %d: a map that is older than the change brought the former key back", round)
			}
			w.apply(both(a, b)...)
		}
		lost, total := s.end()
		if lost[0] != 0 || lost[1] != 0 {
			t.Errorf("of %d datagrams each way %v were lost", total, lost)
		}
	})
}

// A change of rules waits for no peer that begins to change its key and goes no further.
func TestUnfinishedTakeoverHoldsNoCutUp(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		next := w.certify(a, both(a, b)...)
		if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 0), 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		b.tunnel.roster.rang(next.Public())
		if !b.tunnel.roster.over.any.Load() {
			t.Fatal("nothing is under way")
		}
		began := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := b.tunnel.Apply(w.state(b, testLease)); err != nil {
				t.Error(err)
			}
		}()
		for len(b.tunnel.Flows()) > 0 && time.Since(began) < time.Second {
			time.Sleep(time.Millisecond)
		}
		if d := time.Since(began); d >= settleTime/2 {
			t.Errorf("cut after %v", d)
		}
		<-done
	})
}

// A key that a peer takes up while a State is being applied waits for its end: steps under way go by the keys that the plan knows.
func TestNoKeyIsTakenOverUnderAnApply(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		next := w.certify(a, both(a, b)...)
		r := b.tunnel.roster
		r.settleTakeovers(nil)
		r.rang(next.Public())
		if got, _ := r.of(a.id); got.peer.Tunnel == next.Public() || r.over.any.Load() {
			t.Error("taken over under an Apply")
		}
		r.resumeTakeovers()
		time.Sleep(10 * time.Second)
		if got, _ := r.of(a.id); got.peer.Tunnel != next.Public() {
			t.Error("not taken over after it")
		}
	})
}

// TestRekeyOfSleepingPeers changes a key while nobody uses it: its owner's first packet is not lost, nor a peer's
// that a map has told of the new key.
func TestRekeyOfSleepingPeers(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		e := flowKinds[1].make(a.addrs[0], b.addrs[0], 0)
		if err := converse(a, b, e, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		for i, side := range [][2]*node{{a, b}, {a, b}, {b, a}} {
			next := w.certify(a, both(a, b)...)
			time.Sleep(untilReaped)
			if a.holds(b) || b.holds(a) {
				t.Fatal("not asleep")
			}
			if without := a.rekey(next); without != 0 {
				t.Error("waits for a peer that sleeps")
			}
			if i >= 1 {
				w.apply(both(a, b)...)
			}
			e := flowKinds[1].make(side[0].addrs[0], side[1].addrs[0], 1+i)
			if err := converse(side[0], side[1], e, 0, 2, time.Second); err != nil {
				t.Errorf("round %d: %v", i, err)
			}
			w.apply(both(a, b)...)
			if err := converse(side[0], side[1], e, 3, 3, time.Second); err != nil {
				t.Errorf("round %d, after the map: %v", i, err)
			}
		}
	})
}

// TestMapOvertakesThePing brings a peer's new key by a map before its ping does.
func TestMapOvertakesThePing(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		e := flowKinds[1].make(a.addrs[0], b.addrs[0], 0)
		if err := converse(a, b, e, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		a.tk = key.NewTunnel()
		if _, err := b.tunnel.Apply(w.state(b, testLease, both(a, b)...)); err != nil {
			t.Fatal(err)
		}
		if without := a.rekey(a.tk); without != 0 {
			t.Error("no session")
		}
		if err := converse(a, b, e, 2, 3, time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestFormerKeyIsRefused has a thief of a's former key, and of its probe key, come after the change, with a map that is older than it.
func TestFormerKeyIsRefused(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		e := flowKinds[1].make(a.addrs[0], b.addrs[0], 0)
		if err := converse(a, b, e, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		stolen := a.tk
		next := w.certify(a, both(a, b)...)
		old := w.withNext(b, map[*node]key.TunnelPublic{a: next.Public()}, both(a, b)...)
		for i := range old.Peers {
			old.Peers[i].Tunnel = stolen.Public()
		}
		if without := a.rekey(next); without != 0 {
			t.Fatal("no session")
		}
		time.Sleep(2 * formerLife)
		a.stop()
		a.tk = stolen
		a.start(nil)
		if _, err := a.tunnel.Apply(w.state(a, testLease, both(a, b)...)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.tunnel.Apply(old); err != nil {
			t.Fatal(err)
		}
		if err := passes(a, b, e.request(7), 20*time.Second); err == nil {
			t.Error("a packet under the former key passes")
		}
		if b.hasKey(stolen.Public()) {
			t.Error("the former key is in the device")
		}
	})
}

// TestHeirIsTold: whoever keeps certificates is told of a key that is taken up, in use and asleep, and not of one that a map brings.
func TestHeirIsTold(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		b.stop()
		var mu sync.Mutex
		var got, want []string
		b.start(func(t *Tunnel) {
			t.config.OnHeir = func(_ context.Context, node acl.NodeID, next key.TunnelPublic) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, string(node)+" "+next.Short())
			}
		})
		open(w)
		for round := range 3 {
			if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], round), 0, 1, time.Second); err != nil {
				t.Fatal(err)
			}
			next := w.certify(a, both(a, b)...)
			if round == 1 {
				time.Sleep(untilReaped)
			}
			if without := a.rekey(next); without != 0 {
				t.Error("no session")
			}
			time.Sleep(10 * time.Millisecond)
			want = append(want, string(a.id)+" "+next.Public().Short())
			if round == 1 { // a sleeping peer learns of it when it is pinged
				if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 5), 0, 1, time.Second); err != nil {
					t.Error(err)
				}
			}
			w.apply(both(a, b)...)
		}
		a.tk = key.NewTunnel()
		w.apply(both(a, b)...)
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
	})
}

// TestUncertifiedKeyIsNotTaken has a announce a key that no map names: nothing moves, and nothing is lost for a that goes back.
func TestUncertifiedKeyIsNotTaken(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		e := flowKinds[1].make(a.addrs[0], b.addrs[0], 0)
		if err := converse(a, b, e, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		rogue := key.NewTunnel()
		if u := a.tunnel.Unready(rogue.Public()); !slices.Equal(u, []acl.NodeID{b.id}) {
			t.Errorf("unready: %v, want b", u)
		}
		k, err := a.tunnel.Rekey(rogue)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if without := k.Wait(ctx); without != 1 {
			t.Error("a session under a key that nobody has certified")
		}
		if b.hasKey(rogue.Public()) {
			t.Error("taken over")
		}
		if err := passes(a, b, e.request(5), 10*time.Second); err == nil {
			t.Error("a packet passes under it")
		}
	})
}

// TestRekeyWithLoss loses a tenth of all datagrams around each change: the sessions stand within seconds all the same.
func TestRekeyWithLoss(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		e := flowKinds[1].make(a.addrs[0], b.addrs[0], 0)
		if err := converse(a, b, e, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		for round := range 20 {
			next := w.certify(a, both(a, b)...)
			time.Sleep(10 * time.Second)
			w.lossy(a, b, 0.1)
			if _, err := a.tunnel.Rekey(next); err != nil {
				t.Fatal(err)
			}
			a.tk = next
			time.Sleep(2 * time.Second)
			w.lossy(a, b, 0)
			if err := converse(a, b, e, 1, 1, 12*time.Second); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
			w.apply(both(a, b)...)
		}
	})
}

// lossy loses a share of what is sent between two nodes.
func (w *world) lossy(a, b *node, share float64) {
	w.net.SetDefault(nettest.Link{Latency: 10 * time.Millisecond, Loss: share})
}
