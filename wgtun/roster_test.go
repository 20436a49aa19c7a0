package wgtun

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/acl"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

// untilReaped is longer than it takes until a silent peer is reaped: the paths ask for it 2 minutes longer, and two rounds pass.
const untilReaped = 2*time.Minute + reapAfter + 3*reapInterval

// holds reports whether the node's device has a peer.
func (n *node) holds(p *node) bool {
	synctest.Wait()
	text, _ := n.tunnel.roster.engine.IpcGet()
	return strings.Contains(text, hexKey(p.tk.Public()))
}

// TestFirstPacketOfASleepingPeer has peers be reaped and wakes them, from either side and by every kind of flow, and looks for packets that
// are lost or late on the way. What a handshake needs, WireGuard tries again only after 5 seconds.
func TestFirstPacketOfASleepingPeer(t *testing.T) {
	for _, kind := range flowKinds {
		t.Run(kind.name, func(t *testing.T) {
			nettest.Bubble(t, func(t *testing.T) {
				w := newWorld(t, 2)
				a, b := w.nodes[0], w.nodes[1]
				open(w)
				for i, side := range [][2]*node{{a, b}, {b, a}, {a, b}} {
					if a.holds(b) || b.holds(a) {
						t.Fatalf("round %d: a peer that nobody uses is in the device", i)
					}
					e := kind.make(side[0].addrs[0], side[1].addrs[0], i)
					if err := converse(side[0], side[1], e, 0, 1, time.Second); err != nil {
						t.Errorf("round %d: %v", i, err)
					}
					if !a.holds(b) || !b.holds(a) {
						t.Errorf("round %d: a peer in use is not in the device", i)
					}
					time.Sleep(untilReaped)
				}
			})
		})
	}
}

// TestOneSideSleeps has only one of two peers be reaped, and the other one send.
func TestOneSideSleeps(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], 0), 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			time.Sleep(untilReaped)
			b.awaken(a)
			if a.holds(b) || !b.holds(a) {
				t.Fatalf("round %d: a holds b: %v, b holds a: %v", i, a.holds(b), b.holds(a))
			}
			from, to := a, b
			if i == 1 {
				from, to = b, a
			}
			if err := converse(from, to, flowKinds[1].make(from.addrs[0], to.addrs[0], 1+i), 0, 1, time.Second); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestIdleFlowOutlivesItsPeersReaping leaves a TCP connection idle, as people leave terminals open, and goes on with it from either end.
func TestIdleFlowOutlivesItsPeersReaping(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		e := flowKinds[0].make(a.addrs[0], b.addrs[0], 0)
		if err := converse(a, b, e, 0, 3, time.Second); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			time.Sleep(15 * time.Minute)
			if a.holds(b) || b.holds(a) {
				t.Error("the idle peer is in the device")
			}
			if err := converse(a, b, e, 4+i, 4+i, time.Second); err != nil {
				t.Errorf("after 15 minutes: %v", err)
			}
		}
		if len(a.cutSoFar()) != 0 || len(a.tunnel.Flows()) != 1 {
			t.Errorf("%d flows were cut, %d live", len(a.cutSoFar()), len(a.tunnel.Flows()))
		}
	})
}

// TestPeerInUseIsNotReaped has a peer be sent to, or heard, but not both, and seldom.
func TestPeerInUseIsNotReaped(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		for i := range 12 {
			e := udpExchange{addrPort(a, uint16(40000+i)), addrPort(b, 80)}
			if err := passes(a, b, e.request(0), time.Second); err != nil {
				t.Fatal(err)
			}
			time.Sleep(reapAfter - time.Second)
			if !a.holds(b) || !b.holds(a) {
				t.Fatalf("after packet %d a peer was reaped", i)
			}
		}
	})
}

