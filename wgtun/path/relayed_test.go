package path

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/nettest"
)

// relays are relays in one place, 30 ms from everybody. They say the truth unless lie says otherwise.
type relays struct {
	mu    sync.Mutex
	nodes map[Home]*node
	dead  map[string]bool
	lie   func(from Home) Home
	count int // datagrams carried
}

// port is one node's connection to all relays.
type relayPort struct {
	relays *relays
	self   [32]byte
}

const relayLatency = 30 * time.Millisecond

func (p relayPort) Send(to Home, datagram []byte) bool {
	r := p.relays
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead[to.Relay] {
		return false
	}
	from := Home{Relay: to.Relay, Address: p.self}
	if r.lie != nil {
		from = r.lie(from)
	}
	datagram = slices.Clone(datagram)
	time.AfterFunc(relayLatency, func() {
		if n := r.carry(to); n != nil {
			n.Relayed(from, datagram)
		}
	})
	return true
}

// carry counts a datagram, and returns who it is for; nil for nobody.
func (r *relays) carry(to Home) *node {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead[to.Relay] || r.nodes[to] == nil {
		return nil
	}
	r.count++
	return r.nodes[to]
}

func (r *relays) carried() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// start starts a node that is at all relays under an address of its own, its home being the one named.
func (r *relays) start(t *testing.T, host *nettest.Host, id byte, names ...string) *node {
	n := start(t, host, func(c *Config) { c.Relay = relayPort{r, [32]byte{id}} })
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		r.nodes[Home{Relay: name, Address: [32]byte{id}}] = n
	}
	return n
}

func newRelays() *relays { return &relays{nodes: map[Home]*node{}, dead: map[string]bool{}} }

// meetAt is meet with homes.
func meetAt(a, b *node, aHome, bHome Home, bAt ...netip.AddrPort) {
	b.SetPeer(Peer{Tunnel: a.tunnel, Probe: a.probe.Public(), Home: aHome})
	a.SetPeer(Peer{Tunnel: b.tunnel, Probe: b.probe.Public(), Home: bHome, Candidates: bAt})
}

func home(id byte) Home { return Home{Relay: "near", Address: [32]byte{id}} }

// The first datagram takes the relay, later ones the direct way; when that dies the relay takes over within 3 s, and when it comes back it is taken again.
func TestRelayFirstThenDirectThenRelayAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		n.SetDefault(nettest.Link{Latency: 200 * time.Millisecond}) // a relay that is faster changes nothing
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near"), r.start(t, n.Host(addrB), 2, "near")
		meetAt(a, b, home(1), home(2), at(addrB))
		a.send(b, "first")
		time.Sleep(3*relayLatency + time.Millisecond)
		if got := b.texts(); !slices.Equal(got, []string{"first"}) {
			t.Fatalf("after the relay's round trip and a half: %q", got)
		}
		if s := a.status(b); s.Kind != "relay" || s.Relay != "near" || s.Addr.IsValid() {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second)
		if s := a.status(b); s.Kind != "direct" || s.Addr != at(addrB) || s.Relay != "" {
			t.Errorf("%+v", s)
		}
		carried := r.carried()
		chat(a, b, dwell+9*roundEvery) // the relay, nearer by far, is asked meanwhile
		if got := r.carried(); got > carried+60 || a.status(b).Kind != "direct" {
			t.Errorf("the relay carried %d datagrams beside a direct way", got-carried)
		}
		n.SetLink(a.host, b.host, nettest.Link{Loss: 1})
		n.SetLink(b.host, a.host, nettest.Link{Loss: 1})
		chat(a, b, 3*time.Second)
		if x, y := a.status(b).Kind, b.status(a).Kind; x != "relay" || y != "relay" {
			t.Errorf("3 s after the direct way died: %s, %s", x, y)
		}
		if x, y := chat(a, b, 10*time.Second); x < 98 || y < 98 {
			t.Errorf("%d and %d of 100 datagrams by the relay", x, y)
		}
		n.SetLink(a.host, b.host, nettest.Link{Latency: latency})
		n.SetLink(b.host, a.host, nettest.Link{Latency: latency})
		chat(a, b, 70*time.Second)
		if x, y := a.status(b).Kind, b.status(a).Kind; x != "direct" || y != "direct" {
			t.Errorf("after the direct way came back: %s, %s", x, y)
		}
	})
}

