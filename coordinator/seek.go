package coordinator

import (
	"maps"
	"slices"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// Seek has another node ping this one. It tells nothing of nodes that are not in this one's map, whose session is elsewhere, or that do not exist
// (R30): all that is silence, and so is asking too often.
func (s *Session) Seek(q protocol.Seek) error {
	if err := s.ended(); err != nil {
		return err
	}
	if !s.c.budgets.of(s.node).seeks.Allow() || !s.c.peers(s.node, q.Node) {
		return nil
	}
	if other := s.c.hub.get(q.Node); other != nil {
		other.mu.Lock()
		other.seekers[s.node] = struct{}{}
		other.mu.Unlock()
		other.poke()
	}
	return nil
}

// peers reports whether each of two nodes is in the other's map.
func (c *Coordinator) peers(a, b acl.NodeID) bool {
	w := c.world.Load()
	return w.node(a) != nil && w.node(b) != nil && c.mapOf(w, a).hasPeer(b) && c.mapOf(w, b).hasPeer(a)
}

// takeSeeker returns one that seeks this node, as far as the map that was sent names it (R30), and where it may be found.
func (s *Session) takeSeeker() (protocol.Sought, bool) {
	s.mu.Lock()
	seekers := slices.Collect(maps.Keys(s.seekers))
	s.mu.Unlock()
	for _, seeker := range seekers {
		s.mu.Lock()
		delete(s.seekers, seeker)
		s.mu.Unlock()
		if h := s.c.hintOf(seeker); s.sent.current.hasPeer(seeker) && h.Online {
			return protocol.Sought{Node: seeker, Endpoints: h.Endpoints}, true
		}
	}
	return protocol.Sought{}, false
}
