package filter

import (
	"net/netip"

	"picket.internal/acl"
)

// FlowCount is how many live flows are alike in everything but the port of the end that opened them.
type FlowCount struct {
	Peer          acl.NodeID
	Local, Remote netip.Addr
	Out           bool // opened by this node
	Proto         acl.Proto
	Port          uint16 // of the end that did not open them; 0 for protocols without ports
	Count         int
}

// Census is the live flows, summed up.
type Census struct {
	Total  int // all of them, also those that Counts leaves out
	Counts []FlowCount
}

// Truncated tells whether Counts leaves some out.
func (c Census) Truncated() bool {
	listed := 0
	for _, n := range c.Counts {
		listed += n.Count
	}
	return listed < c.Total
}

// tallied is a flow without the opener's port.
type tallied struct {
	question
	peer *peer
}

// Census counts the live flows, in no order, with at most limit entries: further ones are in Total alone. Which those are is chance, as the
// table is hashed with a secret. Each shard's lock is held only while its flows are copied out, so that no packet waits for the sums.
func (f *Filter) Census(limit int) Census {
	var c Census
	var copied []tallied // reused: one shard's at a time
	sums := map[tallied]int{}
	now := f.clock.read()
	for i := range f.table.shards {
		copied = f.table.shards[i].live(copied[:0], now)
		c.Total += len(copied)
		for _, t := range copied {
			if _, known := sums[t]; known || len(sums) < limit {
				sums[t]++
			}
		}
	}
	c.Counts = make([]FlowCount, 0, len(sums))
	for t, n := range sums {
		c.Counts = append(c.Counts, FlowCount{
			Peer: t.peer.id, Local: t.local.Netip(), Remote: t.remote.Netip(), Out: t.dir == egress, Proto: t.proto, Port: t.port, Count: n,
		})
	}
	return c
}

// live appends the shard's live flows.
func (s *shard) live(out []tallied, now int64) []tallied {
	s.mu.Lock()
	defer s.mu.Unlock()
	for fl := range s.locked {
		if fl.standing(now) && !fl.ended() {
			out = append(out, tallied{fl.k.question(fl.dir), fl.peer})
		}
	}
	return out
}
