package coordinator

import (
	"context"
	"time"
)

// ticketsKept is how long a ticket is kept after its end, so that both sides can still be told how it ended.
const ticketsKept = time.Hour

// idleCheck is how long keepNodes sleeps when nothing is due.
const idleCheck = time.Hour

// keepNodes carries out expiries at their time, drops old tickets, and tries again what storage refused, until ctx ends.
func (c *Coordinator) keepNodes(ctx context.Context) error {
	clean := time.NewTicker(idleCheck)
	defer clean.Stop()
	settle := time.NewTicker(settleEvery)
	defer settle.Stop()
	for {
		next := time.NewTimer(c.untilExpiry())
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-next.C:
			c.expire(ctx)
		case <-clean.C:
			c.dropTickets(ctx)
		case <-settle.C:
			c.settle(ctx)
		}
		next.Stop()
	}
}

// untilExpiry is how long the next expiry is away: at least a moment, so that one that storage refuses does not spin, and at most
// settleEvery, because a node may have been admitted for a shorter time since.
func (c *Coordinator) untilExpiry() time.Duration {
	next := c.world.Load().nextExpiry()
	if next.IsZero() {
		return settleEvery
	}
	return min(max(next.Sub(c.now()), 50*time.Millisecond), settleEvery)
}

// expire ends the admissions whose time is over: from the next generation on, nobody may exchange flows with those nodes.
func (c *Coordinator) expire(ctx context.Context) {
	next := c.world.Load().nextExpiry()
	if next.IsZero() || c.now().Before(next) {
		return
	}
	_, err := c.update(ctx, system, func(ch *change) error {
		nodes, err := ch.Nodes()
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n.Expired || ch.Now().Before(n.Expires) {
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
