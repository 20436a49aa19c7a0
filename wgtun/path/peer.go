package path

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"picket.internal/wgtun/key"
)

// peer is one peer. Until it is used, or sends us a probe, it has no live state.
type peer struct {
	// Written under Bind.mu and table.mu, so either is enough to read.
	tunnel key.TunnelPublic // by which it is known to WireGuard
	hint   hint             // in its probes to us

	// For the packet path.
	way      atomic.Pointer[route]        // nil while no path is proved
	sent     atomic.Int64                 // instant of the newest Send
	received atomic.Int64                 // instant of the newest datagram from an address of its
	limit    atomic.Int32                 // how long datagrams to it may be
	stale    atomic.Bool                  // it has not answered since our tunnel key changed
	greeted  atomic.Int64                 // until then it begins the handshake under that key, an instant
	gate     sync.RWMutex                 // read-held while sending to it, so that RemovePeer can wait
	removed  bool                         // guarded by gate
	asleep   bool                         // guarded by Bind.mu
	opened   atomic.Pointer[rate.Limiter] // for probes from addresses it claims; nil while it has no live state

	// Guarded by Bind.mu.
	probe    key.ProbePublic
	keys     *keys // nil for nothing
	box      *box  // nil until needed
	told     []netip.AddrPort
	home     Home
	window   window // of its pings
	sequence uint64 // of our newest ping
	heard    instant
	live     *live
}

// route is the way in use; the struct lets an interface be swapped atomically.
type route struct{ way }

// live is the probing state of a peer, guarded by Bind.mu.
type live struct {
	candidates []*candidate  // those told first
	current    *candidate    // its way is peer.way
	since      instant       // current was taken up
	round      instant       // all candidates were last asked
	pause      time.Duration // before they are asked again, on a relay
	bound      []bound       // its claims in table.bindings, longest unrenewed first
	held       []held
	deferred   []deferred
	waiters    []*waiter
	observed   [2]observation // of us by the peer: IPv4, IPv6
	budget     *rate.Limiter  // for pings to what has not answered
	answers    *rate.Limiter  // for pongs
	urgent     bool           // is in Bind.urgent
	seek       seek
}

// bound is an address that the peer claims.
type bound struct {
	addr   netip.AddrPort
	proved bool
	until  instant
}

// held is a copy of a datagram that waits for a path.
type held struct {
	datagram []byte
	at       instant
}

// deferred is a pong that waits until WireGuard has a key of its peer's.
type deferred struct {
	pong   parcel
	tunnel key.TunnelPublic
}

// waiter is one call of Ping.
type waiter struct {
	since  instant
	answer chan answer // room for one
}

type answer struct {
	latency time.Duration
	from    netip.AddrPort
}

type observation struct {
	addr netip.AddrPort
	at   instant
}

// candidate is one address where a peer may be.
type candidate struct {
	way      way
	told     bool    // by SetPeer; else a ping came from there
	left     instant // when it was last left because it failed
	asked    instant
	due      instant // next ping; 0 when none is planned
	tries    int     // pings since the newest answer, or since this round began
	missed   instant // first ping of tries
	answered instant // newest pong; 0 when never, or when the proof was withdrawn
	latency  time.Duration
	sizing   sizing // while it is the way in use
	flight   [flightSize]flight
	next     int // slot in flight
}

// flight is a ping under way.
type flight struct {
	transaction transaction
	at          instant // 0 when empty
}

// flightSize is how many unanswered pings are remembered for each address: more than are sent in two seconds.
const flightSize = 8

func (c *candidate) addr() netip.AddrPort { return c.way.addr() }

func (c *candidate) direct() bool { return c.way.kind() == directKind }

// before reports whether a candidate is to be preferred to another: direct ways to relays, then by latency.
func (c *candidate) before(o *candidate) bool {
	if c.direct() != o.direct() {
		return c.direct()
	}
	return c.latency < o.latency
}

// proved reports a recent answer.
func (c *candidate) proved(now instant) bool { return c.answered != 0 && now-c.answered < proofLife }

// depart notes a ping.
func (c *candidate) depart(t transaction, now instant) {
	if c.tries == 0 {
		c.missed = now
	}
	c.tries++
	c.asked = now
	c.flight[c.next] = flight{t, now}
	c.next = (c.next + 1) % flightSize
}

// land finds the ping that a pong answers and forgets it with all older ones; false when there is none.
func (c *candidate) land(t transaction, now instant) (sent instant, ok bool) {
	for i, f := range c.flight {
		if f.at != 0 && f.transaction == t && now-f.at <= answerLife {
			sent, ok = f.at, true
			c.flight[i] = flight{}
		}
	}
	if ok {
		for i, f := range c.flight {
			if f.at <= sent {
				c.flight[i] = flight{}
			}
		}
	}
	return sent, ok
}

// measured takes in one round trip. A first one stands; later ones count a quarter, so that one late answer moves little.
func (c *candidate) measured(rtt time.Duration) {
	if c.latency == 0 {
		c.latency = rtt
		return
	}
	c.latency += (rtt - c.latency) / 4
}

// retryAfter is how long to wait for an answer before asking again.
func (c *candidate) retryAfter() time.Duration {
	return min(max(c.latency*3/2, tick), time.Second)
}

func (l *live) find(a netip.AddrPort) *candidate {
	i := slices.IndexFunc(l.candidates, func(c *candidate) bool { return c.addr() == a })
	if i < 0 {
		return nil
	}
	return l.candidates[i]
}

// reflexive adds an address that the peer probed us from, in place of the oldest such one without proof when there are too many; nil when there is no room.
func (l *live) reflexive(w way, now instant) *candidate {
	count, oldest := 0, -1
	for i, c := range l.candidates {
		if c.told || c == l.current {
			continue
		}
		count++
		if !c.proved(now) && (oldest < 0 || c.asked < l.candidates[oldest].asked) {
			oldest = i
		}
	}
	if count >= maxReflexive {
		if oldest < 0 {
			return nil
		}
		l.candidates = slices.Delete(l.candidates, oldest, oldest+1)
	}
	c := &candidate{way: w}
	l.candidates = append(l.candidates, c)
	return c
}

// silence counts the direct candidates, and those among them that have been asked since they last answered.
func (p *peer) silence() (known, silent int) {
	if p.live == nil {
		return len(p.told), 0
	}
	for _, c := range p.live.candidates {
		if c.way.kind() != directKind {
			continue
		}
		known++
		if c.tries > 0 {
			silent++
		}
	}
	return known, silent
}

// used is the instant of the newest traffic either way.
func (p *peer) used() instant { return max(load(&p.sent), load(&p.received)) }

// asking reports whether any ping is planned.
func (l *live) asking() bool {
	return slices.ContainsFunc(l.candidates, func(c *candidate) bool { return c.due != 0 })
}
