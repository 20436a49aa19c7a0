package coordinator

import (
	"context"
	"errors"
	"time"

	"picket.internal/acl"
)

// snapshot is one consistent read of what a world is made of: all of it, or what changed since the world that it is to follow was read.
type snapshot struct {
	generation uint64
	at         time.Time
	revision   int64
	since      int64      // what changed after this revision; whole, when it is everything
	policy     *PolicyRow // nil: the one there was
	dns        *DNSRow    // nil: what there was
	users      []UserRow
	usersGone  []acl.UserID
	nodes      []NodeRow  // also tombstones, unless it is whole
	relays     []RelayRow // always all of them: they are few
}

// whole as snapshot.since: no revision is that low.
const whole = -1

func (s *snapshot) isWhole() bool { return s.since == whole }

// readSnapshot reads what makes base the newest world; all there is when base is nil, or of a later time than the store shows, as when an
// older copy was put in its place.
func readSnapshot(tx ReadTx, base *world) (s snapshot, err error) {
	if s.generation, s.at, err = tx.Generation(); err != nil {
		return s, err
	}
	if s.revision, err = tx.Revision(); err != nil {
		return s, err
	}
	if s.relays, err = tx.Relays(); err != nil {
		return s, err
	}
	if base == nil || s.generation < base.generation || s.revision < base.revision {
		return s, s.readAll(tx)
	}
	return s, s.readChanges(tx, base.revision)
}

func (s *snapshot) readAll(tx ReadTx) (err error) {
	s.since = whole
	if err = s.readPolicy(tx); err != nil {
		return err
	}
	if err = s.readDNS(tx); err != nil {
		return err
	}
	if s.users, err = tx.Users(); err != nil {
		return err
	}
	s.nodes, err = tx.Nodes()
	return err
}

func (s *snapshot) readChanges(tx ReadTx, since int64) error {
	changes, err := tx.ChangedSince(since)
	if err != nil {
		return err
	}
	s.since, s.users, s.usersGone, s.nodes = since, changes.Users, changes.UsersGone, changes.Nodes
	if changes.DNS {
		if err := s.readDNS(tx); err != nil {
			return err
		}
	}
	if changes.Policy {
		return s.readPolicy(tx)
	}
	return nil
}

func (s *snapshot) readDNS(tx ReadTx) error {
	d, err := readDNS(tx)
	s.dns = &d
	return err
}

func (s *snapshot) readPolicy(tx ReadTx) error {
	p, err := tx.Policy()
	if err != nil && !errors.Is(err, ErrNoRow) {
		return err
	}
	s.policy = &p // zero when there never was one
	return nil
}

// read reads for base, which is nil for everything.
func (c *Coordinator) read(ctx context.Context, base *world, atLeast uint64) (s snapshot, err error) {
	err = c.store.View(ctx, func(tx ReadTx) (err error) {
		c.readClock(tx)
		s, err = readSnapshot(tx, base)
		return err
	})
	if err == nil && s.generation < atLeast {
		err = errors.New("the store does not show a change it has committed")
	}
	return s, err
}

// refresh reads the store in one consistent read (R29), and puts the world made of it in force unless a newer one is. Sessions hear of
// it with the haste given. Only what changed is read, unless there is doubt about the world in force.
func (c *Coordinator) refresh(ctx context.Context, atLeast uint64, h haste) error {
	s, err := c.read(ctx, c.undoubted(), atLeast)
	if err == nil && !c.take(s, h) {
		if s, err = c.read(ctx, nil, atLeast); err == nil {
			c.take(s, h)
		}
	}
	c.emergency.setStale(err != nil)
	return err
}

// undoubted is the world in force; nil when it may not be what the store held at its revision: none was read yet, a read failed, or an
// emergency took somebody out.
func (c *Coordinator) undoubted() *world {
	w := c.world.Load()
	if stale, waiting := c.emergency.due(); w == nil || w.altered || stale || len(waiting) > 0 {
		return nil
	}
	return w
}

// take puts the world made of s in force, unless a newer one is. It reports false when s says what changed in a world that has gone, or is in
// doubt by now.
func (c *Coordinator) take(s snapshot, h haste) bool {
	c.rebuild.Lock()
	defer c.rebuild.Unlock()
	old := c.world.Load()
	if !s.isWhole() && (c.undoubted() == nil || old.revision < s.since) {
		return false
	}
	s.generation = max(s.generation, c.emergency.floor())
	// Rows are states, not events: what changed since an earlier revision than old's says all that changed since old's.
	if old == nil || s.generation >= old.generation && (s.isWhole() || s.revision >= old.revision) {
		c.enforce(s)
	}
	c.hub.wake(h)
	return true
}
