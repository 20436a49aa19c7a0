package filter

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"picket.internal/acl"
)

// peer is what outlives a policy about one node: its shares of the tables, and what it was caught at.
type peer struct {
	id    acl.NodeID
	flows atomic.Int64
	frags atomic.Int64

	mu     sync.Mutex
	caught *caught // nil for all but a few
}

// caught is what a peer was caught at since TakeEvidence.
type caught struct {
	count    uint64
	example  question
	rules    uint64 // generation of the example
	from, to int64
}

// registry holds the peers by node. It belongs to who holds Filter.mu.
type registry struct {
	self  acl.NodeID
	peers map[acl.NodeID]*peer
}

func newRegistry() *registry { return &registry{peers: map[acl.NodeID]*peer{}} }

// serve forgets all peers when this node becomes another one: no flow of the old one may live on under the new.
func (g *registry) serve(self acl.NodeID) {
	if g.self != self {
		g.self, g.peers = self, map[acl.NodeID]*peer{}
	}
}

func (g *registry) get(id acl.NodeID) *peer {
	p := g.peers[id]
	if p == nil {
		p = &peer{id: id}
		g.peers[id] = p
	}
	return p
}

// prune forgets peers that r does not know and that hold nothing.
func (g *registry) prune(r *ruling) {
	known := map[*peer]struct{}{}
	for _, rs := range r.sets {
		for i := range rs.nodes {
			known[rs.nodes[i].peer] = struct{}{}
		}
	}
	for id, p := range g.peers {
		if _, ok := known[p]; !ok && p.flows.Load() == 0 && p.frags.Load() == 0 && !p.hasEvidence() {
			delete(g.peers, id)
		}
	}
}

// Evidence counts what a peer sent that a correct peer would have refused itself, by these rules and by all that were in force in the 5 s before.
// What may be the late answer to a datagram is not counted.
type Evidence struct {
	Node        acl.NodeID
	Count       uint64
	Generation  uint64 // in force at the example
	Example     acl.Flow
	First, Last time.Time
}

// note remembers one more packet that no rule allows; the first since the last TakeEvidence is the example.
func (p *peer) note(q question, generation uint64, now int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.caught == nil {
		p.caught = &caught{example: q, rules: generation, from: now}
	}
	p.caught.count++
	p.caught.to = now
}

func (p *peer) hasEvidence() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.caught != nil
}

// TakeEvidence returns what was collected since it was last called, by node. It holds one entry a peer.
func (f *Filter) TakeEvidence() []Evidence {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Evidence
	for _, p := range f.registry.peers {
		if e, ok := f.takeEvidence(p); ok {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b Evidence) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

func (f *Filter) takeEvidence(p *peer) (Evidence, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.caught
	if c == nil {
		return Evidence{}, false
	}
	q := c.example
	e := Evidence{
		Node: p.id, Count: c.count, Generation: c.rules,
		Example: acl.Flow{Src: q.remote.Netip(), Dst: q.local.Netip(), Proto: q.proto, Port: q.port},
		First:   f.clock.time(c.from), Last: f.clock.time(c.to),
	}
	p.caught = nil
	return e, true
}