// Where a direct way dies and another one answers, however slowly, that is taken before a relay.
func TestAnotherDirectWayBeforeARelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near"), r.start(t, n.Host(addrB, addrC), 2, "near")
		meetAt(a, b, home(1), home(2), at(addrB), at(addrC))
		chat(a, b, 5*time.Second)
		first := a.status(b).Addr
		if !first.IsValid() {
			t.Fatalf("%+v", a.status(b))
		}
		l, now := liveOf(t, a, b), a.now()
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, c := range l.candidates {
			switch {
			case c == l.current:
				c.missed = now - time.Second
			case c.direct():
				c.answered, c.latency = now, 900*time.Millisecond
			default:
				c.answered, c.latency = now, time.Millisecond
			}
		}
		if got := l.rescuer(l.current); got == nil || !got.direct() {
			t.Errorf("%+v rather than the other direct way", got)
		}
	})
}

func liveOf(t *testing.T, n, of *node) *live {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.table.peer(of.tunnel).live
	if l == nil || l.current == nil {
		t.Fatal("no path")
	}
	return l
}

// Without any direct way the relay is all there is, and one that dies gives way to the peer's next home.
func TestRelayAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near", "far"), r.start(t, n.Host(addrB), 2, "near", "far")
		meetAt(a, b, home(1), home(2))
		if x, y := chat(a, b, 10*time.Second); x < 98 || y < 98 {
			t.Errorf("%d and %d of 100 datagrams", x, y)
		}
		r.mu.Lock()
		r.dead["near"] = true
		r.mu.Unlock()
		chat(a, b, time.Second)
		far := func(id byte) Home { return Home{Relay: "far", Address: [32]byte{id}} }
		meetAt(a, b, far(1), far(2))
		chat(a, b, 2*time.Second)
		if s := a.status(b); s.Kind != "relay" || s.Relay != "far" {
			t.Errorf("%+v", s)
		}
		if x, y := chat(a, b, 10*time.Second); x < 98 || y < 98 {
			t.Errorf("%d and %d of 100 datagrams by the other relay", x, y)
		}
		if a.dropped(DropRelayBusy) == 0 {
			t.Error("what the dead relay did not take was not counted")
		}
	})
}

// Where both homes die and nobody can say where the peers went, they meet at a second relay where both are, without a word; a spare where the peer is not
// changes nothing.
func TestSpareRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near", "far"), r.start(t, n.Host(addrB), 2, "near", "far")
		spare := func(id byte, relay string) Home { return Home{Relay: "near", Address: [32]byte{id}, Spare: relay} }
		meetAt(a, b, spare(1, "nowhere"), spare(2, "nowhere"))
		if x, y := chat(a, b, 10*time.Second); x < 98 || y < 98 {
			t.Errorf("%d and %d of 100 datagrams", x, y)
		}
		r.mu.Lock()
		r.dead["near"] = true
		r.mu.Unlock()
		chat(a, b, 4*time.Second) // each notes that its home is dead
		meetAt(a, b, spare(1, "far"), spare(2, "far"))
		chat(a, b, 2*time.Second)
		if s := a.status(b); s.Kind != "relay" || s.Relay != "far" {
			t.Errorf("%+v", s)
		}
		if x, y := chat(a, b, 10*time.Second); x < 98 || y < 98 {
			t.Errorf("%d and %d of 100 datagrams by the spare relay", x, y)
		}
	})
}

// A peer that has no home of which we know is answered by the relay through which it asked.
func TestPeerIsAnsweredByTheRelayItAskedThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near"), r.start(t, n.Host(addrB), 2, "near")
		meetAt(a, b, Home{}, home(2))
		if x, y := chat(a, b, 5*time.Second); x < 45 || y < 45 {
			t.Errorf("%d and %d of 50 datagrams", x, y)
		}
	})
}