// TestReapingTakesTwoRounds has a packet pass, by the way that needs no look at the roster, before a peer is made drowsy: it may still be on its
// way into the device when the next round comes, so the round after that is the first to reap.
func TestReapingTakesTwoRounds(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.nodes[0]
		b := w.newNode("b") // nowhere
		w.apply(both(a, b)...)
		packet := udpPacket(addrPort(a, 40000), addrPort(b, 80), nil)
		r := a.tunnel.roster
		ready := func(packet []byte) bool {
			_, ok := a.tunnel.tun.outgoing.ready(packet)
			return ok
		}
		for range 2 { // the second is the one that needs no look
			if !ready(packet) {
				t.Fatal("a permitted peer is not woken")
			}
		}
		time.Sleep(reapAfter - reapInterval/2) // between two of the roster's own rounds, as all that follows
		time.Sleep(reapInterval)
		if !a.holds(b) {
			t.Fatal("reaped in the round that found it silent")
		}
		if !ready(packet) {
			t.Error("a drowsy peer is not woken")
		}
		r.reap()
		if !a.holds(b) {
			t.Error("reaped although a packet had passed since the round before")
		}
		r.reap()
		if a.holds(b) {
			t.Error("not reaped although nothing had passed since the round before")
		}
		if !ready(packet) || !a.holds(b) {
			t.Error("a reaped peer is not woken")
		}
	})
}

// TestCountersOutliveReaping compares what is told of a peer before and after it was reaped, woken, and rotated its key.
func TestCountersOutliveReaping(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		var last PeerStats
		check := func(when string, awake bool) {
			t.Helper()
			synctest.Wait()
			s := a.tunnel.Stats()
			if len(s.Peers) != 1 {
				t.Fatalf("%s: %d peers", when, len(s.Peers))
			}
			p := s.Peers[0]
			if p.Awake != awake || p.RxBytes < last.RxBytes || p.TxBytes < last.TxBytes || p.LastHandshake.Before(last.LastHandshake) {
				t.Errorf("%s: %+v after %+v", when, p, last)
			}
			answer := a.tunnel.answerUAPI(getOperation)
			for _, want := range []string{
				"public_key=" + hexKey(b.tk.Public()), fmt.Sprintf("rx_bytes=%d\n", p.RxBytes), fmt.Sprintf("tx_bytes=%d\n", p.TxBytes),
				"allowed_ip=" + b.addrs[0].String() + "/32", fmt.Sprintf("last_handshake_time_sec=%d\n", p.LastHandshake.Unix()),
			} {
				if strings.Count(answer, want) != 1 {
					t.Errorf("%s: %q is %d times in\n%s", when, want, strings.Count(answer, want), answer)
				}
			}
			last = p
		}
		talk := func(i int) {
			if err := converse(a, b, flowKinds[1].make(a.addrs[0], b.addrs[0], i), 0, 1, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		talk(0)
		check("in use", true)
		time.Sleep(untilReaped)
		check("reaped", false)
		a.awaken(b)
		check("woken without a handshake", true)
		talk(1)
		check("in use again", true)
		b.restart()
		open(w)
		check("after b's key has changed", true)
		talk(2)
		time.Sleep(untilReaped)
		check("reaped under its new key", false)
		if last.RxBytes == 0 || last.TxBytes == 0 || last.LastHandshake.IsZero() {
			t.Errorf("nothing was counted: %+v", last)
		}
	})
}

