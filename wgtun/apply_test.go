package wgtun

import (
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

// watched is an engine whose configuration a test sees before it is done, and may make fail.
type watched struct {
	engine
	mu     sync.Mutex
	before func(config string) error
}

// watch has f see what follows; it is called by whoever configures the device, one at a time.
func (w *watched) watch(f func(config string) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = f
}

func (w *watched) IpcSet(config string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.before != nil {
		if err := w.before(config); err != nil {
			return err
		}
	}
	return w.engine.IpcSet(config)
}

// watch makes a tunnel's engine a watched one.
func watch(t *Tunnel) *watched {
	w := new(watched)
	t.newEngine = func(d tun.Device, b conn.Bind, l *device.Logger) engine {
		w.engine = newWireguard(d, b, l)
		return w
	}
	return w
}

func hexKey(k key.TunnelPublic) string { return hex.EncodeToString(k[:]) }

// TestAddressMovesBetweenNodes follows an address from node a to node b through Apply at c: whenever the device is told
// anything, no packet with that address passes either way, and the old holder is gone before the new one comes
// (DESIGN.md section 6, rule 6).
func TestAddressMovesBetweenNodes(t *testing.T) {
	for _, stays := range []bool{false, true} {
		name := "the old holder leaves"
		if stays {
			name = "the old holder stays with its other address"
		}
		t.Run(name, func(t *testing.T) {
			nettest.Bubble(t, func(t *testing.T) { moveAddress(t, stays) })
		})
	}
}

func moveAddress(t *testing.T, stays bool) {
	w := newWorld(t, 2)
	a, b := w.nodes[0], w.nodes[1]
	c := w.newNode("c")
	var seen *watched
	c.start(func(t *Tunnel) { seen = watch(t) })
	moving := a.addrs[0]
	b.addrs = b.addrs[1:]
	w.apply(append(both(a, c), both(b, c)...)...)
	old := udpExchange{netip.AddrPortFrom(moving, 40000), netip.AddrPortFrom(c.addrs[0], 80)}
	other := udpExchange{netip.AddrPortFrom(a.addrs[1], 40000), netip.AddrPortFrom(c.addrs[1], 80)}
	for _, e := range []exchange{old, other} {
		if err := converse(a, c, e, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second) // WireGuard takes no two handshakes of a peer within 20 ms
	b.addrs = []netip.Addr{moving, b.addrs[0]}
	a.addrs = a.addrs[1:]
	grants := both(b, c)
	if stays {
		grants = append(grants, both(a, c)...)
	}

	var order []string
	port, applying := uint16(50000), true
	seen.watch(func(config string) error {
		switch {
		case strings.Contains(config, hexKey(a.tk.Public())) && strings.Contains(config, "remove=true"):
			order = append(order, "remove a")
		case strings.Contains(config, "allowed_ip="+moving.String()):
			order = append(order, "give to b")
		}
		if !applying {
			return nil
		}
		port++
		from, to := netip.AddrPortFrom(moving, port), netip.AddrPortFrom(c.addrs[0], 80)
		for _, p := range append(old.request(9), udpPacket(from, to, nil)) {
			if c.tunnel.filter.Ingress(p).Verdict == filter.Pass {
				t.Errorf("before %q a packet from the moving address passes inward", config)
			}
		}
		from, to = netip.AddrPortFrom(c.addrs[0], port), netip.AddrPortFrom(moving, 80)
		for _, p := range append(old.reply(9), udpPacket(from, to, nil)) {
			if c.tunnel.filter.Egress(p).Verdict == filter.Pass {
				t.Errorf("before %q a packet to the moving address passes outward", config)
			}
		}
		return nil
	})
	w.gen++
	applied, err := c.tunnel.Apply(w.state(c, testLease, grants...))
	if err != nil {
		t.Fatal(err)
	}
	applying = false
	if !c.tunnel.roster.wakeNode(b.id) {
		t.Error("the new holder is not woken")
	}
	if got := strings.Join(order, ", "); got != "remove a, give to b" {
		t.Errorf("order: %s", got)
	}
	wantCuts := 2
	if stays {
		wantCuts = 1
	}
	if len(applied.Cut) != wantCuts {
		t.Errorf("%d flows were cut, want %d", len(applied.Cut), wantCuts)
	}
	seen.watch(nil)
	for _, n := range []*node{a, b} {
		if _, err := n.tunnel.Apply(w.state(n, testLease, grants...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := converse(b, c, old, 0, 1, time.Second); err != nil {
		t.Errorf("the new holder: %v", err)
	}
	if stays {
		if err := converse(a, c, other, 2, 3, cutWithin); err != nil {
			t.Errorf("the flow of the address that stayed: %v", err)
		}
	}
}

// TestTunnelKeyHandover rotates b's tunnel key under a live flow: at a the flow is not cut, and no packet is lost.
func TestTunnelKeyHandover(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		live := udpExchange{netip.AddrPortFrom(a.addrs[0], 40000), netip.AddrPortFrom(b.addrs[0], 80)}
		if err := converse(a, b, live, 0, 3, time.Second); err != nil {
			t.Fatal(err)
		}
		opened := a.tunnel.Flows()[0].Opened
		b.stop()
		oldKey := b.tk.Public()
		b.tk, b.pk = key.NewTunnel(), key.NewProbe()
		b.start(nil)
		w.gen++
		applied, err := a.tunnel.Apply(w.state(a, testLease, both(a, b)...))
		if err != nil {
			t.Fatal(err)
		}
		if applied.Changed != 1 || applied.Added != 0 || applied.Removed != 0 || len(applied.Cut) != 0 {
			t.Errorf("applied %+v, want one change and no cut", applied)
		}
		if _, ok := a.tunnel.roster.peers[oldKey]; ok {
			t.Error("the old key is still there")
		}
		var packets [][]byte
		for i := range 20 {
			packets = append(packets, live.request(10+i)...)
		}
		for _, p := range packets[:10] {
			a.tun.Send(p) // before b knows anything of a
		}
		if _, err := b.tunnel.Apply(w.state(b, testLease, both(a, b)...)); err != nil {
			t.Fatal(err)
		}
		for _, p := range packets[10:] {
			a.tun.Send(p)
		}
		time.Sleep(6 * time.Second)
		if got := b.received(); len(got) != len(packets) {
			t.Errorf("%d of %d packets came through the handover", len(got), len(packets))
		}
		if f := a.tunnel.Flows(); len(f) != 1 || !f[0].Opened.Equal(opened) {
			t.Errorf("the flow did not live on: %+v", f)
		}
	})
}

// TestAddressMovesWhileItsHolderRotates: a new tunnel key of one device is a handover, but not of an address that goes to another node in
// the same State. The old key must be gone before the address comes to that node.
func TestAddressMovesWhileItsHolderRotates(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		c := w.newNode("c")
		var seen *watched
		c.start(func(t *Tunnel) { seen = watch(t) })
		grants := append(both(a, c), both(b, c)...)
		w.apply(grants...)
		c.awaken(a, b)
		moving, old := a.addrs[0], hexKey(a.tk.Public())
		a.addrs, b.addrs, a.tk = a.addrs[1:], append(b.addrs, moving), key.NewTunnel()
		var order []string
		seen.watch(func(config string) error {
			switch {
			case strings.Contains(config, old) && strings.Contains(config, "remove=true"):
				order = append(order, "remove the old key")
			case strings.Contains(config, "allowed_ip="+moving.String()):
				order = append(order, "give to b")
			}
			return nil
		})
		w.gen++
		if _, err := c.tunnel.Apply(w.state(c, testLease, grants...)); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(order, ", "); got != "remove the old key, give to b" {
			t.Errorf("order: %s", got)
		}
	})
}

// TestRemovalDoesNotWaitToTakeEffect stalls the TUN so that a peer's removal must wait: what it is to end has ended before (R14).
func TestRemovalDoesNotWaitToTakeEffect(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		live := udpExchange{netip.AddrPortFrom(a.addrs[0], 40000), netip.AddrPortFrom(b.addrs[0], 80)}
		if err := converse(a, b, live, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		b.tun.Stall()
		a.tun.Send(live.request(2)[0])
		synctest.Wait() // b's receive routine is in the blocked write now
		done := make(chan error, 1)
		go func() {
			_, err := b.tunnel.Apply(w.state(b, testLease))
			done <- err
		}()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Apply did not wait for the removal: %v", err)
		default:
		}
		if len(b.cutSoFar()) != 1 {
			t.Error("the cut waits for the removal")
		}
		if v := b.tunnel.filter.Ingress(live.request(3)[0]).Verdict; v == filter.Pass {
			t.Error("the removed peer's packets pass while its removal waits")
		}
		b.tun.Resume()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRunEndsDespiteABlockedRemoval ends the tunnel while a removal waits for a blocked write.
func TestRunEndsDespiteABlockedRemoval(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		live := udpExchange{netip.AddrPortFrom(a.addrs[0], 40000), netip.AddrPortFrom(b.addrs[0], 80)}
		if err := converse(a, b, live, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		b.tun.Stall()
		a.tun.Send(live.request(2)[0])
		synctest.Wait()
		done := make(chan struct{})
		go func() {
			_, _ = b.tunnel.Apply(State{})
			close(done)
		}()
		synctest.Wait()
		b.stop()
		<-done
		if _, err := b.tunnel.Apply(State{}); !errors.Is(err, ErrClosed) {
			t.Errorf("Apply after the end: %v", err)
		}
	})
}

// TestDeviceFailureFailsClosed makes the device refuse parts of a state: the nodes concerned are denied, the rest is in force,
// the error says so, and the next Apply puts it right.
func TestDeviceFailureFailsClosed(t *testing.T) {
	broken := errors.New("broken device")
	tests := []struct {
		name  string
		hurts func(config string, a, b *node) bool
		next  func(a, b, c *node) []grant
		fine  int // which node's flows still work after the failure; -1 none
	}{
		{
			name: "a new key cannot be added",
			hurts: func(config string, a, _ *node) bool {
				return strings.Contains(config, hexKey(a.tk.Public())) && strings.Contains(config, "endpoint=")
			},
			next: func(a, b, c *node) []grant {
				a.restart()
				return append(both(a, c), both(b, c)...)
			},
			fine: 1,
		},
		{
			name: "a peer cannot be removed",
			hurts: func(config string, _, b *node) bool {
				return strings.Contains(config, hexKey(b.tk.Public())) && strings.Contains(config, "remove=")
			},
			next: func(a, _, c *node) []grant { return both(a, c) },
			fine: 0,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			nettest.Bubble(t, func(t *testing.T) {
				w := newWorld(t, 2)
				a, b := w.nodes[0], w.nodes[1]
				c := w.newNode("c")
				var seen *watched
				c.start(func(t *Tunnel) { seen = watch(t) })
				w.apply(append(both(a, c), both(b, c)...)...)
				c.awaken(a, b)
				seen.watch(func(config string) error {
					if test.hurts(config, a, b) {
						return broken
					}
					return nil
				})
				grants := test.next(a, b, c)
				w.gen++
				_, err := c.tunnel.Apply(w.state(c, testLease, grants...))
				if !errors.Is(err, ErrIncomplete) || !errors.Is(err, broken) {
					t.Errorf("Apply: %v", err)
				}
				for i, n := range []*node{a, b} {
					if _, ok := c.tunnel.path.Status(n.tk.Public()); ok != (i == test.fine) {
						t.Errorf("node %s is among the paths: %v", n.id, ok)
					}
					if _, err := n.tunnel.Apply(w.state(n, testLease, grants...)); err != nil {
						t.Fatal(err)
					}
				}
				for i, n := range []*node{a, b} {
					e := udpExchange{netip.AddrPortFrom(n.addrs[0], 2), netip.AddrPortFrom(c.addrs[0], 80)}
					if err := converse(n, c, e, 0, 1, time.Second); (err == nil) != (i == test.fine) {
						t.Errorf("node %s after the failure: %v", n.id, err)
					}
				}
				seen.watch(nil)
				w.apply(grants...)
				for _, n := range []*node{a, b} {
					_, err := c.tunnel.Apply(w.state(c, testLease, append(both(a, c), both(b, c)...)...))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := n.tunnel.Apply(w.state(n, testLease, append(both(a, c), both(b, c)...)...)); err != nil {
						t.Fatal(err)
					}
					e := udpExchange{netip.AddrPortFrom(n.addrs[0], 3), netip.AddrPortFrom(c.addrs[0], 80)}
					time.Sleep(6 * time.Second) // WireGuard tries a handshake that got no answer again after 5 s
					if err := converse(n, c, e, 0, 1, time.Second); err != nil {
						t.Errorf("node %s after the repair: %v", n.id, err)
					}
				}
			})
		})
	}
}

