package path

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
)

// Peer is what the path layer must know of a peer.
type Peer struct {
	Tunnel     key.TunnelPublic
	Probe      key.ProbePublic
	Next       key.TunnelPublic // that its device has certified to follow Tunnel; zero for none
	Candidates []netip.AddrPort // where it may be found; at most MaxCandidates are used
	Home       Home             // where it is found through relays
}

// MaxCandidates bounds the candidate addresses of one peer.
const MaxCandidates = 32

// Times and bounds of probing. The package documentation says what each is for.
const (
	tick         = 250 * time.Millisecond // Run looks at live peers this often
	proofLife    = 30 * time.Second       // of an answer
	grace        = 3 * time.Second        // for the way of a peer whose probe key changed
	answerLife   = 5 * time.Second        // how late an answer may come
	bindingLife  = 3 * time.Minute        // of an address for incoming datagrams; over proofLife, so the peer stops first
	usedLife     = 2 * time.Minute        // a peer counts as in use so long after traffic
	keepalive    = 5 * time.Second        // between pings on a way in use
	silence      = time.Second            // of a way on which we send, before it is asked out of turn
	roundEvery   = time.Minute            // all candidates of peers in use are asked
	roundRelayed = 5 * time.Second        // while a relay is in use, at first; then less and less often
	roundAtLeast = 5 * time.Second        // between rounds that a peer's pings set off
	dwell        = 30 * time.Second       // before a way is left for a merely faster one
	returnAfter  = 5 * time.Second        // before a direct way that failed is taken again in place of a relay
	wantedLife   = 10 * time.Second       // after a Send without path, candidates are asked so long; WireGuard tries each 5 s

	triesAfresh    = 3 // quick repetitions of a ping to a candidate
	triesToDoubt   = 2 // unanswered pings on the way in use after which another that answers is taken, or looked for
	triesToAbandon = 4 // after which a silent way is left for none
	triesAtMost    = 8 // after which it is left though datagrams, which anybody may forge, still come from there

	maxReflexive   = 4
	maxProvisional = 4
	maxBound       = MaxCandidates + 2 + maxReflexive + maxProvisional // its home and a spare one, too

	heldLife    = 3 * time.Second
	maxHeld     = 8        // datagrams a peer
	maxHeldSize = 64 << 10 // bytes a peer
	maxHeldAll  = 4 << 20  // bytes in all

	maxObserved  = 8
	observedLife = 5 * time.Minute
	maxWaiters   = 64
	outboxSize   = 512
)

// ErrNoPeer is returned when a peer is not known, or was removed.
var ErrNoPeer = errors.New("no such peer")

// Config of a Bind.
type Config struct {
	Inner  conn.Bind // the UDP sockets, e.g. conn.NewDefaultBind(); a Bind owns it
	Tunnel key.TunnelPublic
	Probe  key.ProbePrivate
	Logger *slog.Logger // nil logs nothing

	// Overlay are the network's own prefixes: nothing is ever probed there, for it would be a path through itself.
	Overlay []netip.Prefix
	// AllowLoopback lets loopback addresses be candidates: for tests, and for several nodes on one machine.
	AllowLoopback bool
	// MaxDatagram is the longest datagram of use, in bytes of UDP payload: up to there each path is measured, if the inner bind can. At most
	// BaseDatagram: none is.
	MaxDatagram int

	// Relay carries datagrams to peers that have a home. Nil: only direct ways are used.
	Relay Carrier

	// Wake is called when a sleeping peer has pinged us, and with the next key of one that has taken that up, without waiting and perhaps more
	// than once: see Sleep and Succeed. Nil: no peer sleeps, and none changes its key.
	Wake func(key.TunnelPublic)
	// Seek is called, without waiting, when a peer in use has no direct path: its own pings, sent at the same time, may open one. It is called at
	// once and then less and less often while that lasts. Nil: nobody is told.
	Seek func(key.TunnelPublic)
	// Reflected is called, without waiting, when what Reflexive returns has changed. Nil: nobody is told.
	Reflected func()
}

// Status is what is known of the path to a peer.
type Status struct {
	Kind    string         // "direct" or "relay", or "" when no path is proved
	Addr    netip.AddrPort // of a direct path
	Relay   string         // the name of a relay
	Latency time.Duration  // smoothed round trip of its probes; 0 when no path is proved
	Since   time.Time      // when this path was taken up
	Heard   time.Time      // last authenticated probe or pong
	// While no direct path is proved: how many addresses are known for the peer, and how many of them were asked lately without an answer.
	Known, Silent int
}

// String is the path in words: "direct ADDRESS", "relay NAME", or "" for none.
func (s Status) String() string {
	switch s.Kind {
	case directKind:
		return s.Kind + " " + s.Addr.String()
	case relayKind:
		return s.Kind + " " + s.Relay
	}
	return s.Kind
}