// TestNobodyIsWokenWhoMayNotBe asks for those whom the State in force does not name, or names under another key.
func TestNobodyIsWokenWhoMayNotBe(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.apply(append(both(a, b), both(a, c)...)...)
		packet := udpPacket(addrPort(a, 40000), addrPort(b, 80), nil)
		if _, ok := a.tunnel.tun.outgoing.ready(packet); !ok {
			t.Fatal("a permitted peer is not woken")
		}
		w.apply(both(a, c)...)
		if _, ok := a.tunnel.tun.outgoing.ready(packet); ok {
			t.Error("a packet that the old rules passed wakes a peer that has left")
		}
		c.awaken(a)
		c.restart()
		old := a.tunnel.roster.nodes[c.id].peer.Tunnel
		r := a.tunnel.roster
		fresh := &member{installed: installed{peer: new(Peer)}}
		*fresh.peer = c.peer()
		r.turn.Lock()
		r.enrol(fresh) // as Apply does before it retires the old key
		r.turn.Unlock()
		if r.wakeKey(old) {
			t.Error("a key whose addresses are its successor's was woken, and took them back")
		}
		if !r.wakeKey(c.tk.Public()) || a.tunnel.roster.wakeKey(b.tk.Public()) {
			t.Error("want the new key woken, and a stranger not")
		}
	})
}

// TestPeerThatCannotBeWoken has the device refuse a peer: nothing of it passes, all else does, and it is tried again.
func TestPeerThatCannotBeWoken(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		c := w.newNode("c")
		var seen *watched
		c.start(func(t *Tunnel) { seen = watch(t) })
		w.apply(append(both(a, c), both(b, c)...)...)
		var refused, removed int
		seen.watch(func(config string) error {
			switch {
			case !strings.Contains(config, hexKey(a.tk.Public())):
			case strings.Contains(config, "remove=true"):
				removed++
			default:
				refused++
				return errors.New("broken device")
			}
			return nil
		})
		out := func(n *node, i int) error {
			return converse(c, n, flowKinds[1].make(c.addrs[0], n.addrs[0], i), 0, 1, time.Second)
		}
		if out(a, 0) == nil || converse(a, c, flowKinds[1].make(a.addrs[0], c.addrs[0], 0), 0, 1, time.Second) == nil {
			t.Error("a peer that the device refuses is reached")
		}
		if err := out(b, 0); err != nil {
			t.Errorf("the other peer: %v", err)
		}
		if refused == 0 || removed != refused {
			t.Errorf("the device refused it %d times, and was cleared of it %d times", refused, removed)
		}
		seen.watch(nil)
		time.Sleep(6 * time.Second)
		if err := out(a, 1); err != nil {
			t.Errorf("once the device takes it: %v", err)
		}
	})
}

// TestReapingThatFails has the device keep a silent peer: it is denied, until the next Apply puts it right.
func TestReapingThatFails(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.nodes[0]
		c := w.newNode("c")
		var seen *watched
		c.start(func(t *Tunnel) { seen = watch(t) })
		w.apply(both(a, c)...)
		c.awaken(a)
		seen.watch(func(config string) error {
			if strings.Contains(config, "remove=true") {
				return errors.New("broken device")
			}
			return nil
		})
		time.Sleep(untilReaped)
		e := flowKinds[1].make(c.addrs[0], a.addrs[0], 0)
		if converse(c, a, e, 0, 0, 2*time.Second) == nil {
			t.Error("a peer that the device could not let go is still sent to")
		}
		if c.tunnel.roster.wakeNode(a.id) {
			t.Error("a peer that the device holds in part counts as awake")
		}
		seen.watch(nil)
		w.apply(both(a, c)...)
		if err := converse(c, a, e, 1, 1, 2*time.Second); err != nil {
			t.Errorf("after the repair: %v", err)
		}
	})
}

// A peer of which the device may hold a part, found out while a State that changes it is under way, is denied until the next one.
func TestPeerAbandonedUnderAnApply(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		c := w.newNode("c")
		var seen *watched
		c.start(func(t *Tunnel) { seen = watch(t) })
		w.apply(append(both(a, c), both(b, c)...)...)
		c.awaken(a, b)
		seen.watch(func(config string) error {
			if strings.Contains(config, "remove=true") { // b's; the roster's turn is taken, as when a is reaped
				c.tunnel.roster.abandon(c.tunnel.roster.nodes[a.id])
			}
			return nil
		})
		s := w.state(c, testLease, both(a, c)...)
		s.Peers[0].Addresses = s.Peers[0].Addresses[:1]
		if _, err := c.tunnel.Apply(s); !errors.Is(err, ErrIncomplete) {
			t.Errorf("apply: %v", err)
		}
		if c.tunnel.roster.wakeNode(a.id) {
			t.Error("a peer that the device holds in part counts as awake")
		}
		seen.watch(nil)
		if _, err := c.tunnel.Apply(s); err != nil || !c.tunnel.roster.wakeNode(a.id) {
			t.Errorf("the repair: %v", err)
		}
	})
}