// TestTakenAddressWaitsForItsRemoval has an address's old holder not leave the device: its next holder stays denied.
func TestTakenAddressWaitsForItsRemoval(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		c := w.newNode("c")
		var seen *watched
		c.start(func(t *Tunnel) { seen = watch(t) })
		w.apply(both(a, c)...)
		c.awaken(a)
		seen.watch(func(config string) error {
			if strings.Contains(config, "remove=") {
				return errors.New("broken device")
			}
			return nil
		})
		b.addrs, a.addrs = a.addrs, b.addrs
		if _, err := c.tunnel.Apply(w.state(c, testLease, both(b, c)...)); !errors.Is(err, ErrIncomplete) {
			t.Errorf("Apply: %v", err)
		}
		from, to := netip.AddrPortFrom(b.addrs[0], 1), netip.AddrPortFrom(c.addrs[0], 80)
		if c.tunnel.filter.Ingress(udpPacket(from, to, nil)).Verdict == filter.Pass {
			t.Error("the address passes although its old holder is still in the device")
		}
		seen.watch(nil)
		if _, err := c.tunnel.Apply(w.state(c, testLease, both(b, c)...)); err != nil {
			t.Error(err)
		}
		if c.tunnel.filter.Ingress(udpPacket(from, to, nil)).Verdict != filter.Pass {
			t.Error("the repaired address is still denied")
		}
	})
}

