package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Session is one connected node. Next is for one goroutine; everything else is safe for concurrent use.
type Session struct {
	c      *Coordinator
	node   acl.NodeID
	device key.DevicePublic
	from   netip.AddrPort
	began  time.Time
	last   context.Context // for writing its end down: Attach's, without its cancellation
	wake   chan struct{}   // holds one value when Next has something to look at

	sent   sent         // owned by Next
	passes passes       // owned by Next
	heard  atomic.Int64 // when the node last said anything, in Unix nanoseconds

	mu        sync.Mutex
	over      *Error                  // why the session ended
	resync    bool                    // the next map is a whole one
	endpoints []netip.AddrPort        // where the node says its UDP port may be reached
	relay     string                  // where it says it is found: one of its map, or empty
	doubted   bool                    // that relay may be dead, and the node is to be told
	news      map[acl.NodeID]struct{} // peers whose hints are to be sent
	seekers   map[acl.NodeID]struct{} // peers that seek this node
	digests   map[uint64]string       // of the maps sent, by generation, for receipts
	newest    uint64                  // the newest of them
	leaseEnds time.Time               // of the last header sent, by this session or an earlier one
	asked     asked
}

// sent is what the node holds, and when it was last spoken to.
type sent struct {
	first      bool // nothing was sent yet: generation and digest are what the node says it holds
	generation uint64
	digest     string
	current    *nodeMap // nil while first
	signed     time.Time
	live       time.Time
}

// keptDigests bounds Session.digests.
const keptDigests = 256

// Outgoing is a message for the node.
type Outgoing struct {
	Type string // protocol.Type…
	Body any    // of that type
}

// Challenge makes the answer to a Hello. Anybody may ask: it tells nothing of who is in the network.
func (c *Coordinator) Challenge(h protocol.Hello) (protocol.Challenge, error) {
	if h.Version != protocol.Version {
		return protocol.Challenge{}, wrongVersion(h.Version)
	}
	ch := protocol.Challenge{Network: c.config.Network, Coordinator: c.config.Key.Public(), Nonce: make([]byte, 32), Time: c.now()}
	_, _ = rand.Read(ch.Nonce)
	ch.Sign(h, c.config.Key)
	return ch, nil
}

func wrongVersion(v int) *Error {
	which := "update picket on this node"
	if v > protocol.Version {
		which = "update the coordinator"
	}
	return refuse(protocol.CodeVersion, "the node speaks protocol %d and the coordinator %d: %s", v, protocol.Version, which)
}

// Attach verifies the proof and opens the session; a session the node had is ended with CodeReplaced. The caller must Close it.
// ch must be what Challenge returned for h on this connection: it is checked to be this coordinator's, and no older than protocol.NonceLife.
func (c *Coordinator) Attach(ctx context.Context, h protocol.Hello, ch protocol.Challenge, p protocol.Proof, from netip.AddrPort) (*Session, error) {
	s, err := c.attach(ctx, h, ch, p, from)
	return s, c.outward(ctx, err)
}

func (c *Coordinator) attach(ctx context.Context, h protocol.Hello, ch protocol.Challenge, p protocol.Proof, from netip.AddrPort) (*Session, error) {
	if h.Version != protocol.Version {
		return nil, wrongVersion(h.Version)
	}
	now := c.now()
	if ch.Open(h, c.config.Key.Public(), c.config.Network) != nil || now.Sub(ch.Time) > protocol.NonceLife {
		return nil, refuse(protocol.CodeBadRequest, "the challenge is not this coordinator's, or too old: connect again")
	}
	if err := c.identify(ctx, h, ch, p); err != nil {
		return nil, err
	}
	if w := c.world.Load(); h.Generation > w.generation {
		return nil, refuse(protocol.CodeUnavailable, "the coordinator knows generation %d, but this node holds %d: the coordinator's database is an older copy; "+
			"restore the newest, or make changes until it has passed that number", w.generation, h.Generation)
	}
	s := &Session{
		c: c, node: h.Node, device: h.Device, from: from, began: now, last: context.WithoutCancel(ctx), wake: make(chan struct{}, 1),
		sent:    sent{first: true, generation: h.Generation, digest: string(h.Digest)},
		news:    make(map[acl.NodeID]struct{}),
		seekers: make(map[acl.NodeID]struct{}),
		digests: make(map[uint64]string),
	}
	s.heard.Store(now.UnixNano())
	if err := s.report(ctx, p.Report, true); err != nil {
		return nil, err
	}
	s.open(ctx)
	return s, nil
}

// identify proves that h comes from the node it names (R2: id and key are checked against the same row, and the key was proved on this
// channel) before it tells anything about that node.
func (c *Coordinator) identify(ctx context.Context, h protocol.Hello, ch protocol.Challenge, p protocol.Proof) error {
	unknown := refuse(protocol.CodeUnknownNode, "no such node is known here under this key: join again with picket up")
	if p.Open(h, ch) != nil {
		return unknown
	}
	w := c.world.Load()
	n, err := w.NodeByID(h.Node)
	if errors.Is(err, ErrNoRow) { // removed, or never was: the tombstone says which
		err = c.store.View(ctx, func(tx ReadTx) (err error) {
			n, err = tx.NodeByID(h.Node)
			return err
		})
	}
	switch {
	case errors.Is(err, ErrNoRow) || err == nil && n.Device != h.Device:
		return unknown
	case err != nil:
		return err
	}
	if err := standing(c.world.Load().node(h.Node)); err != nil {
		return err
	}
	return nil
}

