package wgtun

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/wgtun/nettest"
	"picket.internal/wgtun/path"
)

// hostile is a node without a filter: its device is joined to its TUN directly.
func (n *node) startHostile() {
	n.start(func(t *Tunnel) {
		t.newEngine = func(d tun.Device, b conn.Bind, l *device.Logger) engine {
			return newWireguard(n.tun, b, l)
		}
	})
}

func TestRefusedFlowFailsAtOnce(t *testing.T) {
	for family := range 2 {
		for _, kind := range flowKinds[:3] {
			t.Run(fmt.Sprintf("%s/%d", kind.name, family), func(t *testing.T) {
				nettest.Bubble(t, func(t *testing.T) {
					w := newWorld(t, 3)
					a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
					w.apply(append(both(a, b), both(b, c)...)...)
					for name, to := range map[string]*node{"a stranger": c, "a peer, the wrong way round": nil} {
						grants := both(a, b)
						if to == nil {
							to, grants = b, []grant{{from: b, to: a}}
						}
						w.apply(append(grants, both(b, c)...)...)
						for _, n := range w.nodes {
							n.received()
						}
						start := time.Now()
						a.tun.Send(kind.make(a.addrs[family], to.addrs[family], 0).request(0)...)
						answer := a.received()
						if time.Since(start) != 0 {
							t.Error("time passed")
						}
						refused := isProhibited
						if kind.name == "TCP" {
							refused = isReset
						}
						if len(answer) != 1 || !refused(answer[0]) {
							t.Errorf("%s: the local side got % x", name, answer)
						}
						if got := append(b.received(), c.received()...); len(got) != 0 {
							t.Errorf("%s: a refused packet arrived: % x", name, got)
						}
					}
				})
			})
		}
	}
}

func TestZeroTunnelRefusesEverything(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		for _, kind := range flowKinds {
			if err := converse(a, b, kind.make(a.addrs[0], b.addrs[0], 0), 0, 0, time.Second); err == nil {
				t.Errorf("%s passed before any Apply", kind.name)
			}
		}
		if n := w.net.Stats().Sent; n != 0 {
			t.Errorf("%d datagrams were sent without a peer", n)
		}
	})
}

// TestIngressJudgesAHostilePeer has a peer without a filter send what its rules forbid, and what is not its own.
func TestIngressJudgesAHostilePeer(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		c := w.newNode("c")
		c.startHostile()
		w.apply(append(both(a, b), grant{from: b, to: c})...)
		if err := converse(b, c, flowKinds[1].make(b.addrs[0], c.addrs[0], 0), 0, 1, time.Second); err != nil {
			t.Fatal(err) // there is a session, so that what follows is refused by rules and not for want of one
		}
		to := netip.AddrPortFrom(b.addrs[0], 80)
		for name, p := range map[string][]byte{
			"UDP without a rule":         udpPacket(netip.AddrPortFrom(c.addrs[0], 9), to, nil),
			"TCP without a rule":         tcpPacket(netip.AddrPortFrom(c.addrs[0], 9), to, 1, 0, tcpSYN, nil),
			"an ACK of no flow":          tcpPacket(netip.AddrPortFrom(c.addrs[0], 80), netip.AddrPortFrom(b.addrs[0], 9), 1, 1, tcpACK, nil),
			"an echo reply of no flow":   echoPacket(c.addrs[0], b.addrs[0], true, 1, 1),
			"a peer's address":           udpPacket(netip.AddrPortFrom(a.addrs[0], 9), to, nil),
			"our own address":            udpPacket(netip.AddrPortFrom(b.addrs[0], 9), to, nil),
			"an address of nobody":       udpPacket(netip.MustParseAddrPort("8.8.8.8:9"), to, nil),
			"a destination that is away": udpPacket(netip.AddrPortFrom(c.addrs[0], 9), netip.AddrPortFrom(a.addrs[0], 80), nil),
			"a later fragment":           udpFragments(netip.AddrPortFrom(c.addrs[0], 80), netip.AddrPortFrom(b.addrs[0], 9), 5)[1],
		} {
			c.tun.Send(p)
			time.Sleep(time.Millisecond)
			if got := b.received(); len(got) != 0 {
				t.Errorf("%s was delivered: % x", name, got)
			}
		}
	})
}

