package wgtun

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"picket.internal/acl"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testPort  = 51820
	testLease = 12 * time.Hour
)

// world is some tunnels on one internet in memory. It must be used within a bubble.
type world struct {
	t     *testing.T
	net   *nettest.Network
	nodes []*node
	gen   uint64
	mtu   int // of every TUN
}

// node is a tunnel with what its maker knows of it. Its operating system is tun.
type node struct {
	w      *world
	id     acl.NodeID
	role   acl.RoleID
	outer  netip.AddrPort
	addrs  []netip.Addr // IPv4, IPv6
	device key.DevicePublic
	tk     key.TunnelPrivate
	pk     key.ProbePrivate
	tun    *nettest.TUN
	host   *nettest.Host // where the tunnel's sockets are
	tunnel *Tunnel
	stop   func()

	mu   sync.Mutex
	cuts []filter.Cut // told to OnCut
}

// grant lets from open flows to to: TCP and UDP port 80, and ICMP echo.
type grant struct {
	from, to *node
	until    time.Time
}

func newWorld(t *testing.T, nodes int) *world { return newWorldMTU(t, nodes, DefaultMTU) }

func newWorldMTU(t *testing.T, nodes, mtu int) *world {
	w := &world{t: t, net: nettest.New(1), mtu: mtu}
	for i := range nodes {
		n := w.newNode(string(rune('a' + i)))
		n.start(nil)
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			n.stop()
		}
	})
	return w
}

// newNode makes a node with addresses of its own; start brings it up.
func (w *world) newNode(id string) *node {
	i := len(w.nodes) + 1
	n := &node{
		w: w, id: acl.NodeID(id), role: acl.RoleID(i),
		outer:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), testPort),
		addrs:  []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd7a::%x", i))},
		device: key.NewDevice().Public(), tk: key.NewTunnel(), pk: key.NewProbe(),
		stop: func() {},
	}
	w.nodes = append(w.nodes, n)
	return n
}

// start runs the node's tunnel until stop or the end of the test; arrange may change it before it runs.
func (n *node) start(arrange func(*Tunnel)) {
	n.w.t.Helper()
	n.tun = nettest.NewTUN(n.w.mtu)
	host := n.w.net.Host(n.outer.Addr())
	t, err := New(Config{
		TUN: n.tun, Bind: host.Bind(), Port: testPort, Tunnel: n.tk, Probe: n.pk,
		Overlay: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd7a::/48")},
		OnCut: func(cuts []filter.Cut) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.cuts = append(n.cuts, cuts...)
		},
	})
	if err != nil {
		n.w.t.Fatal(err)
	}
	if arrange != nil {
		arrange(t)
	}
	n.tunnel, n.host = t, host
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- t.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				n.w.t.Errorf("node %s: Run: %v", n.id, err)
			}
			host.SetAddrs()
		})
	}
	select {
	case <-t.Ready():
	case err := <-done:
		n.w.t.Fatalf("node %s: Run: %v", n.id, err)
	}
}

// restart stops the node's tunnel and starts another with new keys.
func (n *node) restart() {
	n.stop()
	n.tk, n.pk = key.NewTunnel(), key.NewProbe()
	n.start(nil)
}

// awaken puts peers into n's device, as packets to them do.
func (n *node) awaken(peers ...*node) {
	n.w.t.Helper()
	for _, p := range peers {
		if !n.tunnel.roster.wakeNode(p.id) {
			n.w.t.Fatalf("node %s cannot wake node %s", n.id, p.id)
		}
	}
}

func (n *node) peer() Peer {
	return Peer{
		Node: n.id, Device: n.device, Tunnel: n.tk.Public(), Probe: n.pk.Public(), Addresses: n.addrs,
		Candidates: []netip.AddrPort{n.outer},
	}
}

// both is a pair of grants, one each way.
func both(a, b *node) []grant { return []grant{{from: a, to: b}, {from: b, to: a}} }

// state is node n's part of a network with these grants.
func (w *world) state(n *node, lease time.Duration, grants ...grant) State {
	rules := &acl.Ruleset{}
	known := map[*node]bool{n: true}
	for i, g := range grants {
		if g.from != n && g.to != n {
			continue
		}
		known[g.from], known[g.to] = true, true
		rule := acl.Rule{
			Ref: acl.Ref{Section: "grants", Index: i, Line: i + 1, Column: 1},
			Src: acl.Set{Roles: []acl.RoleID{g.from.role}}, Dst: acl.Set{Roles: []acl.RoleID{g.to.role}},
			Ports: []acl.Ports{{Proto: acl.TCP, First: 80, Last: 80}, {Proto: acl.UDP, First: 80, Last: 80},
				{Proto: acl.ICMP, Last: 65535}, {Proto: acl.ICMPv6, Last: 65535}},
		}
		if !g.until.IsZero() {
			rule.Until = g.until.UnixMilli()
		}
		rules.Rules = append(rules.Rules, rule)
	}
	s := State{Generation: w.gen, Self: n.id, Rules: rules, NotAfter: time.Now().Add(lease)}
	for _, other := range w.nodes {
		if !known[other] {
			continue
		}
		rules.Subjects = append(rules.Subjects, acl.Subject{Node: other.id, Addresses: other.addrs, Roles: []acl.RoleID{other.role}})
		if other != n {
			s.Peers = append(s.Peers, other.peer())
		}
	}
	return s
}

// apply gives every node its part of a network with these grants.
func (w *world) apply(grants ...grant) { w.applyFor(testLease, grants...) }

func (w *world) applyFor(lease time.Duration, grants ...grant) {
	w.t.Helper()
	w.gen++
	for _, n := range w.nodes {
		if n.tunnel == nil {
			continue
		}
		if _, err := n.tunnel.Apply(w.state(n, lease, grants...)); err != nil && !n.tunnel.ended() {
			w.t.Fatalf("node %s: %v", n.id, err)
		}
	}
}

// received returns what the tunnel has handed to the node's operating system so far, once everything has come to rest.
func (n *node) received() [][]byte {
	synctest.Wait()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	var packets [][]byte
	for {
		p, err := n.tun.Recv(gone)
		if err != nil {
			return packets
		}
		packets = append(packets, p)
	}
}

func (n *node) cutSoFar() []filter.Cut {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]filter.Cut(nil), n.cuts...)
}

// passes sends packets at one node and reports whether exactly they come out at the other, waiting until patience is over.
func passes(from, to *node, packets [][]byte, patience time.Duration) error {
	to.received()
	from.received()
	for _, p := range packets { // one by one: a peer's first packets may be held back until its session stands
		from.tun.Send(p)
	}
	var got [][]byte
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got = append(got, to.received()...)
		if len(got) >= len(packets) || !time.Now().Before(deadline) {
			break
		}
	}
	if len(got) != len(packets) {
		return fmt.Errorf("%d of %d packets came from %s to %s", len(got), len(packets), from.id, to.id)
	}
	for i := range got {
		if string(got[i]) != string(packets[i]) {
			return fmt.Errorf("packet %d from %s to %s changed to % x", i, from.id, to.id, got[i])
		}
	}
	return nil
}

// converse carries an exchange from step first to step last, both ways.
func converse(opener, answerer *node, e exchange, first, last int, patience time.Duration) error {
	for i := first; i <= last; i++ {
		if err := passes(opener, answerer, e.request(i), patience); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if err := passes(answerer, opener, e.reply(i), patience); err != nil {
			return fmt.Errorf("reply %d: %w", i, err)
		}
	}
	return nil
}
