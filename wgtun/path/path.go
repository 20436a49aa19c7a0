package path

import (
	"context"
	"errors"
	"fmt"
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
	Candidates []netip.AddrPort // where it may be found; at most MaxCandidates are used
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
	silence      = 3 * time.Second        // of a way on which we send, before it is asked out of turn
	roundEvery   = time.Minute            // all candidates of peers in use are asked
	roundAtLeast = 5 * time.Second        // between rounds that a peer's pings set off
	dwell        = 30 * time.Second       // before a way is left for a merely faster one
	wantedLife   = 10 * time.Second       // after a Send without path, candidates are asked so long; WireGuard tries each 5 s

	triesAfresh    = 3 // quick repetitions of a ping to a candidate
	triesToDoubt   = 2 // unanswered pings on the way in use after which another that answers is taken, or looked for
	triesToAbandon = 4 // after which a silent way is left for none
	triesAtMost    = 8 // after which it is left though datagrams, which anybody may forge, still come from there

	maxReflexive   = 4
	maxProvisional = 4
	maxBound       = MaxCandidates + maxReflexive + maxProvisional

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
}

// Status is what is known of the path to a peer.
type Status struct {
	Kind    string         // "direct", or "" when no path is proved
	Addr    netip.AddrPort // of the proved path
	Latency time.Duration  // smoothed round trip of its probes; 0 when no path is proved
	Since   time.Time      // when this path was taken up
	Heard   time.Time      // last authenticated probe or pong
}

// Bind implements conn.Bind. A WireGuard endpoint is a peer, never an address: see Endpoint. All methods are safe for concurrent use.
//
// Locks, outermost first: Bind.mu, then table.mu. A peer's gate is held while sending and by RemovePeer, never together with Bind.mu.
type Bind struct {
	inner   conn.Bind
	config  Config
	self    identity
	logger  *slog.Logger
	epoch   time.Time
	limiter *sourceLimiter
	outbox  chan parcel
	wake    chan struct{} // room for one
	port    atomic.Uint32 // 0 while closed
	table   table
	counters

	mu        sync.Mutex
	alive     map[*peer]struct{} // those with live state
	urgent    []*peer            // to be looked at before the next tick
	heldSize  int
	pingLimit *rate.Limiter
}

var _ conn.Bind = (*Bind)(nil)

// New returns a Bind without peers; it starts nothing.
func New(c Config) *Bind {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Overlay = slices.Clone(c.Overlay)
	return &Bind{
		inner:     c.Inner,
		config:    c,
		self:      identity{tunnel: c.Tunnel, probe: c.Probe, public: c.Probe.Public()},
		logger:    c.Logger,
		epoch:     time.Now().Add(-time.Hour),
		limiter:   newSourceLimiter(),
		outbox:    make(chan parcel, outboxSize),
		wake:      make(chan struct{}, 1),
		table:     newTable(),
		alive:     make(map[*peer]struct{}),
		pingLimit: rate.NewLimiter(pingPerSecond, pingBurst),
	}
}

func (b *Bind) now() instant { return time.Since(b.epoch) }

// date is an instant's time; the zero Time for never.
func (b *Bind) date(i instant) time.Time {
	if i == 0 {
		return time.Time{}
	}
	return b.epoch.Add(i)
}

// SetPeer adds a peer, or changes its probe key or candidates; setting what is already so does nothing. Candidates that may not be
// probed are left out and counted. A path already proved stays while its probes are answered, even when its address is no longer
// among the candidates. Our own key is ignored.
func (b *Bind) SetPeer(p Peer) {
	told, refused := b.normal(p.Candidates)
	b.drop(DropCandidate, refused)
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.table.peer(p.Tunnel)
	if known == nil {
		b.addPeerLocked(p, told)
		return
	}
	sameKey, sameTold := known.probe == p.Probe, slices.Equal(known.told, told)
	if sameKey && sameTold {
		return
	}
	known.told = told
	if !sameKey {
		known.probe, known.box, known.window = p.Probe, nil, window{}
	}
	if known.live == nil {
		return
	}
	if !sameKey {
		b.doubtLocked(known)
	}
	b.retellLocked(known)
	if b.wantedLocked(known, b.now()) {
		b.askAllLocked(known)
	}
}

func (b *Bind) addPeerLocked(p Peer, told []netip.AddrPort) {
	if p.Tunnel == b.self.tunnel {
		return
	}
	added := &peer{
		tunnel: p.Tunnel, probe: p.Probe, told: told,
		hint: hintFor(b.self.public, p.Tunnel),
		// Above all of an earlier life of this peer here, so that its window takes our pings.
		sequence: uint64(b.epoch.Add(b.now()).UnixNano()),
	}
	if !b.table.add(added) {
		b.logger.Warn("peer left without path: its probes would pass for another's", "peer", p.Tunnel.Short())
	}
}

