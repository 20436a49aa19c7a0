package path

import (
	"maps"
	"sync/atomic"
)

// Drop says why a datagram went no further. Hostile datagrams are not errors: they are counted.
type Drop uint8

const (
	// DropStranger is a WireGuard message from an address that no authenticated probe bound to a peer.
	DropStranger Drop = iota
	// DropForeign is a datagram that is neither WireGuard's nor a probe.
	DropForeign
	// DropMalformed is a probe of another size or version.
	DropMalformed
	// DropForbidden is a probe from an address that is never probed: loopback, overlay and the like.
	DropForbidden
	// DropUnknown is a probe with the hint of no peer.
	DropUnknown
	// DropLimited is a probe beyond its source's rate, or beyond the rate of all.
	DropLimited
	// DropUnauthentic is a probe that the key of its alleged sender does not open.
	DropUnauthentic
	// DropReplayed is a ping whose sequence number was taken before, or is too old to tell.
	DropReplayed
	// DropUnasked is a pong to no ping of ours, or from another address than the ping went to.
	DropUnasked
	// DropBusy is an answer, or a waiting datagram, for which the outbox had no room.
	DropBusy
	// DropNoPeer is an outgoing datagram for a peer that is not, or no longer, known.
	DropNoPeer
	// DropNoPath is an outgoing datagram that waited for a path in vain or was pushed out by newer ones.
	DropNoPath
	// DropCandidate is a candidate address refused: of a forbidden kind, or beyond MaxCandidates.
	DropCandidate
	// DropRelayBusy is an outgoing datagram that no relay took.
	DropRelayBusy
	// DropReflection is what looks like a reflector's answer and is none to a question of ours: forged, late, from another address, or a second time.
	DropReflection
	// DropKey is a ping that names a tunnel key which is neither its sender's, nor the next that its device has certified.
	DropKey

	drops
)

var dropNames = [drops]string{
	"stranger", "foreign", "malformed", "forbidden", "unknown", "limited", "unauthentic", "replayed", "unasked", "busy", "no-peer", "no-path", "candidate", "relay-busy", "reflection", "key",
}

// String is one short word, fit for a metric's label.
func (d Drop) String() string {
	if d >= drops {
		return "invalid"
	}
	return dropNames[d]
}

// Stats counts since New.
type Stats struct {
	Pings, Pongs uint64          // sent
	Drops        map[Drop]uint64 // reasons that occurred
	Peers, Live  int             // known now; of these with probing state now
}

// counters is the live form of Stats.
type counters struct {
	pings, pongs atomic.Uint64
	drops        [drops]atomic.Uint64
}

func (c *counters) drop(d Drop, n int) { c.drops[d].Add(uint64(n)) }

func (c *counters) snapshot() Stats {
	s := Stats{Pings: c.pings.Load(), Pongs: c.pongs.Load(), Drops: make(map[Drop]uint64)}
	for d := range drops {
		s.Drops[d] = c.drops[d].Load()
	}
	maps.DeleteFunc(s.Drops, func(_ Drop, n uint64) bool { return n == 0 })
	return s
}
