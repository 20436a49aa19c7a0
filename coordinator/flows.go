package coordinator

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// How the live flows are counted: (1) every connected node is asked at once (Session.ask, sent by Next); (2) each answers with its flows,
// summed up and bounded (protocol.Flows); (3) both ends of a flow report it, so what they say is brought to the opener's view, and counted
// once; (4) after askTime at the latest the count is taken as it is, and who said nothing is named in it.
//
// What a node says is held against what its peers say: when both ends of a flow have told all they have, the smaller number counts. So one
// node alone can invent flows only with peers that are silent.

const (
	// askTime is how long nodes have to say which flows are live.
	askTime = 2 * time.Second
	// askAgain is how long a count may stand for a newer one, while the same nodes are connected. Nodes do not answer more often than each 100 ms.
	askAgain = 250 * time.Millisecond
	// maxTold bounds the entries of all answers together, and so what a count may cost.
	maxTold = 1 << 20
	// minTold is what a node may tell in however large a network.
	minTold = 64
)

// flowKey is a flow as its opener sees it, but for the opener's port.
type flowKey struct {
	src, dst netip.Addr
	proto    acl.Proto
	port     uint16
}

// reported is what was said of one flowKey.
type reported struct {
	opener, answerer     acl.NodeID // the nodes at its ends, or that serve the routes to them
	byOpener, byAnswerer uint64
}

// question is one asking of all connected nodes.
type question struct {
	protocol.AskFlows
	owners map[netip.Addr]acl.NodeID
	done   chan struct{} // closed when nobody is waited for any more

	mu        sync.Mutex
	waiting   map[acl.NodeID]bool // by mu
	answered  map[acl.NodeID]bool // by mu: true when the answer was whole
	told      map[flowKey]*reported
	truncated []acl.NodeID // by mu
}

func newQuestion(w *world, id uint64, nodes int) *question {
	q := &question{
		AskFlows: protocol.AskFlows{Ask: id, Max: max(minTold, min(protocol.MaxFlows, maxTold/max(nodes, 1)))},
		owners:   make(map[netip.Addr]acl.NodeID, 2*w.nodes.len()),
		done:     make(chan struct{}),
		waiting:  make(map[acl.NodeID]bool, nodes), answered: make(map[acl.NodeID]bool, nodes), told: make(map[flowKey]*reported),
	}
	for id, n := range w.nodes.all() {
		for _, a := range n.Addresses {
			q.owners[a] = id
		}
	}
	return q
}

// answer takes what node says. Flows of an address that is another node's are left out: they are not its to tell.
func (q *question) answer(node acl.NodeID, f protocol.Flows) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range f.Flows {
		if owner, taken := q.owners[c.Local]; taken && owner != node {
			continue
		}
		if owner, taken := q.owners[c.Remote]; taken && owner != c.Peer {
			continue
		}
		q.add(node, c)
	}
	q.answered[node] = !f.Truncated
	if f.Truncated {
		q.truncated = append(q.truncated, node)
	}
	q.leaveLocked(node)
}

func (q *question) add(node acl.NodeID, c protocol.FlowCount) {
	k := flowKey{src: c.Remote, dst: c.Local, proto: c.Proto, port: c.Port}
	if c.Out {
		k.src, k.dst = c.Local, c.Remote
	}
	r := q.told[k]
	if r == nil {
		r = &reported{opener: c.Peer, answerer: node}
		if c.Out {
			r.opener, r.answerer = node, c.Peer
		}
		q.told[k] = r
	}
	if c.Out {
		r.byOpener += c.Count
	} else {
		r.byAnswerer += c.Count
	}
}

// leave stops waiting for node.
func (q *question) leave(node acl.NodeID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leaveLocked(node)
}

func (q *question) leaveLocked(node acl.NodeID) {
	if !q.waiting[node] {
		return
	}
	delete(q.waiting, node)
	if len(q.waiting) == 0 {
		close(q.done)
	}
}

// liveFlow is a number of live flows that are alike.
type liveFlow struct {
	flowKey
	opener, answerer acl.NodeID
	count            int
}

// census is the live flows of the network, each counted once.
type census struct {
	at        time.Time
	here      <-chan struct{} // closed when a session comes or goes
	flows     []liveFlow      // by opener
	answered  map[acl.NodeID]bool
	truncated []acl.NodeID // told a part of their flows only
}