// Under the race detector: a State is planned while peers fall out.
func TestPlanBesideAbandoning(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, c := w.nodes[0], w.nodes[1]
		w.apply(both(a, c)...)
		r := c.tunnel.roster
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 20 {
				r.turn.Lock()
				r.abandon(r.nodes[a.id])
				r.turn.Unlock()
				time.Sleep(time.Millisecond)
			}
		}()
		for range 20 {
			_, _ = c.tunnel.Apply(w.state(c, testLease, both(a, c)...))
			time.Sleep(time.Millisecond)
		}
		<-done
		w.apply(both(a, c)...)
		if !r.wakeNode(a.id) {
			t.Error("the peer stays lost")
		}
	})
}

// closing is an engine that tells when it is about to close.
type closing struct {
	engine
	before func()
}

func (c closing) Close() {
	c.before()
	c.engine.Close()
}

// TestNobodyIsWokenWhileTheDeviceCloses: the device's end waits for the goroutine that reads the TUN, which would wait for the device.
func TestNobodyIsWokenWhileTheDeviceCloses(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.nodes[0]
		b := w.newNode("b")
		b.start(func(tunnel *Tunnel) {
			tunnel.newEngine = func(d tun.Device, bind conn.Bind, l *device.Logger) engine {
				return closing{newWireguard(d, bind, l), func() {
					if tunnel.roster.wakeNode(a.id) {
						t.Error("a peer was woken")
					}
				}}
			}
		})
		w.apply(both(a, b)...)
		b.stop()
	})
}

// TestPeerHeardWhileDrowsyIsNotReaped has a peer, which we have nothing to say to, send between the two rounds.
func TestPeerHeardWhileDrowsyIsNotReaped(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		open(w)
		if err := converse(b, a, flowKinds[1].make(b.addrs[0], a.addrs[0], 0), 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		r := a.tunnel.roster
		drowsy := func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.nodes[b.id].awake.drowsy
		}
		for !drowsy() {
			time.Sleep(time.Second)
		}
		if err := passes(b, a, flowKinds[1].make(b.addrs[0], a.addrs[0], 1).request(0), time.Second); err != nil {
			t.Fatal(err)
		}
		r.reap()
		if !a.holds(b) {
			t.Error("a peer that has just sent was reaped")
		}
	})
}

