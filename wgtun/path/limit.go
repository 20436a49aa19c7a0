package path

import (
	"hash/maphash"
	"net/netip"

	"golang.org/x/time/rate"
)

// How often probes that may be forged are decrypted, at about 2 us each. Those that name a peer and come from an address it claims are
// counted apart, by peer: neither who floods from elsewhere, nor at little expense who forges this source, must drown the few honest probes
// that keep up the peer's proof.
const (
	openPerSource   = 1000 // a second; hundreds of honest nodes may share one address
	openSourceBurst = 1000
	openPerSecond   = 20000
	openBurst       = 20000
	openClaimed     = 20000 // for each peer, and at once
	sourceBuckets   = 1024
)

// How many pings of one peer are answered: more than an honest one sends to all our addresses.
const (
	pongPerPeer   = 100 // a second
	pongPeerBurst = 200
)

// How often addresses that have not answered yet are pinged.
const (
	pingPerPeer   = 16 // a second
	pingPeerBurst = 2 * MaxCandidates
	pingPerSecond = 1000 // 1 Mbit/s
	pingBurst     = 2000
)

// sourceLimiter limits by source address in constant memory: sources share a fixed number of buckets, by a hash that nobody outside can
// foresee. IPv6 sources count by /64.
type sourceLimiter struct {
	seed    maphash.Seed
	all     *rate.Limiter
	buckets [sourceBuckets]*rate.Limiter
}

func newSourceLimiter() *sourceLimiter {
	l := &sourceLimiter{seed: maphash.MakeSeed(), all: rate.NewLimiter(openPerSecond, openBurst)}
	for i := range l.buckets {
		l.buckets[i] = rate.NewLimiter(openPerSource, openSourceBurst)
	}
	return l
}

// allow reports whether one more probe from a may be decrypted. It is safe for concurrent use.
func (l *sourceLimiter) allow(a netip.Addr) bool {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	network, err := a.Prefix(bits)
	if err != nil {
		return false
	}
	return l.buckets[maphash.Comparable(l.seed, network)%sourceBuckets].Allow() && l.all.Allow()
}
