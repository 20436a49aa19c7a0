package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"picket.internal/acl"
)

// ticketsKept is how long a ticket is kept after its end, so that both sides can still be told how it ended.
const ticketsKept = time.Hour

// idleCheck is how long keepNodes sleeps when nothing is due.
const idleCheck = time.Hour

// keepNodes carries out expiries, and what the policy says of a time, when it has come, drops old tickets, and tries again what storage
// refused, until ctx ends.
func (c *Coordinator) keepNodes(ctx context.Context) error {
	clean := time.NewTicker(idleCheck)
	defer clean.Stop()
	settle := time.NewTicker(settleEvery)
	defer settle.Stop()
	for {
		next := time.NewTimer(c.untilDate())
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-next.C:
			c.carryOut(ctx)
		case <-c.dates: // another world: another date may be the next, and however often that happens, none is put off
			c.carryOut(ctx)
		case <-clean.C:
			c.dropTickets(ctx)
			c.hub.keep(c.world.Load())
			c.budgets.keep(c.world.Load())
		case <-settle.C:
			c.settle(ctx)
		}
		next.Stop()
	}
}

// carryOut does what is due.
func (c *Coordinator) carryOut(ctx context.Context) {
	c.expire(ctx)
	c.passDeadlines(ctx)
}

// untilDate is how long the next expiry or deadline is away: at least a moment, so that one that storage refuses does not spin, and at most
// settleEvery, because the database's clock may be set.
func (c *Coordinator) untilDate() time.Duration {
	w, now, wait := c.world.Load(), c.now(), settleEvery
	if next := w.nextExpiry(); !next.IsZero() {
		wait = min(wait, next.Sub(now))
	}
	if next, ok := w.compiled.NextEnd(); ok {
		wait = min(wait, next.Sub(now))
	}
	return max(wait, 50*time.Millisecond)
}

// passDeadlines makes a generation when a rule or deny has ended since the newest was committed: nodes that only such a rule made each other's
// peers are to forget one another. Nothing passes meanwhile, because each node knows the rule's end. Ends are whole seconds (acl), so this makes
// at most one generation a second, however many a policy has.
func (c *Coordinator) passDeadlines(ctx context.Context) {
	w := c.world.Load()
	if next, ok := w.compiled.NextEnd(); !ok || c.now().Before(next) {
		return
	}
	_, err := c.update(ctx, system, func(ch *change) error {
		g, _, err := ch.Generation()
		ended := w.compiled.Ended(ch.Now())
		if err != nil || g > w.generation || len(ended) == 0 { // a change that came between has passed it, or the clock was set back
			return err
		}
		ch.narrow()
		ch.record("policy.ended", w.current.id(), "these have ended: "+refs(ended))
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.log.Error("the end of a rule cannot be written down", "err", err)
	}
}

// refs are the first places of several in words.
func refs(places []acl.Ref) string {
	const most = 10
	var words []string
	for _, r := range places[:min(len(places), most)] {
		words = append(words, r.String())
	}
	if n := len(places) - most; n > 0 {
		words = append(words, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(words, "; ")
}

// expire ends the admissions whose time is over: from the next generation on, nobody may exchange flows with those nodes.
func (c *Coordinator) expire(ctx context.Context) {
	due := c.world.Load().due(c.now())
	if len(due) == 0 {
		return
	}
	_, err := c.update(ctx, system, func(ch *change) error {
		for _, id := range due {
			n, err := ch.NodeByID(id)
			if errors.Is(err, ErrNoRow) {
				continue
			}
			if err != nil {
				return err
			}
			if !n.Removed.IsZero() || n.Expired || ch.Now().Before(n.Expires) { // it was removed, or renewed, meanwhile
				continue
			}
			n.Expired = true
			if err := ch.UpdateNode(n); err != nil {
				return err
			}
			ch.narrow()
			ch.record("node.expire", string(n.ID), describe(n))
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		// Nobody passes for it: each node knows when its peers' admissions end, and the session of an expired node is ended by Next.
		c.log.Error("expiries cannot be written down", "err", err)
	}
}

func (c *Coordinator) dropTickets(ctx context.Context) {
	if err := c.store.Update(ctx, func(tx Tx) error { return tx.DropTickets(tx.Now().Add(-ticketsKept)) }); err != nil && ctx.Err() == nil {
		c.log.Warn("old logins cannot be dropped", "err", err)
	}
}