// TestReplayedInitiationFromAStrangerIsNotAnswered removes and re-adds a peer, after which wireguard-go would answer a recorded
// handshake initiation once more; the answer must not go where the recording was played from (R12).
func TestReplayedInitiationFromAStrangerIsNotAnswered(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		const initiation, initiationSize = 1, 148
		stranger := netip.MustParseAddrPort("203.0.113.9:4242")
		var mu sync.Mutex
		var recorded [][]byte
		toStranger := 0
		w.net.Tap(func(d nettest.Datagram) {
			mu.Lock()
			defer mu.Unlock()
			if len(d.Payload) == initiationSize && d.Payload[0] == initiation && d.To == a.outer {
				recorded = append(recorded, append([]byte(nil), d.Payload...))
			}
			if d.To == stranger {
				toStranger++
			}
		})
		open(w)
		if err := converse(b, a, flowKinds[1].make(b.addrs[0], a.addrs[0], 0), 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		replay := recorded
		mu.Unlock()
		if len(replay) == 0 {
			t.Fatal("no initiation was recorded")
		}
		b.stop()
		if _, err := a.tunnel.Apply(w.state(a, testLease)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.tunnel.Apply(w.state(a, testLease, both(a, b)...)); err != nil {
			t.Fatal(err)
		}
		h := w.net.Host(stranger.Addr())
		for _, p := range replay {
			h.Inject(stranger, a.outer, p)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if toStranger != 0 {
			t.Errorf("%d datagrams went to the stranger", toStranger)
		}
	})
}

func TestLeaseIsExtendedAndNeverShortened(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		w.applyFor(time.Minute, both(a, b)...)
		live := flowKinds[1].make(a.addrs[0], b.addrs[0], 0)
		if err := converse(a, b, live, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		for _, n := range w.nodes {
			n.tunnel.Extend(time.Now().Add(3 * time.Minute))
			n.tunnel.Extend(time.Now().Add(time.Second))
		}
		for i := range 4 {
			time.Sleep(40 * time.Second)
			if err := converse(a, b, live, 2+i, 2+i, time.Second); err != nil {
				t.Fatalf("%d s into the extended lease: %v", 40*(i+1), err)
			}
		}
		time.Sleep(21 * time.Second)
		if err := converse(a, b, live, 9, 9, time.Second); err == nil {
			t.Error("the flow outlives the extended lease")
		}
		for _, n := range w.nodes {
			n.tunnel.Extend(time.Now().Add(time.Hour))
		}
		if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 1), 0, 1, time.Second); err != nil {
			t.Errorf("an extension after the lapse: %v", err)
		}
	})
}

// TestNarrowingKeepsOtherFlows cuts one of three flows.
func TestNarrowingKeepsOtherFlows(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.apply(append(both(a, b), both(a, c)...)...)
		ab := flowKinds[0].make(a.addrs[0], b.addrs[0], 0)
		ba := flowKinds[0].make(b.addrs[1], a.addrs[1], 0)
		ac := flowKinds[0].make(a.addrs[0], c.addrs[0], 0)
		for _, f := range []struct {
			from, to *node
			e        exchange
		}{{a, b, ab}, {b, a, ba}, {a, c, ac}} {
			if err := converse(f.from, f.to, f.e, 0, 2, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		w.apply(append(both(a, c), grant{from: b, to: a})...)
		if err := converse(b, a, ba, 3, 4, 0); err != nil {
			t.Errorf("the other way: %v", err)
		}
		if err := converse(a, c, ac, 3, 4, 0); err != nil {
			t.Errorf("the other peer: %v", err)
		}
		if err := passes(a, b, ab.request(3), 0); err == nil {
			t.Error("the flow that lost its rule still passes")
		}
		if cuts := a.cutSoFar(); len(cuts) != 1 {
			t.Errorf("%d flows were cut, want 1", len(cuts))
		}
	})
}

