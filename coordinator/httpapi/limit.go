package httpapi

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBlocks bounds how many addresses one generation of rates remembers; there are two generations, of about 100 bytes an entry.
const maxBlocks = 20_000

// rates is a token bucket for each block of addresses. When maxBlocks are remembered, the older generation is forgotten: who comes from
// that many addresses is not slowed by counting addresses anyway, and an address that keeps coming is carried over with its bucket.
type rates struct {
	limit rate.Limit
	burst int

	mu       sync.Mutex
	now, old map[netip.Prefix]*rate.Limiter
}

func newRates(perSecond float64, burst int) *rates {
	return &rates{limit: rate.Limit(perSecond), burst: burst, now: map[netip.Prefix]*rate.Limiter{}}
}

// spend takes one token of b. It returns 0, or after how long there will be one.
func (r *rates) spend(b netip.Prefix) time.Duration {
	res := r.bucket(b).Reserve()
	after := res.Delay()
	if after > 0 {
		res.Cancel()
	}
	return after
}

// wait is spend without spending.
func (r *rates) wait(b netip.Prefix) time.Duration {
	now := time.Now()
	res := r.bucket(b).ReserveN(now, 1)
	defer res.CancelAt(now) // at the moment it was made for: later, it would count
	return res.DelayFrom(now)
}

func (r *rates) bucket(b netip.Prefix) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.now[b]; ok {
		return l
	}
	l, ok := r.old[b]
	if !ok {
		l = rate.NewLimiter(r.limit, r.burst)
	}
	if len(r.now) >= maxBlocks {
		r.now, r.old = map[netip.Prefix]*rate.Limiter{}, r.now
	}
	r.now[b] = l
	return l
}

// slots caps how many things are held at once, of all and of each block of addresses.
type slots struct {
	all, each int

	mu    sync.Mutex
	taken map[netip.Prefix]int // no zeros, so at most all entries
	total int
}

func newSlots(all, each int) *slots {
	return &slots{all: all, each: each, taken: map[netip.Prefix]int{}}
}

// take returns how to give the slot back (more than one call does no harm), or false.
func (s *slots) take(b netip.Prefix) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.all || s.taken[b] >= s.each {
		return nil, false
	}
	s.total++
	s.taken[b]++
	return sync.OnceFunc(func() { s.give(b) }), true
}

func (s *slots) give(b netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.taken[b]--; s.taken[b] == 0 {
		delete(s.taken, b)
	}
}