// TestPeerThatRestartedIsHeardAtOnce restarts b, whose sessions are gone while a still has one: what a sends must not go into
// the old session until WireGuard notices.
func TestPeerThatRestartedIsHeardAtOnce(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 0), 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // no keepalive is due now
		b.stop()
		b.pk = key.NewProbe()
		b.start(nil)
		open(w)
		if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 1), 0, 1, 2*time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestLostSessionIsFoundOut has a lose its session with b while b, told nothing, goes on sending into it.
func TestLostSessionIsFoundOut(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		live := flowKinds[1].make(b.addrs[0], a.addrs[0], 0)
		if err := converse(b, a, live, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // no keepalive is due now
		for _, s := range []State{w.state(a, testLease), w.state(a, testLease, both(a, b)...)} {
			if _, err := a.tunnel.Apply(s); err != nil {
				t.Fatal(err)
			}
		}
		// a asks for the path it gave up, so that b's datagrams are believed again.
		if _, _, err := a.tunnel.Ping(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		b.tun.Send(live.request(2)...) // is lost, and betrays the old session
		time.Sleep(cutWithin)
		if err := converse(b, a, flowKinds[1].make(b.addrs[0], a.addrs[0], 1), 0, 1, cutWithin); err != nil {
			t.Error(err)
		}
	})
}