// What a relay says of a sender proves nothing: without an authenticated probe through it no datagram is handed up, and lies move no way.
func TestRelayThatLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near"), r.start(t, n.Host(addrB), 2, "near")
		c := r.start(t, n.Host(addrC), 3, "near")
		meetAt(a, b, home(1), home(2))
		meetAt(c, b, home(3), home(2))
		b.Relayed(home(1), datagram("forged"))
		if got := b.take(); len(got) != 0 || b.dropped(DropStranger) != 1 {
			t.Errorf("unproved, handed up %v", got)
		}
		chat(a, b, time.Second)
		chat(c, b, time.Second)
		b.take()
		r.mu.Lock()
		r.lie = func(from Home) Home { // everything comes from a, says the relay
			return home(1)
		}
		r.mu.Unlock()
		for range 20 {
			c.send(b, "as a")
			time.Sleep(100 * time.Millisecond)
		}
		for _, got := range b.take() {
			if got.Peer == c.tunnel && got.From == home(1).alias().String() {
				t.Errorf("%+v", got)
			}
		}
		if s := b.status(a); s.Kind == "" {
			t.Error("a lost its way")
		}
	})
}

// Aliases are of this process alone: told as candidates, or as sources of UDP datagrams, they are refused.
func TestAliasesComeFromNowhereElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near"), r.start(t, n.Host(addrB), 2, "near")
		meetAt(a, b, home(1), home(2), home(2).alias())
		if a.dropped(DropCandidate) != 1 {
			t.Error("an alias was taken for a candidate")
		}
		chat(a, b, time.Second)
		b.take()
		ep := &conn.StdNetEndpoint{AddrPort: home(1).alias()}
		before := b.dropped(DropForbidden)
		sizes := []int{len(datagram("forged"))}
		b.sift([][]byte{datagram("forged")}, sizes, []conn.Endpoint{ep})
		if sizes[0] != 0 || b.dropped(DropForbidden) != before+1 {
			t.Error("a datagram of UDP passed for one from the relay")
		}
	})
}

// Two senders at one relay have two addresses, by which WireGuard limits handshakes, and none is another relay's.
func TestAliasesAreDistinct(t *testing.T) {
	seen := map[netip.AddrPort]Home{}
	for _, relay := range []string{"near", "far", ""} {
		for id := range byte(100) {
			h := Home{Relay: relay, Address: [32]byte{id}}
			if other, ok := seen[h.alias()]; ok {
				t.Errorf("%v and %v share one", h, other)
			}
			seen[h.alias()] = h
			if !isAlias(h.alias().Addr()) {
				t.Errorf("%v is no alias", h.alias())
			}
		}
	}
}

// Nobody fetches: what relays bring is bounded, and what was brought for a peer that has been removed is not handed up.
func TestArrivalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near"), r.start(t, n.Host(addrB), 2, "near")
		meetAt(a, b, home(1), home(2))
		chat(a, b, time.Second)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.port.Store(port)
		for range 2 * maxArrivals {
			b.Relayed(home(1), datagram("x"))
		}
		if got := b.dropped(DropBusy); got != maxArrivals {
			t.Errorf("%d dropped of %d", got, 2*maxArrivals)
		}
		b.RemovePeer(a.tunnel)
		b.take()
		b.open()
		time.Sleep(time.Second)
		if got := b.take(); len(got) != 0 {
			t.Errorf("%d datagrams of a removed peer", len(got))
		}
	})
}

// A hostile relay floods with probes of a hint that it knows: what it has opened is bounded, and the direct ways are none the worse for it.
func TestProbesThroughARelayAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		r := newRelays()
		a, b := r.start(t, n.Host(addrA), 1, "near"), r.start(t, n.Host(addrB), 2, "near")
		meetAt(a, b, home(1), home(2), at(addrB))
		sealed, err := newBox(identity{probe: a.probe, public: a.probe.Public()}, b.probe.Public())
		if err != nil {
			t.Fatal(err)
		}
		probe := sealed.seal(message{kind: ping, sequence: 1 << 62})
		probe[60] ^= 1
		for i := range 3 * openPerSource {
			b.Relayed(Home{Relay: "near", Address: [32]byte{9, byte(i), byte(i >> 8)}}, probe)
		}
		if got := b.dropped(DropLimited); got < openPerSource {
			t.Errorf("%d limited", got)
		}
		if x, y := chat(a, b, 5*time.Second); x < 45 || y < 45 || a.status(b).Kind != "direct" {
			t.Errorf("%d and %d of 50 datagrams, by %q", x, y, a.status(b).Kind)
		}
	})
}
