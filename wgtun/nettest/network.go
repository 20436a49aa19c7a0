package nettest

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Link is what befalls datagrams between two places, the same in both directions. The zero Link is perfect.
type Link struct {
	Latency   time.Duration // one way
	Jitter    time.Duration // up to this much more, evenly spread; datagrams may overtake each other by it
	Loss      float64       // share of datagrams lost, 0 to 1
	Duplicate float64       // share delivered twice, 0 to 1
	Reorder   float64       // share held back for one more Latency, at least a millisecond
	Down      bool          // nothing passes
	Longest   int           // longer datagrams are lost, without word; bytes of payload, 0 for no bound
}

// Datagram is one UDP datagram as the outermost network sees it.
type Datagram struct {
	From, To netip.AddrPort
	Payload  []byte
}

// Place is where a datagram can be sent from or arrive in a network: a Host or a NAT.
type Place interface {
	arriveLocked(d Datagram)
}

// Stats counts datagrams over a Network's life.
type Stats struct {
	Sent      int // handed to a link
	Lost      int // by a link's Loss, or because it was Down
	NoRoute   int // to an address that nobody has
	Filtered  int // refused by a NAT
	NoSocket  int // to a port that nobody has open
	Overflow  int // to a socket whose queue was full
	Delivered int
}

// Network is an internet. All its methods, and those of what it makes, are safe for concurrent use.
type Network struct {
	internet *realm

	mu       sync.Mutex // guards all below, and everything inside realms, hosts, NATs and sockets
	rand     *rand.Rand
	standard Link
	links    map[[2]Place]Link
	flight   flight
	order    uint64
	timer    *time.Timer
	taps     []func(Datagram)
	stats    Stats
}

// realm is one address space: the internet, or the inside of a NAT.
type realm struct {
	network *Network
	gateway *NAT // nil in the internet
	places  map[netip.Addr]Place
}

// New returns an internet without hosts, whose links are perfect.
func New(seed uint64) *Network {
	n := &Network{
		rand:  rand.New(rand.NewPCG(seed, seed)),
		links: make(map[[2]Place]Link),
	}
	n.internet = &realm{network: n, places: make(map[netip.Addr]Place)}
	return n
}

// SetDefault sets the link between any two places that SetLink does not name.
func (n *Network) SetDefault(l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.standard = l
}

// SetLink sets the link between a and b. For hosts behind a NAT, what crosses the NAT takes the link between the sending host
// and the NAT it arrives at.
func (n *Network) SetLink(a, b Place, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[[2]Place{a, b}] = l
	n.links[[2]Place{b, a}] = l
}

// Tap calls f for each datagram handed to a link, after outward translation and before any loss. f must not call the Network and
// must not keep the payload.
func (n *Network) Tap(f func(Datagram)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taps = append(n.taps, f)
}

// Stats returns a snapshot.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

func (n *Network) linkLocked(a, b Place) Link {
	if l, ok := n.links[[2]Place{a, b}]; ok {
		return l
	}
	return n.standard
}

// launchLocked sends d, whose payload is the network's own copy, from a place into its realm, and outward through gateways until
// some realm knows the destination.
func (n *Network) launchLocked(from Place, in *realm, d Datagram) {
	for {
		to, ok := in.places[d.To.Addr()]
		if ok {
			n.carryLocked(n.linkLocked(from, to), to, d)
			return
		}
		if in.gateway == nil {
			n.tapLocked(d)
			n.stats.Sent++
			n.stats.NoRoute++
			return
		}
		gateway := in.gateway
		if d.From, ok = gateway.outwardLocked(d.From, d.To); !ok {
			n.stats.NoRoute++
			return
		}
		in = gateway.outside
	}
}

func (n *Network) tapLocked(d Datagram) {
	for _, f := range n.taps {
		f(d)
	}
}

func (n *Network) carryLocked(l Link, to Place, d Datagram) {
	n.tapLocked(d)
	n.stats.Sent++
	if l.Down || l.Longest > 0 && len(d.Payload) > l.Longest || n.chanceLocked(l.Loss) {
		n.stats.Lost++
		return
	}
	n.scheduleLocked(n.delayLocked(l), to, d)
	if n.chanceLocked(l.Duplicate) {
		n.scheduleLocked(n.delayLocked(l), to, d)
	}
}

func (n *Network) chanceLocked(p float64) bool { return p > 0 && n.rand.Float64() < p }

func (n *Network) delayLocked(l Link) time.Duration {
	d := l.Latency
	if l.Jitter > 0 {
		d += time.Duration(n.rand.Int64N(int64(l.Jitter)))
	}
	if n.chanceLocked(l.Reorder) {
		d += max(l.Latency, time.Millisecond)
	}
	return d
}

// scheduleLocked lets d arrive after delay. Datagrams due at one moment arrive in the order they were sent.
func (n *Network) scheduleLocked(delay time.Duration, to Place, d Datagram) {
	if delay <= 0 {
		to.arriveLocked(d)
		return
	}
	n.order++
	heap.Push(&n.flight, airborne{due: time.Now().Add(delay), order: n.order, to: to, datagram: d})
	n.armLocked()
}

// armLocked sets the one timer for the next arrival; there is no goroutine while nothing is under way.
func (n *Network) armLocked() {
	if len(n.flight) == 0 {
		return
	}
	wait := time.Until(n.flight[0].due)
	if n.timer == nil {
		n.timer = time.AfterFunc(wait, n.land)
		return
	}
	n.timer.Reset(wait)
}

func (n *Network) land() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for now := time.Now(); len(n.flight) > 0 && !n.flight[0].due.After(now); {
		a := heap.Pop(&n.flight).(airborne)
		a.to.arriveLocked(a.datagram)
	}
	n.armLocked()
}

// airborne is a datagram under way.
type airborne struct {
	due      time.Time
	order    uint64
	to       Place
	datagram Datagram
}

// flight is a heap of what is under way, next arrival first.
type flight []airborne

func (f flight) Len() int { return len(f) }
func (f flight) Less(i, j int) bool {
	if f[i].due.Equal(f[j].due) {
		return f[i].order < f[j].order
	}
	return f[i].due.Before(f[j].due)
}
func (f flight) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flight) Push(x any)   { *f = append(*f, x.(airborne)) }
func (f *flight) Pop() any {
	old := *f
	x := old[len(old)-1]
	*f = old[:len(old)-1]
	return x
}
