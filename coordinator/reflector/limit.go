package reflector

import (
	"hash/maphash"
	"net/netip"

	"golang.org/x/time/rate"

	"picket.internal/coordinator/clientaddr"
)

// How often is answered. A node asks each port twice in 25 s, and a few times more when its network changes.
const (
	perSource   = 50 // a second: many nodes may share one address
	sourceBurst = 200
	perSecond   = 10000
	burst       = 10000
	buckets     = 4096
)

// limiter limits by source in constant memory: sources share a fixed number of buckets, by a hash that nobody outside can foresee.
// IPv6 sources count by /64.
type limiter struct {
	seed    maphash.Seed
	all     *rate.Limiter
	buckets [buckets]*rate.Limiter
}

func newLimiter() *limiter {
	l := &limiter{seed: maphash.MakeSeed(), all: rate.NewLimiter(perSecond, burst)}
	for i := range l.buckets {
		l.buckets[i] = rate.NewLimiter(perSource, sourceBurst)
	}
	return l
}

// allow reports whether one more request from a may be answered. It is safe for concurrent use.
func (l *limiter) allow(a netip.Addr) bool {
	network := clientaddr.Block(a)
	if !network.IsValid() {
		return false
	}
	return l.buckets[maphash.Comparable(l.seed, network)%buckets].Allow() && l.all.Allow()
}
