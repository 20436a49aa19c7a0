package coordinator

import (
	"context"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// What Next sends, most important first: the end of the session; a map, when the world is newer than what the node holds; a renewed
// lease; a pass for relays; the question for its live flows; who seeks it; hints; a sign of life.

// leaseShare is which part of the lease passes between two signatures of one map: a node that loses its coordinator keeps at least five
// sixths of the lease.
const leaseShare = 6

// liveEvery leaves room for a delay within protocol.LiveInterval.
const liveEvery = protocol.LiveInterval * 2 / 3

// Next blocks until there is something to send, ctx ends, or the session is over (an *Error to send as a Problem, then close).
func (s *Session) Next(ctx context.Context) (Outgoing, error) {
	for {
		out, wait, err := s.step()
		if err != nil || out.Type != "" {
			return out, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Outgoing{}, ctx.Err()
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// step returns what is due, or how long nothing will be unless the session is woken.
func (s *Session) step() (Outgoing, time.Duration, error) {
	if err := s.ended(); err != nil {
		return Outgoing{}, 0, err
	}
	now, w := s.c.now(), s.c.world.Load()
	n := w.node(s.node)
	if n == nil || !now.Before(n.Expires) {
		err := standing(n)
		if err == nil { // its time is up, and Run is about to carry that out
			ended := *n
			ended.Expired = true
			err = standing(&ended)
		}
		s.end(err)
		return Outgoing{}, 0, s.ended()
	}
	if s.sent.first || w.generation > s.sent.generation || s.takeResync() {
		out, err := s.mapFor(w, n, now)
		return out, 0, err
	}
	renewAt := s.sent.signed.Add(s.c.config.Lease / leaseShare)
	if !now.Before(renewAt) && s.renewable(n) {
		out, err := s.head(protocol.Map{Base: s.sent.generation}, w, n, s.sent.current, now)
		return out, 0, err
	}
	passAt, passes := s.passDue(w, n)
	if passes && !now.Before(passAt) {
		return Outgoing{protocol.TypeRelayPass, s.pass(n, now)}, 0, nil
	}
	if ask, ok := s.takeAsk(); ok {
		return Outgoing{protocol.TypeAskFlows, ask}, 0, nil
	}
	if sought, ok := s.takeSeeker(); ok {
		return Outgoing{protocol.TypeSought, sought}, 0, nil
	}
	if hints := (protocol.Hints{Hints: s.takeHints(), Check: s.takeDoubt()}); len(hints.Hints)+len(hints.Check) > 0 {
		return Outgoing{protocol.TypeHints, hints}, 0, nil
	}
	if liveAt := s.sent.live.Add(liveEvery); now.Before(liveAt) {
		wait := min(n.Expires.Sub(now), liveAt.Sub(now))
		if passes {
			wait = min(wait, passAt.Sub(now))
		}
		return Outgoing{}, max(wait, time.Millisecond), nil
	}
	s.sent.live = now
	return Outgoing{protocol.TypeLive, protocol.Live{Time: now}}, 0, nil
}

// renewable reports whether a new signature would hold longer than the last: a lease that ends with the node's admission cannot grow.
func (s *Session) renewable(n *NodeRow) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaseEnds.Before(n.Expires)
}

func (s *Session) takeResync() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.resync
	s.resync = false
	if was {
		s.sent.first, s.sent.digest = true, ""
	}
	return was
}

// mapFor makes the message that brings the node to w: a delta on what it was sent, a bare header when it holds the very entries already,
// else the whole.
func (s *Session) mapFor(w *world, n *NodeRow, now time.Time) (Outgoing, error) {
	m := s.c.mapOf(w, s.node)
	if m.err != nil {
		err := refuse(protocol.CodeUnavailable, "this node's map cannot be made: the coordinator's log says why")
		s.end(err)
		return Outgoing{}, err
	}
	var out protocol.Map
	switch {
	case !s.sent.first:
		out.Base = s.sent.generation
		out.Remove, out.Put = protocol.Diff(s.sent.current.entries, m.entries)
	case s.sent.generation != 0 && s.sent.digest == string(m.digest):
		out.Base = s.sent.generation
	default:
		_, out.Put = protocol.Diff(nil, m.entries)
	}
	s.tellNewPeers(s.sent.current, m)
	return s.head(out, w, n, m, now)
}

// head signs out as the head of m and notes what the node will hold.
func (s *Session) head(out protocol.Map, w *world, n *NodeRow, m *nodeMap, now time.Time) (Outgoing, error) {
	ends, err := s.c.signed(&out, w, n, m.digest, now)
	if err != nil {
		s.c.log.Error("a map cannot be signed", "node", s.node, "err", err)
		refused := refuse(protocol.CodeUnavailable, "this node's map cannot be signed: the coordinator's log says why")
		s.end(refused)
		return Outgoing{}, refused
	}
	s.sent = sent{generation: w.generation, digest: string(m.digest), current: m, signed: now, live: s.sent.live}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaseEnds, s.newest = ends, w.generation
	s.digests[w.generation] = string(m.digest)
	if len(s.digests) > keptDigests {
		for g := range s.digests {
			if g+keptDigests/2 < w.generation {
				delete(s.digests, g)
			}
		}
	}
	return Outgoing{protocol.TypeMap, out}, nil
}

// tellNewPeers sends the hints of those peers that old, which may be nil, does not have.
func (s *Session) tellNewPeers(old, m *nodeMap) {
	m.before(old, func(p, was *protocol.Peer) {
		if was == nil && s.c.hub.get(p.Node) != nil {
			s.tell(p.Node)
		}
	})
}

// tell makes Next send the newest hint of peer.
func (s *Session) tell(peer acl.NodeID) {
	s.mu.Lock()
	s.news[peer] = struct{}{}
	s.mu.Unlock()
	s.poke()
}

// takeHints empties the news into hints. Only peers of the map that was sent are in it (R30); the news of one that is about to become a
// peer comes with the map that makes it one.
func (s *Session) takeHints() []protocol.Hint {
	s.mu.Lock()
	news := s.news
	s.news = make(map[acl.NodeID]struct{})
	s.mu.Unlock()
	var out []protocol.Hint
	for peer := range news {
		if s.sent.current.hasPeer(peer) {
			out = append(out, s.c.hintOf(peer))
		}
	}
	return out
}

func (c *Coordinator) hintOf(id acl.NodeID) protocol.Hint {
	h := protocol.Hint{Node: id}
	if s := c.hub.get(id); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		h.Online, h.Endpoints, h.Relay = true, s.endpoints, s.relay
	}
	return h
}

// announce tells the peers of id that its endpoints or its presence changed.
func (c *Coordinator) announce(id acl.NodeID) {
	w := c.world.Load()
	if w.node(id) == nil {
		return
	}
	for _, p := range c.mapOf(w, id).peers {
		if s := c.hub.get(p.Node); s != nil {
			s.tell(id)
		}
	}
}
