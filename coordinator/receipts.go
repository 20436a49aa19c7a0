package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// keptReceipts is how many receipts of one node are kept.
const keptReceipts = 50

// writeReceipts is how long receipts wait to be written together: each generation brings one from every node.
const writeReceipts = 500 * time.Millisecond

// maxUnwritten bounds the receipts waiting to be written, should storage fail for long; the oldest go first.
const maxUnwritten = 100_000

// ledger holds the receipts: those Enforced looks at in memory, all of them in the store.
type ledger struct {
	mu        sync.Mutex
	byNode    map[acl.NodeID][]ReceiptRow // by mu: oldest first, at most keptReceipts
	unwritten []ReceiptRow                // by mu
	changed   chan struct{}               // by mu: closed, and made anew, with each receipt
	dirty     chan struct{}               // holds one value when unwritten is not empty
}

func (l *ledger) init() {
	l.byNode = make(map[acl.NodeID][]ReceiptRow)
	l.changed = make(chan struct{})
	l.dirty = make(chan struct{}, 1)
}

// add takes a receipt; one that is no newer than the node's newest is already known.
func (l *ledger) add(r ReceiptRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rows := l.byNode[r.Node]
	if len(rows) > 0 && rows[len(rows)-1].Generation >= r.Generation {
		return
	}
	l.byNode[r.Node] = tail(append(rows, r), keptReceipts)
	l.unwritten = tail(append(l.unwritten, r), maxUnwritten)
	close(l.changed)
	l.changed = make(chan struct{})
	select {
	case l.dirty <- struct{}{}:
	default:
	}
}

func tail(rows []ReceiptRow, n int) []ReceiptRow { return slices.Clone(rows[max(0, len(rows)-n):]) }

// newest is the newest receipt of a node; the zero row when there is none.
func (l *ledger) newest(id acl.NodeID) ReceiptRow {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rows := l.byNode[id]; len(rows) > 0 {
		return rows[len(rows)-1]
	}
	return ReceiptRow{}
}

// first is the first receipt of a node for generation g or a later one: with it, the node enforces g.
func (l *ledger) first(id acl.NodeID, g uint64) (ReceiptRow, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.byNode[id] {
		if r.Generation >= g {
			return r, true
		}
	}
	return ReceiptRow{}, false
}

func (l *ledger) watch() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (c *Coordinator) loadReceipts(ctx context.Context) error {
	return c.store.View(ctx, func(tx ReadTx) error {
		rows, err := tx.NewestReceipts()
		for _, r := range rows {
			c.ledger.byNode[r.Node] = []ReceiptRow{r}
		}
		return err
	})
}

// Receipt takes a signed receipt: it must be signed by the node's device key, and for a map that this session was sent.
func (s *Session) Receipt(ctx context.Context, r protocol.Receipt) error {
	if err := s.ended(); err != nil {
		return err
	}
	if r.Open(s.c.config.Network, s.node, s.device) != nil {
		return refuse(protocol.CodeBadRequest, "the receipt is not signed by this node's device key")
	}
	s.mu.Lock()
	digest, ok := s.digests[r.Generation]
	s.mu.Unlock()
	if !ok {
		return nil // for an earlier session's map, on its way when that one ended: it proves nothing about this one, and harms nothing
	}
	if digest != string(r.Digest) {
		return refuse(protocol.CodeBadRequest, "the receipt is for a map that this node was not sent")
	}
	now := s.c.now()
	s.c.ledger.add(ReceiptRow{
		Node: s.node, Generation: r.Generation, Digest: r.Digest, Applied: r.Applied, Cut: r.Cut, Signature: r.Signature,
		After: s.c.times.since(r.Generation, now), Received: now,
	})
	return nil
}

// keepReceipts writes receipts down in batches until ctx ends, and what is left then.
func (c *Coordinator) keepReceipts(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
			defer cancel()
			c.saveReceipts(last)
			return nil
		case <-c.ledger.dirty:
		}
		select {
		case <-ctx.Done():
		case <-time.After(writeReceipts):
			c.saveReceipts(ctx)
		}
	}
}

