package clientaddr

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBlocks bounds how many addresses one generation of rates remembers; there are two generations, of about 100 bytes an entry.
const maxBlocks = 20_000

// Rates is a token bucket for each Block of addresses, safe for concurrent use. When maxBlocks are remembered, the older generation is forgotten: who comes from
// that many addresses is not slowed by counting addresses anyway, and an address that keeps coming is carried over with its bucket.
type Rates struct {
	limit rate.Limit
	burst int

	mu       sync.Mutex
	now, old map[netip.Prefix]*rate.Limiter
}

// NewRates gives each block so many tokens a second, and burst at once.
func NewRates(perSecond float64, burst int) *Rates {
	return &Rates{limit: rate.Limit(perSecond), burst: burst, now: map[netip.Prefix]*rate.Limiter{}}
}

// Spend takes one token of b. It returns 0, or after how long there will be one.
func (r *Rates) Spend(b netip.Prefix) time.Duration {
	res := r.bucket(b).Reserve()
	after := res.Delay()
	if after > 0 {
		res.Cancel()
	}
	return after
}

// Wait is Spend without spending.
func (r *Rates) Wait(b netip.Prefix) time.Duration {
	now := time.Now()
	res := r.bucket(b).ReserveN(now, 1)
	defer res.CancelAt(now) // at the moment it was made for: later, it would count
	return res.DelayFrom(now)
}

func (r *Rates) bucket(b netip.Prefix) *rate.Limiter {
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

// Slots caps how many things are held at once, of all and of each Block of addresses. It is safe for concurrent use.
type Slots struct {
	all, each int

	mu    sync.Mutex
	taken map[netip.Prefix]int // no zeros, so at most all entries
	total int
}

// NewSlots has all slots, and each of them for one block.
func NewSlots(all, each int) *Slots {
	return &Slots{all: all, each: each, taken: map[netip.Prefix]int{}}
}

// Take returns how to give the slot back (more than one call does no harm), or false.
func (s *Slots) Take(b netip.Prefix) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.all || s.taken[b] >= s.each {
		return nil, false
	}
	s.total++
	s.taken[b]++
	return sync.OnceFunc(func() { s.give(b) }), true
}

// Held is how many slots are taken.
func (s *Slots) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (s *Slots) give(b netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.taken[b]--; s.taken[b] == 0 {
		delete(s.taken, b)
	}
}
