package coordinator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// Revocation waits for nothing, not even for storage (R21). When the transaction of a removal or quarantine fails, or does not come to an
// end in revokeTime, it takes effect in memory: the world loses the victim under a generation of its own, the nodes hear of it at once, and
// the caller is told that it is not on disk. The transaction is tried again until it commits. A process that ends before has lost it.

// revokeTime is how long a revocation waits for storage.
const revokeTime = 2 * time.Second

// settleEvery is how often a revocation that is not on disk is tried again.
const settleEvery = 5 * time.Second

// victim is who is cut off: a node, removed or quarantined, or a user with all nodes.
type victim struct {
	node       acl.NodeID
	quarantine bool
	user       acl.UserID
	summary    string // "node web-1 is removed"
}

// people is what finding a victim reads: a transaction, or the world when storage fails.
type people interface {
	userReader
	UserByLogin(string) (UserRow, error)
	Users() ([]UserRow, error)
	NodeByID(acl.NodeID) (NodeRow, error)
	NodeByName(string) (NodeRow, error)
}

// emergency is what has effect without being on disk.
type emergency struct {
	mu         sync.Mutex
	generation uint64 // the newest given out without a commit; 0 none
	stale      bool   // the world could not be read after a commit
	unsettled  []unsettled
}

// unsettled is a revocation whose transaction is still to be done.
type unsettled struct {
	victim victim
	actor  Actor
	commit func(*change, victim) error
}

// floor is the generation every commit must exceed.
func (e *emergency) floor() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.generation
}

func (e *emergency) setStale(stale bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stale = stale
}

// due reports whether something waits for storage to work again.
func (e *emergency) due() (stale bool, waiting []unsettled) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stale, slices.Clone(e.unsettled)
}

// gone reports whether a user was removed without that being on disk.
func (e *emergency) gone(id acl.UserID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.unsettled, func(u unsettled) bool { return u.victim.user != "" && u.victim.user == id })
}

// add notes a revocation and returns the generation, above the given one, under which it takes effect.
func (e *emergency) add(u unsettled, current uint64) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unsettled = append(e.unsettled, u)
	e.generation = max(e.generation, current) + 1
	return e.generation
}

// settled forgets what is so on disk now, or is not to be, and returns what it forgot.
func (e *emergency) settled(v victim) (forgotten []unsettled) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unsettled = slices.DeleteFunc(e.unsettled, func(u unsettled) bool {
		same := u.victim.node == v.node && u.victim.user == v.user && u.victim.quarantine == v.quarantine
		if same {
			forgotten = append(forgotten, u)
		}
		return same
	})
	return forgotten
}

// restore takes back what settled forgot too early.
func (e *emergency) restore(forgotten []unsettled) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unsettled = append(e.unsettled, forgotten...)
}

// apply takes the victims out of s, which is whole. It reports whether there are any.
func (e *emergency) apply(s *snapshot) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, u := range e.unsettled {
		v := u.victim
		s.users = slices.DeleteFunc(s.users, func(u UserRow) bool { return v.user != "" && u.ID == v.user })
		s.nodes = slices.DeleteFunc(s.nodes, func(n NodeRow) bool {
			return v.user != "" && n.Owner == v.user || v.node == n.ID && !v.quarantine
		})
		for i := range s.nodes {
			if s.nodes[i].ID == v.node && v.quarantine {
				s.nodes[i].Quarantined = true
			}
		}
	}
	return len(e.unsettled) > 0
}

// revoke cuts off whom pick finds for a: by commit in a transaction, or in memory when storage fails. pick checks a's right, and reads
// either the transaction or the world.
func (c *Coordinator) revoke(ctx context.Context, a Actor, pick func(people) (victim, error), commit func(*change, victim) error) (Change, error) {
	// The caller's going away does not undo what was asked, and a deadline of our own keeps a hanging disk from delaying it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTime)
	defer cancel()
	var v victim
	g, err := c.update(ctx, a, func(ch *change) (err error) {
		if v, err = pick(ch.Tx); err != nil {
			return err
		}
		return commit(ch, v)
	})
	if err == nil {
		c.emergency.settled(v)
		return Change{Generation: g, Summary: v.summary}, nil
	}
	if !isStorage(err) {
		return Change{}, err
	}
	return c.cutOff(ctx, unsettled{actor: a, commit: commit}, pick, err)
}

// cutOff makes a revocation that storage refused for cause take effect in memory.
func (c *Coordinator) cutOff(ctx context.Context, u unsettled, pick func(people) (victim, error), cause error) (Change, error) {
	c.rebuild.Lock()
	defer c.rebuild.Unlock()
	w := c.world.Load()
	var err error
	if u.victim, err = pick(w); err != nil {
		return Change{}, err
	}
	g := c.emergency.add(u, w.generation)
	s := w.snapshot()
	s.generation, s.at = g, c.now()
	c.enforce(s)
	c.hub.wake(urgent)
	why := "the database does not answer"
	if ctx.Err() == nil {
		why = c.outward(ctx, cause).Error()
	}
	c.log.Error("a revocation is in effect but not on disk", "summary", u.victim.summary, "generation", g, "err", cause)
	return Change{Generation: g, Summary: u.victim.summary}, refuse(protocol.CodeUnavailable,
		"%s, in effect now but not on disk (%s): it is tried again until it is, and would be lost if the coordinator ended before", u.victim.summary, why)
}

// snapshot is what w was made of, whole.
func (w *world) snapshot() snapshot {
	s := snapshot{generation: w.generation, at: w.at, revision: w.revision, since: whole, policy: &w.current, relays: w.relays}
	for _, u := range w.users.all() {
		s.users = append(s.users, u)
	}
	for _, n := range w.nodes.all() {
		s.nodes = append(s.nodes, *n)
	}
	return s
}

// again does u on disk, unless it is so already: the commit may have succeeded, and only its reading back failed. Whom it cuts off, and that
// its actor may, was settled when it took effect: since then the victim may have another name, and the actor be gone, and it stands.
func (u unsettled) again(ch *change) error {
	v := u.victim
	if v.user != "" {
		_, err := ch.UserByID(v.user)
		if errors.Is(err, ErrNoRow) {
			return nil
		}
		if err != nil {
			return err
		}
		return u.commit(ch, v)
	}
	n, err := ch.NodeByID(v.node)
	if err != nil || !n.Removed.IsZero() {
		return err
	}
	return u.commit(ch, v)
}

// settle tries again what is not on disk, and reads the world again when that failed after a commit.
func (c *Coordinator) settle(ctx context.Context) {
	stale, waiting := c.emergency.due()
	for _, u := range waiting {
		attempt, cancel := context.WithTimeout(ctx, revokeTime)
		if _, err := c.update(attempt, u.actor, u.again); err == nil {
			c.emergency.settled(u.victim)
			c.log.Info("a revocation is on disk now", "summary", u.victim.summary)
		}
		cancel()
	}
	if stale {
		if err := c.refresh(ctx, 0, urgent); err != nil {
			c.log.Error("the database cannot be read", "err", err)
		}
	}
}