// doubtLocked leaves of all proofs, and of all claims to addresses, only the grace that a peer with a new probe key is given, and
// forgets what was asked under the old one.
func (b *Bind) doubtLocked(p *peer) {
	l, now := p.live, b.now()
	for i := range l.bound {
		x := &l.bound[i]
		x.until = min(x.until, now+grace)
		b.table.bind(x.addr, p, &Endpoint{bind: b, tunnel: p.tunnel, from: x.addr}, false, x.until)
	}
	for _, c := range l.candidates {
		c.flight = [flightSize]flight{}
		c.tries = 0
		if c != l.current {
			c.answered = 0
			continue
		}
		c.answered = min(c.answered, now-proofLife+grace)
		c.due = now
	}
}

// retellLocked makes the live candidates those told, and keeps any other only while it is proved.
func (b *Bind) retellLocked(p *peer) {
	l, now := p.live, b.now()
	old := l.candidates
	l.candidates = nil
	for _, a := range p.told {
		i := slices.IndexFunc(old, func(c *candidate) bool { return c.addr() == a })
		if i >= 0 {
			old[i].told = true
			l.candidates = append(l.candidates, old[i])
			old = slices.Delete(old, i, i+1)
			continue
		}
		if w := b.newDirect(a); w != nil {
			l.candidates = append(l.candidates, &candidate{way: w, told: true})
		}
	}
	kept := 0
	for _, c := range old {
		if c == l.current || kept < maxReflexive && (!c.told || c.proved(now)) {
			c.told = false
			l.candidates = append(l.candidates, c)
			kept++
		}
	}
}

// RemovePeer forgets a peer: once it returns nothing is sent to it, and nothing from its addresses is handed up. It waits for a
// batch that is just being sent. Removing who is not known does nothing.
func (b *Bind) RemovePeer(t key.TunnelPublic) {
	p := b.table.peer(t)
	if p == nil {
		return
	}
	p.gate.Lock()
	p.removed = true
	p.gate.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.table.remove(p)
	if p.live != nil {
		b.dozeLocked(p)
	}
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
	if l := p.live; l != nil && l.current != nil {
		s.Kind, s.Addr = l.current.way.kind(), l.current.addr()
		s.Latency, s.Since = l.current.latency, b.date(l.since)
	}
	return s, true
}

// Ping sends a probe at once and waits for the answer: its round-trip time and the address it came from. Unanswered it is sent
// again, on every way there is, until ctx ends. The error is ErrNoPeer when the peer is not known or is removed meanwhile, else
// ctx's. Run must be running.
func (b *Bind) Ping(ctx context.Context, t key.TunnelPublic) (time.Duration, netip.AddrPort, error) {
	w := &waiter{since: b.now(), answer: make(chan answer, 1)}
	p, err := b.await(t, w)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	select {
	case a, ok := <-w.answer:
		if !ok {
			return 0, netip.AddrPort{}, fmt.Errorf("ping %s: %w", t.Short(), ErrNoPeer)
		}
		return a.latency, a.from, nil
	case <-ctx.Done():
		b.forget(p, w)
		return 0, netip.AddrPort{}, fmt.Errorf("ping %s: no answer: %w", t.Short(), ctx.Err())
	}
}

// await enters w among those who wait for p's next answer, and has p asked.
func (b *Bind) await(t key.TunnelPublic, w *waiter) (*peer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	if p == nil {
		return nil, fmt.Errorf("ping %s: %w", t.Short(), ErrNoPeer)
	}
	l := b.rouseLocked(p)
	if len(l.waiters) >= maxWaiters {
		return nil, fmt.Errorf("ping %s: %d pings are waiting already", t.Short(), maxWaiters)
	}
	l.waiters = append(l.waiters, w)
	if l.current == nil {
		b.roundLocked(p)
	} else {
		l.current.due = b.now()
	}
	b.hastenLocked(p)
	return p, nil
}

func (b *Bind) forget(p *peer, w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.live != nil {
		p.live.waiters = slices.DeleteFunc(p.live.waiters, func(x *waiter) bool { return x == w })
	}
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

// Observed lists the addresses under which peers have lately seen us, those seen by most first, at most 8. Each is a peer's word
// only: a lying one can add one address for each IP version.
func (b *Bind) Observed() []netip.AddrPort {
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
	for a := range votes {
		out = append(out, a)
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