func TestPingAndStats(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		w.net.SetDefault(nettest.Link{Latency: 10 * time.Millisecond})
		open(w)
		if _, _, err := a.tunnel.Ping(t.Context(), "nobody"); err == nil {
			t.Error("a ping to nobody was answered")
		}
		rtt, from, err := a.tunnel.Ping(t.Context(), b.id)
		if err != nil || rtt < 20*time.Millisecond || rtt > time.Second || from != b.outer {
			t.Errorf("ping: %v from %v, %v", rtt, from, err)
		}
		if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 0), 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		s := a.tunnel.Stats()
		if s.Generation != w.gen || s.Port != testPort || len(s.Peers) != 1 || s.Filter.Flows != 1 {
			t.Fatalf("stats: %+v", s)
		}
		if p := s.Peers[0]; p.Node != b.id || p.Path.Kind != "direct" || p.Path.Addr != b.outer || p.LastHandshake.IsZero() || p.RxBytes == 0 || p.TxBytes == 0 {
			t.Errorf("peer: %+v", p)
		}
	})
}

// TestHintLeadsToAPeer has b move where its map's candidates do not point.
func TestHintLeadsToAPeer(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		real := b.outer
		b.outer = netip.MustParseAddrPort("192.0.2.200:9")
		sa, sb := w.state(a, testLease, both(a, b)...), w.state(b, testLease, both(a, b)...)
		sb.Peers[0].Candidates = nil // b does not know where a is either
		for n, s := range map[*node]State{a: sa, b: sb} {
			if _, err := n.tunnel.Apply(s); err != nil {
				t.Fatal(err)
			}
		}
		e := flowKinds[1].make(a.addrs[0], b.addrs[0], 0)
		if err := passes(a, b, e.request(0), 5*time.Second); err == nil {
			t.Fatal("b was found where it is not")
		}
		a.tunnel.Hint("nobody", []netip.AddrPort{real}, path.Home{})
		a.tunnel.Hint(b.id, []netip.AddrPort{real}, path.Home{})
		if err := passes(a, b, e.request(1), 10*time.Second); err == nil {
			return
		}
		// What was held for want of a path may have come along with it.
		if err := converse(a, b, e, 2, 3, time.Second); err != nil {
			t.Error(err)
		}
	})
}

// A peer with a session sends what WireGuard drops after it was decrypted: packets with another's address. Those of others are not held up for
// each of its batches.
func TestDroppedPacketsOfAPeerHoldNobodyUp(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		c := w.newNode("c")
		c.startHostile()
		w.apply(append(both(a, b), both(b, c)...)...)
		for _, n := range []*node{a, c} {
			if err := converse(b, n, flowKinds[1].make(b.addrs[0], n.addrs[0], 0), 0, 1, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		const batches = 100
		spoofed := udpPacket(netip.AddrPortFrom(a.addrs[0], 9), netip.AddrPortFrom(b.addrs[0], 80), nil)
		honest := udpPacket(netip.AddrPortFrom(a.addrs[0], 10), netip.AddrPortFrom(b.addrs[0], 80), nil)
		var blocked time.Duration
		for range batches {
			for range maxInside {
				c.tun.Send(spoofed)
			}
			synctest.Wait()
			began := time.Now()
			if err := passes(a, b, [][]byte{honest}, time.Second); err != nil {
				t.Fatal(err)
			}
			blocked += time.Since(began)
		}
		if got := b.tunnel.in.inside.Load(); got > maxInside<<maxDoublings+maxInside {
			t.Errorf("%d packets are taken to be inside", got)
		}
		t.Logf("%d honest packets were held up for %v", batches, blocked)
		if blocked > batches*lostAfter/4 {
			t.Errorf("%d honest packets were held up for %v", batches, blocked)
		}
	})
}
