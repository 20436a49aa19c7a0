package path

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

const port = 41641

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
	addrC = netip.MustParseAddr("192.0.2.3")
	addrN = netip.MustParseAddr("198.51.100.1")
	addrX = netip.MustParseAddr("203.0.113.66")
)

func at(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// node is a Bind that runs on a host, with what it handed up.
type node struct {
	*Bind
	t      *testing.T
	host   *nettest.Host
	tunnel key.TunnelPublic
	probe  key.ProbePrivate

	gotMu sync.Mutex
	got   []arrival
}

// arrival is a datagram as WireGuard would see it.
type arrival struct {
	Text string // what follows the 32 bytes of header
	Peer key.TunnelPublic
	From string
}

// start runs a node with a new key; the node ends with the test.
func start(t *testing.T, host *nettest.Host, change ...func(*Config)) *node {
	t.Helper()
	n := &node{t: t, host: host, tunnel: key.NewTunnel().Public(), probe: key.NewProbe()}
	c := Config{Inner: host.Bind(), Tunnel: n.tunnel, Probe: n.probe}
	for _, f := range change {
		f(&c)
	}
	n.tunnel, n.probe = c.Tunnel, c.Probe
	n.Bind = New(c)
	n.open()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		_ = n.Close()
	})
	return n
}

func (n *node) open() {
	n.t.Helper()
	fns, _, err := n.Open(port)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, fn := range fns {
		go n.collect(fn)
	}
}

func (n *node) collect(fn conn.ReceiveFunc) {
	size := n.BatchSize()
	bufs, sizes, eps := make([][]byte, size), make([]int, size), make([]conn.Endpoint, size)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	for {
		count, err := fn(bufs, sizes, eps)
		if err != nil {
			return
		}
		n.gotMu.Lock()
		for i := range count {
			if sizes[i] > 0 {
				ep := eps[i].(*Endpoint)
				n.got = append(n.got, arrival{string(bufs[i][32:sizes[i]]), ep.Peer(), ep.outer().String()})
			}
		}
		n.gotMu.Unlock()
	}
}

// meet makes a and b know each other, b at bAt and a nowhere unless aAt names places.
func meet(a, b *node, bAt []netip.AddrPort, aAt ...netip.AddrPort) {
	b.SetPeer(Peer{Tunnel: a.tunnel, Probe: a.probe.Public(), Candidates: aAt})
	a.SetPeer(Peer{Tunnel: b.tunnel, Probe: b.probe.Public(), Candidates: bAt})
}

// datagram looks like a WireGuard transport message.
func datagram(text string) []byte {
	return append(append([]byte{4, 0, 0, 0}, make([]byte, 28)...), text...)
}

// send sends one batch of datagrams to a peer, as wireguard-go would.
func (n *node) send(to *node, texts ...string) {
	n.t.Helper()
	ep, err := n.ParseEndpoint(EndpointText(to.tunnel))
	if err != nil {
		n.t.Fatal(err)
	}
	var bufs [][]byte
	for _, text := range texts {
		bufs = append(bufs, datagram(text))
	}
	if err := n.Send(bufs, ep); err != nil {
		n.t.Errorf("Send: %v", err)
	}
}

// take returns what was handed up since the last call.
func (n *node) take() []arrival {
	synctest.Wait()
	n.gotMu.Lock()
	defer n.gotMu.Unlock()
	got := n.got
	n.got = nil
	return got
}

func (n *node) texts() (out []string) {
	for _, a := range n.take() {
		out = append(out, a.Text)
	}
	return out
}

// chat has both send a datagram each 100 ms for d, and returns how many of each side's arrived.
func chat(a, b *node, d time.Duration) (aGot, bGot int) {
	for range int(d / (100 * time.Millisecond)) {
		a.send(b, "x")
		b.send(a, "x")
		time.Sleep(100 * time.Millisecond)
	}
	return len(a.take()), len(b.take())
}

func (n *node) status(of *node) Status {
	n.t.Helper()
	s, ok := n.Status(of.tunnel)
	if !ok {
		n.t.Fatal("peer not known")
	}
	return s
}

// sizes are what a node holds for the peers it knows.
type sizes struct{ held, bound, addresses, candidates int }

func (n *node) sizes() (s sizes) {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	s.held = n.heldSize
	for p := range n.alive {
		s.bound += len(p.live.bound)
		s.candidates += len(p.live.candidates)
	}
	n.table.mu.RLock()
	defer n.table.mu.RUnlock()
	s.addresses = len(n.table.bindings)
	return s
}

func (n *node) dropped(d Drop) int { return int(n.Stats().Drops[d]) }

// recorder keeps datagrams that a network carried.
type recorder struct {
	mu   sync.Mutex
	seen []nettest.Datagram
}

func record(n *nettest.Network) *recorder {
	r := new(recorder)
	n.Tap(func(d nettest.Datagram) {
		r.mu.Lock()
		defer r.mu.Unlock()
		d.Payload = slices.Clone(d.Payload)
		r.seen = append(r.seen, d)
	})
	return r
}

// matching returns what was carried so far and satisfies f.
func (r *recorder) matching(f func(nettest.Datagram) bool) (out []nettest.Datagram) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.seen {
		if f(d) {
			out = append(out, d)
		}
	}
	return out
}

func to(a netip.Addr) func(nettest.Datagram) bool {
	return func(d nettest.Datagram) bool { return d.To.Addr() == a }
}

// initiation is the size and beginning of a WireGuard handshake initiation.
func initiation() []byte {
	b := make([]byte, 148)
	binary.LittleEndian.PutUint32(b, 1)
	return b
}