// open makes s its node's session.
func (s *Session) open(ctx context.Context) {
	if n := s.c.world.Load().node(s.node); n != nil {
		p, _ := s.c.presenceOf(n)
		s.holds(p.LeaseEnds)
	}
	old := s.c.hub.put(s, s.presence(true))
	if err := standing(s.c.world.Load().node(s.node)); err != nil {
		s.end(err) // removed between the check and put: endMissing has not seen s
	}
	if old != nil && old.end(refuse(protocol.CodeReplaced, "a newer session of this node took over")) {
		s.c.replaced(ctx, old, s)
	}
	if old != nil {
		s.holds(old.presence(false).LeaseEnds) // its last map may have gone out meanwhile
	}
	w := s.c.world.Load()
	if w.node(s.node) != nil {
		for _, p := range s.c.mapOf(w, s.node).peers {
			if s.c.hub.get(p.Node) != nil {
				s.tell(p.Node)
			}
		}
	}
	s.c.announce(s.node)
	s.savePresence(ctx, s.presence(true))
}

// holds notes that the node came with a map that an earlier session sent, which it enforces until ends.
func (s *Session) holds(ends time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ends.After(s.leaseEnds) {
		s.leaseEnds = ends
	}
}

// replaced notes that a node came a second time while its first session was alive: after a lost connection that is ordinary, often and
// from two places it means that its key was copied.
func (c *Coordinator) replaced(ctx context.Context, old, by *Session) {
	if !c.budgets.of(by.node).replaced.Allow() {
		return
	}
	_, err := c.update(context.WithoutCancel(ctx), by.actor(), func(ch *change) error {
		ch.record("node.session-replaced", string(by.node), "the session from "+old.from.String()+" by one from "+by.from.String())
		return nil
	})
	if err != nil {
		c.log.Error("cannot record a replaced session", "node", by.node, "err", err)
	}
}

// actor is the node itself.
func (s *Session) actor() Actor {
	name := string(s.node)
	if n := s.c.world.Load().node(s.node); n != nil {
		name = n.Name
	}
	return Actor{Kind: ActorNode, Node: s.node, Name: name, From: s.from.Addr()}
}

// poke makes Next look again.
func (s *Session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end finishes the session for why, once; it reports whether it was this call.
func (s *Session) end(why *Error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return false
	}
	s.over = why
	if q := s.asked.question; q != nil {
		q.leave(s.node)
	}
	s.poke()
	return true
}

func (s *Session) ended() *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// Alive notes that the node said something, whatever it was.
func (s *Session) Alive() { s.heard.Store(s.c.now().UnixNano()) }

func (s *Session) heardAt() time.Time { return time.Unix(0, s.heard.Load()) }

// Resync makes the next map a whole one.
func (s *Session) Resync() {
	s.mu.Lock()
	s.resync = true
	s.mu.Unlock()
	s.poke()
}

// Logout removes the node on its own wish.
func (s *Session) Logout(ctx context.Context) error {
	if err := s.ended(); err != nil {
		return err
	}
	pick := func(p people) (victim, error) {
		n, err := p.NodeByID(s.node)
		if err != nil && !errors.Is(err, ErrNoRow) {
			return victim{}, err
		}
		if err != nil || !n.Removed.IsZero() {
			return victim{}, refuse(protocol.CodeRemoved, "this node was already removed")
		}
		return removalOf(n), s.c.mayLeave(p, s.actor(), n)
	}
	_, err := s.c.revoke(ctx, s.actor(), pick, func(ch *change, v victim) error { return ch.removeNode(v.node, "node.logout") })
	return s.c.outward(ctx, err)
}

// Close ends the session. It may be called more than once.
func (s *Session) Close() {
	s.end(refuse(protocol.CodeUnavailable, "the session was closed"))
	if p := s.presence(false); s.c.hub.drop(s, p) {
		s.c.announce(s.node)
		s.savePresence(s.last, p)
	}
}

func (s *Session) presence(attached bool) Presence {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Presence{Attached: attached, LastSeen: s.c.now(), LeaseEnds: s.leaseEnds}
}

// savePresence writes down when the node was here and how long its map holds. Failing is no reason to refuse a node: without it, what is
// reported errs to the safe side (Coordinator.bound).
func (s *Session) savePresence(ctx context.Context, p Presence) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	if err := s.c.store.Update(ctx, func(tx Tx) error { return tx.SetPresence(s.node, p) }); err != nil {
		s.c.log.Warn("cannot note when a node was seen", "node", s.node, "err", err)
	}
}

func compareIDs(a, b acl.NodeID) int { return strings.Compare(string(a), string(b)) }