// TestReplayedInitiationAfterReaping plays a recorded handshake initiation to a peer that was reaped and woken since, in the name of the
// address it was recorded from. WireGuard takes it once more; the session in use must go on, both ways.
func TestReplayedInitiationAfterReaping(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		const initiation, initiationSize = 1, 148
		var mu sync.Mutex
		var recorded []byte
		w.net.Tap(func(d nettest.Datagram) {
			mu.Lock()
			defer mu.Unlock()
			if recorded == nil && len(d.Payload) == initiationSize && d.Payload[0] == initiation && d.To == a.outer {
				recorded = append([]byte(nil), d.Payload...)
			}
		})
		open(w)
		e := flowKinds[0].make(b.addrs[0], a.addrs[0], 0)
		if err := converse(b, a, e, 0, 3, time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(untilReaped)
		if err := converse(b, a, e, 4, 4, time.Second); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		replay := recorded
		mu.Unlock()
		if replay == nil || !a.holds(b) {
			t.Fatal("no initiation was recorded, or the peer is not awake")
		}
		for i := range 5 {
			b.host.Inject(b.outer, a.outer, replay)
			synctest.Wait()
			if err := converse(b, a, e, 5+i, 5+i, 0); err != nil {
				t.Errorf("after replay %d: %v", i, err)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestApplyBesideReapingAndWaking lets an address change hands again and again, at every moment of its holders' sleep.
func TestApplyBesideReapingAndWaking(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		b.addrs = b.addrs[1:]
		moving, holder := a.addrs[0], a
		grants := append(both(a, c), both(b, c)...)
		w.apply(grants...)
		for i := range 60 {
			e := udpExchange{netip.AddrPortFrom(c.addrs[0], uint16(40000+i)), netip.AddrPortFrom(moving, 80)}
			if err := converse(c, holder, e, 0, 0, 2*time.Second); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			time.Sleep(time.Duration(i%13) * reapInterval)
			next := a
			if holder == a {
				next = b
			}
			holder.addrs, next.addrs = holder.addrs[1:], append([]netip.Addr{moving}, next.addrs...)
			from := udpPacket(netip.AddrPortFrom(moving, 9), addrPort(c, 80), nil)
			w.apply(grants...)
			holder.tun.Send(from) // from an address that is no longer its own
			time.Sleep(time.Second)
			if got := c.received(); len(got) != 0 {
				t.Fatalf("round %d: the old holder's packet was delivered", i)
			}
			holder = next
		}
		if c.tunnel.filter.Ingress(udpPacket(netip.AddrPortFrom(moving, 9), addrPort(c, 80), nil)).Verdict != filter.Pass {
			t.Error("the address passes no more")
		}
	})
}

// crowd is the state of n with grants, and with count further peers that are nowhere.
func (w *world) crowd(n *node, count int, grants ...grant) State {
	s := w.state(n, testLease, grants...)
	role := acl.RoleID(1 << 20)
	s.Rules.Rules = append(s.Rules.Rules, acl.Rule{
		Ref: acl.Ref{Section: "grants", Index: 1000, Line: 1001, Column: 1},
		Src: acl.Set{Roles: []acl.RoleID{n.role}}, Dst: acl.Set{Roles: []acl.RoleID{role}},
		Ports: []acl.Ports{{Proto: acl.UDP, First: 80, Last: 80}},
	})
	for i := range count {
		p := crowdPeer(i)
		s.Peers = append(s.Peers, p)
		s.Rules.Subjects = append(s.Rules.Subjects, acl.Subject{Node: p.Node, Addresses: p.Addresses, Roles: []acl.RoleID{role}})
	}
	return s
}

func crowdPeer(i int) Peer {
	p := Peer{Node: acl.NodeID(fmt.Sprintf("crowd%05d", i)), Addresses: []netip.Addr{
		netip.AddrFrom4([4]byte{100, 100, byte(i >> 8), byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd7a::1:%x", i)),
	}}
	binary.BigEndian.PutUint32(p.Device[:], uint32(i+1))
	binary.BigEndian.PutUint32(p.Tunnel[:], uint32(i+1))
	binary.BigEndian.PutUint32(p.Probe[:], uint32(i+1))
	p.Candidates = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), testPort)}
	return p
}

// alone runs f in a process of its own, because bubbles leave a process in which nothing may be collected.
func alone(t *testing.T, f func(*testing.T)) {
	t.Helper()
	const child = "WGTUN_TEST_CHILD"
	if os.Getenv(child) != "" {
		f(t)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	c.Env = append(os.Environ(), child+"=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s", out)
}

func TestTenThousandPermittedPeers(t *testing.T) { alone(t, tenThousandPeers) }

func TestTenThousandMaps(t *testing.T) { alone(t, tenThousandMaps) }

// tenThousandMaps turns peers on and off, awake and asleep, and looks for what is left over.
func tenThousandMaps(t *testing.T) {
	w := newWorld(t, 4)
	a, b, c, d := w.nodes[0], w.nodes[1], w.nodes[2], w.nodes[3]
	apply := func(i int) {
		grants := [][]grant{both(a, b), both(a, c), append(both(a, b), both(a, d)...), nil}[i%4]
		if i%5 == 0 {
			b.tk, b.pk = key.NewTunnel(), key.NewProbe() // as b's next life would have them
		}
		w.gen++
		if _, err := a.tunnel.Apply(w.crowd(a, 3+i%3, grants...)); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			for _, node := range []acl.NodeID{b.id, c.id, crowdPeer(i % 5).Node} {
				a.tunnel.roster.wakeNode(node)
			}
		}
	}
	for i := range 400 {
		apply(i)
	}
	apply(3)
	memory, routines := heap(), runtime.NumGoroutine()
	for i := range 10000 {
		apply(i)
	}
	apply(3)
	grown, more := heap()-memory, runtime.NumGoroutine()-routines
	t.Logf("10,000 maps: %d bytes and %d goroutines more", grown, more)
	if grown > 1<<20 || more > 0 {
		t.Errorf("10,000 maps leave %d bytes and %d goroutines", grown, more)
	}
}

// tenThousandPeers compares a tunnel with 20 permitted peers, all in use, with one that is permitted 10,000, of which it uses those.
func tenThousandPeers(t *testing.T) {
	const active, permitted = 20, 10000
	w := newWorld(t, 1+active)
	center := w.nodes[0]
	var grants []grant
	for _, n := range w.nodes[1:] {
		grants = append(grants, both(center, n)...)
	}
	w.apply(grants...)
	for range 3 {
		w.greetAll(center)
	}
	state := w.crowd(center, permitted-active, grants...)
	memory, routines := heap(), runtime.NumGoroutine()
	if _, err := center.tunnel.Apply(state); err != nil {
		t.Fatal(err)
	}
	w.greetAll(center)
	each := (heap() - memory) / (permitted - active)
	more := runtime.NumGoroutine() - routines
	t.Logf("%d bytes and %d goroutines for %d more permitted peers", each*(permitted-active), more, permitted-active)
	if each > 1024 {
		t.Errorf("%d bytes for each permitted peer", each)
	}
	if more > 0 {
		t.Errorf("%d goroutines for the permitted peers", more)
	}
	if stats := center.tunnel.Stats(); len(stats.Peers) != permitted || awakeIn(stats) != active {
		t.Errorf("%d peers of which %d are awake, want %d and %d", len(stats.Peers), awakeIn(stats), permitted, active)
	}
	runtime.KeepAlive(state)
}

// heap is the live heap in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools hold goes at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func awakeIn(s Stats) (n int) {
	for _, p := range s.Peers {
		if p.Awake {
			n++
		}
	}
	return n
}

// greetAll has one node send a packet to every other, and waits for each to arrive. It works outside bubbles, too.
func (w *world) greetAll(from *node) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, n := range w.nodes {
		if n == from {
			continue
		}
		p := udpPacket(addrPort(from, 40000), addrPort(n, 80), nil)
		from.tun.Send(p)
		got, err := n.tun.Recv(ctx)
		if err != nil || string(got) != string(p) {
			w.t.Fatalf("node %s: % x, %v", n.id, got, err)
		}
	}
}

// BenchmarkReady is what the look at the roster costs a packet, to one of 20 peers that are awake.
func BenchmarkReady(b *testing.B) {
	o := &outward{roster: newRoster(nil)}
	var packets [20][]byte
	for i := range packets {
		packets[i] = udpPacket(netip.MustParseAddrPort("100.64.0.1:40000"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 2)}), 80), nil)
		d := destinationOf(packets[i])
		d.epoch = 1
		o.slot(d).destination = d
	}
	b.ReportAllocs()
	for i := range b.N {
		if _, ok := o.ready(packets[i%len(packets)]); !ok {
			b.Fatal("a peer is not awake")
		}
	}
}