func TestStateBeforeRunReachesTheDevice(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.nodes[0]
		b := w.newNode("b")
		open(w)
		b.start(func(tunnel *Tunnel) {
			if _, err := tunnel.Apply(w.state(b, testLease, both(a, b)...)); err != nil {
				t.Fatal(err)
			}
		})
		if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 0), 0, 1, 2*time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestAThousandMaps turns peers on and off and looks for what is left over.
func TestAThousandMaps(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		open(w)
		synctest.Wait()
		before := runtime.NumGoroutine()
		for i := range 1000 {
			switch i % 4 {
			case 0:
				w.apply(append(both(a, b), both(b, c)...)...)
			case 1:
				w.apply(both(a, c)...)
			case 2:
				w.apply(grant{from: a, to: b})
			case 3:
				w.apply()
			}
		}
		open(w)
		time.Sleep(time.Minute)
		synctest.Wait()
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines before, %d after", before, after)
		}
		if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 0), 0, 1, 2*time.Second); err != nil {
			t.Error(err)
		}
		w.apply()
		for _, other := range []*node{b, c} {
			if _, ok := a.tunnel.path.Status(other.tk.Public()); ok {
				t.Errorf("removed node %s is still among the paths", other.id)
			}
		}
	})
}

func TestRunFailsWhenItsPortIsTaken(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		host := nettest.New(1).Host(netip.MustParseAddr("192.0.2.1"))
		taken := host.Bind()
		if _, _, err := taken.Open(testPort); err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		tunnel, err := New(Config{TUN: nettest.NewTUN(DefaultMTU), Bind: host.Bind(), Port: testPort, Tunnel: key.NewTunnel(), Probe: key.NewProbe()})
		if err != nil {
			t.Fatal(err)
		}
		if err := tunnel.Run(context.Background()); err == nil {
			t.Error("Run came up on a port that is taken")
		}
		if err := tunnel.Run(context.Background()); err == nil {
			t.Error("a tunnel ran twice")
		}
	})
}