func (c *Coordinator) saveReceipts(ctx context.Context) {
	c.ledger.mu.Lock()
	rows := c.ledger.unwritten
	c.ledger.unwritten = nil
	c.ledger.mu.Unlock()
	if len(rows) == 0 {
		return
	}
	if err := c.store.Update(ctx, func(tx Tx) error { return tx.AddReceipts(rows, keptReceipts) }); err != nil {
		c.log.Warn("cannot write receipts down; they are kept in memory", "count", len(rows), "err", err)
		c.ledger.mu.Lock()
		c.ledger.unwritten = tail(append(rows, c.ledger.unwritten...), maxUnwritten)
		c.ledger.mu.Unlock()
	}
}

// Enforcement says who enforces a generation. Times are from the change's commit to the receipt.
type Enforcement struct {
	Generation uint64         `json:"generation"`
	Done       bool           `json:"done"` // every online node
	Nodes      []EnforcedNode `json:"nodes"`
}

// EnforcedNode is one node's part in an Enforcement.
type EnforcedNode struct {
	Node      acl.NodeID    `json:"node"`
	Name      string        `json:"name"`
	Enforced  bool          `json:"enforced"`
	After     time.Duration `json:"after"` // ns; 0 when it is not known any more
	Cut       int           `json:"cut"`   // live flows it ended
	Online    bool          `json:"online"`
	LeaseEnds time.Time     `json:"leaseEnds"` // an offline node stops by then
}

// Enforced blocks until every online node enforces generation g (0: the current one) or ctx ends, and reports either way. Every
// generation goes to every node, so every online node answers; an offline one stops when its lease ends.
func (c *Coordinator) Enforced(ctx context.Context, a Actor, g uint64) (Enforcement, error) {
	w := c.world.Load()
	reach, err := reachOf(w, a, rightEnforcement)
	if err != nil {
		return Enforcement{}, c.outward(ctx, err)
	}
	if g == 0 {
		g = w.generation
	}
	if g > w.generation {
		return Enforcement{}, refuse(CodeInvalid, "there is no generation %d yet: the current one is %d", g, w.generation)
	}
	for {
		receipts, sessions := c.ledger.watch(), c.hub.watch()
		e := c.enforcement(g, func(n *NodeRow) bool { return reach == all || n.Owner == a.User && n.Owner != "" })
		if e.Done {
			return e, nil
		}
		select {
		case <-ctx.Done():
			return e, nil
		case <-receipts:
		case <-sessions:
		}
	}
}

func (c *Coordinator) enforcement(g uint64, shown func(*NodeRow) bool) Enforcement {
	e := Enforcement{Generation: g, Done: true}
	for _, n := range c.world.Load().nodes.all() {
		p, online := c.presenceOf(n)
		r, enforced := c.ledger.first(n.ID, g)
		if online && !enforced {
			e.Done = false
		}
		if !shown(n) || n.Expired {
			continue
		}
		e.Nodes = append(e.Nodes, EnforcedNode{Node: n.ID, Name: n.Name, Enforced: enforced, Cut: r.Cut, Online: online, LeaseEnds: p.LeaseEnds,
			After: c.afterCommit(g, r)})
	}
	slices.SortFunc(e.Nodes, func(a, b EnforcedNode) int { return cmp.Compare(a.Name, b.Name) })
	return e
}

// afterCommit is how long after the commit of g receipt r came, which may be for a later generation that was sent together with g.
func (c *Coordinator) afterCommit(g uint64, r ReceiptRow) time.Duration {
	if r.Generation == 0 {
		return 0
	}
	if r.Generation == g {
		return r.After
	}
	return c.times.since(g, r.Received)
}

// presenceOf returns when a node was last seen, when its lease ends at the latest, and whether it has a session now.
func (c *Coordinator) presenceOf(n *NodeRow) (Presence, bool) {
	if s := c.hub.get(n.ID); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return Presence{Attached: true, LastSeen: c.now(), LeaseEnds: s.leaseEnds}, s.over == nil
	}
	if p, ok := c.hub.presence(n.ID); ok {
		return p, false
	}
	p := n.Presence
	if p.Attached && p.LeaseEnds.Before(c.bound) {
		// It was online when an earlier process ended without saying so: what it was sent last is not known, but it ended before this one began.
		p.LeaseEnds = c.bound
	}
	return p, false
}

// String is for logs: "generation 42 on 37 of 38 nodes".
func (e Enforcement) String() string {
	n := 0
	for _, node := range e.Nodes {
		if node.Enforced {
			n++
		}
	}
	return fmt.Sprintf("generation %d on %d of %d nodes", e.Generation, n, len(e.Nodes))
}