// result ends the question and counts.
func (q *question) result() *census {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := &census{at: time.Now(), answered: q.answered, truncated: q.truncated}
	q.answered = make(map[acl.NodeID]bool) // what comes late is not in it
	for k, r := range q.told {
		n := max(r.byOpener, r.byAnswerer)
		if c.answered[r.opener] && c.answered[r.answerer] {
			n = min(r.byOpener, r.byAnswerer)
		}
		if n > 0 {
			c.flows = append(c.flows, liveFlow{k, r.opener, r.answerer, int(n)})
		}
	}
	slices.SortFunc(c.flows, func(a, b liveFlow) int { return strings.Compare(string(a.opener), string(b.opener)) })
	return c
}

// asker asks one question at a time.
type asker struct {
	turn  chan struct{} // of one
	asked uint64        // owned by who has the turn
	last  *census       // owned by who has the turn
}

func (k *asker) init() { k.turn = make(chan struct{}, 1) }

// countFlows asks every connected node for its live flows, and waits at most askTime for those that usually answer. The error is ctx's.
func (c *Coordinator) countFlows(ctx context.Context) (*census, error) {
	select {
	case c.asker.turn <- struct{}{}:
		defer func() { <-c.asker.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	here := c.hub.watch() // before the sessions are listed
	if last := c.asker.last; last != nil && last.here == here && time.Since(last.at) < askAgain {
		return last, nil
	}
	sessions := c.hub.all()
	c.asker.asked++
	q := newQuestion(c.world.Load(), c.asker.asked, len(sessions))
	if q.ask(sessions) {
		timer := time.NewTimer(askTime)
		defer timer.Stop()
		select {
		case <-q.done:
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for _, s := range sessions {
		s.giveUp(q)
	}
	c.asker.last = q.result()
	c.asker.last.here = here
	return c.asker.last, nil
}

// ask puts the question to the sessions, and reports whether any of them is worth waiting for.
func (q *question) ask(sessions []*Session) bool {
	for _, s := range sessions {
		if !s.mute() {
			q.waiting[s.node] = true // before any is asked: nobody else has q yet
		}
	}
	wait := len(q.waiting) > 0
	for _, s := range sessions {
		if !s.ask(q) {
			q.leave(s.node)
		}
	}
	return wait
}

// asked is a session's part in a question.
type asked struct {
	protocol.AskFlows           // the newest
	unsent            bool      // Next has not sent it yet
	question          *question // that it belongs to; nil when that is closed
	mute              bool      // it let one pass, as a node of an older version does: it is asked, but not waited for
}

// ask makes Next send q; false when the session is over.
func (s *Session) ask(q *question) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return false
	}
	s.asked.AskFlows, s.asked.unsent, s.asked.question = q.AskFlows, true, q
	s.poke()
	return true
}

func (s *Session) mute() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked.mute
}

// giveUp closes q for the session.
func (s *Session) giveUp(q *question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked.question == q {
		s.asked.question, s.asked.mute = nil, true
	}
}

// takeAsk returns the question to be sent, once.
func (s *Session) takeAsk() (protocol.AskFlows, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked.unsent {
		return protocol.AskFlows{}, false
	}
	s.asked.unsent = false
	return s.asked.AskFlows, true
}

// Flows takes a node's answer. One that comes late, or that nobody asked for, counts for nothing.
func (s *Session) Flows(_ context.Context, f protocol.Flows) error {
	if err := s.ended(); err != nil {
		return err
	}
	s.mu.Lock()
	q := s.asked.question
	expected := s.asked.Ask == f.Ask && !s.asked.unsent
	if expected {
		s.asked.question, s.asked.mute = nil, false
	}
	s.mu.Unlock()
	if !expected || q == nil {
		return nil
	}
	if len(f.Flows) > q.Max {
		q.leave(s.node)
		return refuse(protocol.CodeBadRequest, "the answer has %d flows, but %d were asked for at most", len(f.Flows), q.Max)
	}
	q.answer(s.node, f)
	return nil
}

// unknown are the names of the nodes that may have flows the census does not know: they did not answer, or are not connected while
// their lease may still hold. Sorted.
func (c *Coordinator) unknown(w *world, n *census) (names []string) {
	now := c.now()
	for id, node := range w.nodes.all() {
		if _, ok := n.answered[id]; ok || !reachable(node) {
			continue
		}
		if p, online := c.presenceOf(node); online || p.LeaseEnds.After(now) {
			names = append(names, node.Name)
		}
	}
	slices.Sort(names)
	return names
}
