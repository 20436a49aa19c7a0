package relayhttp

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBlocks bounds how many addresses limits remembers the pace of. Beyond that all are forgotten: who comes from that many addresses is not
// slowed by counting addresses anyway.
const maxBlocks = 20_000

// limits count by blocks of addresses, as clientaddr.Block has them.
type limits struct {
	Limits

	mu    sync.Mutex
	paces map[netip.Prefix]*rate.Limiter
	of    map[netip.Prefix]int // logins under way; no zeros, so at most Opening entries
	all   int
}

func newLimits(l Limits) *limits {
	if l.PerSecond == 0 {
		l.PerSecond = 30
	}
	if l.Burst == 0 {
		l.Burst = 600
	}
	if l.Opening == 0 {
		l.Opening = 1024
	}
	if l.OpeningOf == 0 {
		l.OpeningOf = 64
	}
	return &limits{Limits: l, paces: make(map[netip.Prefix]*rate.Limiter), of: make(map[netip.Prefix]int)}
}

// spend counts a request of b. It returns 0, or after how long there may be one.
func (l *limits) spend(b netip.Prefix) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	pace := l.paces[b]
	if pace == nil {
		if len(l.paces) >= maxBlocks {
			clear(l.paces)
		}
		pace = rate.NewLimiter(rate.Limit(l.PerSecond), l.Burst)
		l.paces[b] = pace
	}
	res := pace.Reserve()
	after := res.Delay()
	if after > 0 {
		res.Cancel()
	}
	return after
}

// open takes a place for a login. It returns how to give it back (more than one call does no harm), or false.
func (l *limits) open(b netip.Prefix) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.Opening || l.of[b] >= l.OpeningOf {
		return nil, false
	}
	l.all++
	l.of[b]++
	return sync.OnceFunc(func() { l.give(b) }), true
}

func (l *limits) give(b netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.of[b]--; l.of[b] == 0 {
		delete(l.of, b)
	}
}