// Bind implements conn.Bind. A WireGuard endpoint is a peer, never an address: see Endpoint. All methods are safe for concurrent use.
//
// Locks, outermost first: Bind.mu, then table.mu. A peer's gate is held while sending and by RemovePeer, never together with Bind.mu.
type Bind struct {
	inner    conn.Bind
	config   Config
	self     identity
	logger   *slog.Logger
	epoch    time.Time
	limiter  *sourceLimiter
	outbox   chan parcel
	wake     chan struct{} // room for one
	port     atomic.Uint32 // 0 while closed
	overlay  atomic.Pointer[[]netip.Prefix]
	table    table
	mirrors  mirrors
	arrivals chan carried // from relays
	counters

	mu        sync.Mutex
	closed    chan struct{}      // when the receives from relays are to end; nil before the first
	tunnel    key.TunnelPublic   // ours
	alive     map[*peer]struct{} // those with live state
	urgent    []*peer            // to be looked at before the next tick
	heldSize  int
	pingLimit *rate.Limiter

	ladder []int // lengths to try; never changes
}

var _ conn.Bind = (*Bind)(nil)

// New returns a Bind without peers; it starts nothing.
func New(c Config) *Bind {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bind{
		inner:     c.Inner,
		config:    c,
		self:      identity{probe: c.Probe, public: c.Probe.Public()},
		tunnel:    c.Tunnel,
		logger:    c.Logger,
		epoch:     time.Now().Add(-time.Hour),
		limiter:   newSourceLimiter(),
		outbox:    make(chan parcel, outboxSize),
		wake:      make(chan struct{}, 1),
		arrivals:  make(chan carried, maxArrivals),
		table:     newTable(),
		alive:     make(map[*peer]struct{}),
		pingLimit: rate.NewLimiter(pingPerSecond, pingBurst),
	}
	if _, can := c.Inner.(unfragmented); can {
		b.ladder = ladder(c.MaxDatagram)
	}
	b.SetOverlay(c.Overlay)
	b.mirrors.wake = make(chan struct{}, 1)
	return b
}

// SetOverlay replaces Config.Overlay, for a network whose prefixes are learnt later. Paths already proved are not looked at again.
func (b *Bind) SetOverlay(prefixes []netip.Prefix) {
	prefixes = slices.Clone(prefixes)
	b.overlay.Store(&prefixes)
}

func (b *Bind) now() instant { return time.Since(b.epoch) }

// date is an instant's time; the zero Time for never.
func (b *Bind) date(i instant) time.Time {
	if i == 0 {
		return time.Time{}
	}
	return b.epoch.Add(i)
}

// Status reports the path to a peer; false when there is no such peer.
func (b *Bind) Status(t key.TunnelPublic) (Status, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	if p == nil {
		return Status{}, false
	}
	s := Status{Heard: b.date(p.heard)}
	if l := p.live; l == nil || l.current == nil || l.current.way.kind() != directKind {
		s.Known, s.Silent = p.silence()
	}
	if l := p.live; l != nil && l.current != nil {
		s.Kind = l.current.way.kind()
		switch w := l.current.way.(type) {
		case *direct:
			s.Addr = w.to
		case *relayed:
			s.Relay = w.at.Relay
		}
		s.Latency, s.Since = l.current.latency, b.date(l.since)
	}
	return s, true
}

// Reprobe asks all peers in use anew, at once: for a changed address, interface or default route, and after sleep.
func (b *Bind) Reprobe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for p := range b.alive {
		if b.wantedLocked(p, now) {
			b.askAllLocked(p)
		}
	}
}

// LocalPort is the open UDP port; 0 while closed.
func (b *Bind) LocalPort() uint16 { return uint16(b.port.Load()) }

// Observed lists the addresses under which at least so many peers have lately seen us, those seen by most first, at most 8. Each is these peers' word
// only: a lying one can add one address for each IP version.
func (b *Bind) Observed(least int) []netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	votes := make(map[netip.AddrPort]int)
	for p := range b.alive {
		for _, o := range p.live.observed {
			if o.at != 0 && now-o.at < observedLife {
				votes[o.addr]++
			}
		}
	}
	out := make([]netip.AddrPort, 0, len(votes))
	for a, n := range votes {
		if n >= least {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(x, y netip.AddrPort) int {
		if votes[x] != votes[y] {
			return votes[y] - votes[x]
		}
		return x.Compare(y)
	})
	return out[:min(len(out), maxObserved)]
}

// Stats returns a snapshot.
func (b *Bind) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.snapshot()
	s.Peers, s.Live = b.table.count(), len(b.alive)
	return s
}
