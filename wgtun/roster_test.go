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

	"picket.internal/acl"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/nettest"
)

// untilReaped is longer than it takes until a silent peer is reaped: the paths ask for it 2 minutes longer, and two rounds pass.
const untilReaped = 2*time.Minute + reapAfter + 3*reapInterval

// idle reports whether the reader waits for the TUN.
func (r *readState) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.underWay
}

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
			time.Sleep(time.Hour)
			if a.holds(b) || b.holds(a) {
				t.Error("the idle peer is in the device")
			}
			if err := converse(a, b, e, 4+i, 4+i, time.Second); err != nil {
				t.Errorf("after an hour: %v", err)
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
		seen.before = func(config string) error {
			switch {
			case !strings.Contains(config, hexKey(a.tk.Public())):
			case strings.Contains(config, "remove=true"):
				removed++
			default:
				refused++
				return errors.New("broken device")
			}
			return nil
		}
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
		seen.before = nil
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
		seen.before = func(config string) error {
			if strings.Contains(config, "remove=true") {
				return errors.New("broken device")
			}
			return nil
		}
		time.Sleep(untilReaped)
		e := flowKinds[1].make(c.addrs[0], a.addrs[0], 0)
		if converse(c, a, e, 0, 0, 2*time.Second) == nil {
			t.Error("a peer that the device could not let go is still sent to")
		}
		seen.before = nil
		w.apply(both(a, c)...)
		if err := converse(c, a, e, 1, 1, 2*time.Second); err != nil {
			t.Errorf("after the repair: %v", err)
		}
	})
}

// TestTunnelEndsWhileAWakeWaits ends a tunnel whose reader waits to wake a peer, behind a removal that waits for a blocked TUN: the device's
// own end waits for that reader.
func TestTunnelEndsWhileAWakeWaits(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.apply(append(both(a, b), both(b, c)...)...)
		live := udpExchange{addrPort(a, 40000), addrPort(b, 80)}
		if err := converse(a, b, live, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		b.tun.Stall()
		a.tun.Send(live.request(2)[0])
		synctest.Wait()
		done := make(chan struct{})
		go func() {
			_, _ = b.tunnel.Apply(w.state(b, testLease, both(b, c)...))
			close(done)
		}()
		synctest.Wait()
		b.tun.Send(udpPacket(addrPort(b, 40000), addrPort(c, 80), nil))
		for b.tunnel.tun.reading.idle() { // synctest does not wait for who waits for a lock
			runtime.Gosched()
		}
		b.stop()
		<-done
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

// TestTenThousandPermittedPeers runs in a process of its own, because bubbles leave a process in which nothing may be collected.
func TestTenThousandPermittedPeers(t *testing.T) {
	const child = "WGTUN_TEST_CHILD"
	if os.Getenv(child) != "" {
		tenThousandPeers(t)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestTenThousandPermittedPeers$", "-test.v")
	c.Env = append(os.Environ(), child+"=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
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
