package coordinator

import (
	"maps"
	"slices"
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// coalesce is how long a change that takes nothing away may wait for others to come with it.
const coalesce = 20 * time.Millisecond

// hub holds the live sessions, at most one a node, and wakes them.
type hub struct {
	mu       sync.Mutex
	sessions map[acl.NodeID]*Session // by mu
	armed    bool                    // by mu: a gentle wake-up is on its way
	changed  chan struct{}           // by mu: closed, and made anew, when a session comes or goes
	seen     map[acl.NodeID]Presence // by mu: of this process's sessions
}

func (h *hub) init() {
	h.sessions = make(map[acl.NodeID]*Session)
	h.changed = make(chan struct{})
	h.seen = make(map[acl.NodeID]Presence)
}

// presence returns what this process knows of a node's presence; false when it had no session yet.
func (h *hub) presence(id acl.NodeID) (Presence, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.seen[id]
	return p, ok
}

// wake tells every session that the world changed.
func (h *hub) wake(how haste) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if how == urgent {
		h.wakeLocked()
		return
	}
	if !h.armed {
		h.armed = true
		time.AfterFunc(coalesce, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.armed = false
			h.wakeLocked()
		})
	}
}

func (h *hub) wakeLocked() {
	for _, s := range h.sessions {
		s.poke()
	}
}

// get returns the live session of a node; nil when it has none.
func (h *hub) get(id acl.NodeID) *Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[id]
}

// all lists the live sessions.
func (h *hub) all() []*Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.sessions))
}

// put makes s its node's session and returns the one it replaces; nil when there was none.
func (h *hub) put(s *Session, p Presence) *Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.sessions[s.node]
	h.sessions[s.node], h.seen[s.node] = s, p
	h.announceLocked()
	return old
}

// drop forgets s, remembers when its node was here, and reports whether it was still its node's session. Both at once: nobody finds a node
// neither here nor with a lease that holds.
func (h *hub) drop(s *Session, p Presence) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[s.node] != s {
		return false
	}
	delete(h.sessions, s.node)
	h.seen[s.node] = p
	h.announceLocked()
	return true
}

func (h *hub) announceLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// watch returns a channel that is closed at the next coming or going.
func (h *hub) watch() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// endMissing ends the sessions of those of the nodes that w does not have any more, or whose admission has ended, and forgets the former.
func (h *hub) endMissing(w *world, nodes []acl.NodeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range nodes {
		n := w.node(id)
		if s := h.sessions[id]; s != nil {
			if err := standing(n); err != nil {
				s.end(err)
			}
		}
		if n == nil {
			delete(h.seen, id)
		}
	}
}

// keep forgets the nodes that w does not have: a session may have ended after its node was removed.
func (h *hub) keep(w *world) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.seen, func(id acl.NodeID, _ Presence) bool { return w.node(id) == nil })
}

// standing refuses a node that may have no session; nil is one that is gone.
func standing(n *NodeRow) *Error {
	switch {
	case n == nil:
		return refuse(protocol.CodeRemoved, "this node was removed from the network: join again with picket up")
	case n.Expired:
		return refuse(protocol.CodeExpired, "the login of %s ended on %s: log in again with picket up", n.Name, n.Expires.Format(time.DateTime))
	}
	return nil
}

// board lets waiters of one ticket sleep until it is decided.
type board struct {
	mu     sync.Mutex
	topics map[string]*topic
}

type topic struct {
	waiters int
	decided chan struct{}
}

// maxWaiters bounds how many requests wait for one ticket.
const maxWaiters = 4

// watch returns a channel closed by the next post to id, and how to stop watching; false when too many watch already.
func (b *board) watch(id string) (<-chan struct{}, func(), bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics == nil {
		b.topics = make(map[string]*topic)
	}
	t := b.topics[id]
	if t == nil {
		t = &topic{decided: make(chan struct{})}
		b.topics[id] = t
	}
	if t.waiters >= maxWaiters {
		return nil, nil, false
	}
	t.waiters++
	return t.decided, func() { b.leave(id, t) }, true
}

func (b *board) leave(id string, t *topic) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.waiters--; t.waiters == 0 && b.topics[id] == t {
		delete(b.topics, id)
	}
}

// post wakes those who watch id.
func (b *board) post(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.topics[id]; t != nil {
		close(t.decided)
		delete(b.topics, id)
	}
}