func TestRunFailsWhenTheTUNGoesAway(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		dev := nettest.NewTUN(DefaultMTU)
		tunnel, err := New(Config{TUN: dev, Bind: nettest.New(1).Host(netip.MustParseAddr("192.0.2.1")).Bind(), Tunnel: key.NewTunnel(), Probe: key.NewProbe()})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- tunnel.Run(context.Background()) }()
		<-tunnel.Ready()
		dev.Close()
		if err := <-done; err == nil {
			t.Error("Run did not say that its device went away")
		}
	})
}

// TestAddressIsNotGivenWhilePacketsAreUnderWay has a packet for an address's old holder lie between TUN and device while the
// address moves: the new holder must not be in the device before it has been put behind the old one, or dropped.
func TestAddressIsNotGivenWhilePacketsAreUnderWay(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		c := w.newNode("c")
		var seen *watched
		c.start(func(t *Tunnel) { seen = watch(t) })
		w.apply(both(a, c)...)
		c.awaken(a)
		given := false
		seen.watch(func(config string) error {
			given = given || strings.Contains(config, "allowed_ip=")
			return nil
		})
		synctest.Wait()
		c.tunnel.tun.reading.took(1, nil) // as Read does before it returns a packet
		b.addrs, a.addrs = a.addrs, b.addrs
		done := make(chan error, 1)
		go func() {
			_, err := c.tunnel.Apply(w.state(c, testLease, both(b, c)...))
			done <- err
		}()
		synctest.Wait()
		if c.tunnel.roster.wakeNode(b.id) || given {
			t.Error("the address was given away while a packet for its old holder was under way")
		}
		c.tunnel.tun.reading.begin() // as the next Read does
		if err := <-done; err != nil || !c.tunnel.roster.wakeNode(b.id) || !given {
			t.Errorf("Apply: %v, address given: %v", err, given)
		}
	})
}

// A packet passes, and waits for a handshake with b, which is not there yet. Then its rule goes. When b comes, still with its old rules, the packet
// must not be sent.
func TestPacketOfACutFlowDoesNotWaitForItsHandshake(t *testing.T) {
	for _, narrowed := range []bool{false, true} {
		nettest.Bubble(t, func(t *testing.T) {
			w := newWorld(t, 1)
			a, b := w.nodes[0], w.newNode("b")
			w.gen++
			grants := both(a, b)
			if _, err := a.tunnel.Apply(w.state(a, testLease, grants...)); err != nil {
				t.Fatal(err)
			}
			a.tun.Send(udpPacket(netip.AddrPortFrom(a.addrs[0], 9), netip.AddrPortFrom(b.addrs[0], 80), nil))
			synctest.Wait()
			if narrowed {
				w.gen++
				applied, err := a.tunnel.Apply(w.state(a, testLease, grants[1]))
				if err != nil || len(applied.Cut) != 1 || applied.Removed != 0 {
					t.Fatalf("%+v, %v", applied, err)
				}
			}
			b.start(nil)
			t.Cleanup(b.stop)
			if _, err := b.tunnel.Apply(w.state(b, testLease, grants...)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
			if got := len(b.received()); got != 1 && !narrowed || got != 0 && narrowed {
				t.Errorf("narrowed %v: %d packets came", narrowed, got)
			}
		})
	}
}
