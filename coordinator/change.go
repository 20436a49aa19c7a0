package coordinator

import (
	"context"
	"time"
)

// Change names a committed change, to be waited on.
type Change struct {
	Generation uint64 `json:"generation"`
	Summary    string `json:"summary"`
}

// haste is how soon the sessions hear of a new world.
type haste int

const (
	gentle haste = iota // within coalesce, so that many joins make one map
	urgent              // at once: something was taken away
)

// change is one transaction of the coordinator: what it wrote, on whose behalf, and what is to be recorded of it.
type change struct {
	Tx
	c       *Coordinator
	actor   Actor
	raised  bool
	haste   haste
	records []AuditRecord
}

// raise marks that some map changed: the generation rises by one with the commit, however often it is called.
func (ch *change) raise() { ch.raised = true }

// narrow is raise for what takes something away: no session waits to hear of it.
func (ch *change) narrow() { ch.raised, ch.haste = true, urgent }

// record puts a line in the audit log, with the same commit.
func (ch *change) record(action, object, detail string) {
	ch.records = append(ch.records, AuditRecord{
		Time: ch.Now(), Actor: ch.actor.String(), From: ch.actor.from(),
		Action: action, Object: oneLine(object, 256), Detail: oneLine(detail, 1024),
	})
}

// allowed checks a right that reaches everything.
func (ch *change) allowed(r right) error {
	_, err := reachOf(ch.Tx, ch.actor, r)
	return err
}

// settleTime bounds how long reading the world after a commit may take: the commit stands, so the caller's own deadline does not count.
const settleTime = 10 * time.Second

// update runs fn in one transaction for a, appends what it recorded to the audit log, and returns the generation after it. When a map
// changed, the new world is in force, and on its way to the nodes, before update returns. The errors of fn come back as they are.
func (c *Coordinator) update(ctx context.Context, a Actor, fn func(*change) error) (uint64, error) {
	var g uint64
	var ch *change
	err := c.store.Update(ctx, func(tx Tx) error {
		c.readClock(tx)
		ch = &change{Tx: tx, c: c, actor: a}
		if err := fn(ch); err != nil {
			return err
		}
		var err error
		g, err = ch.finish()
		return err
	})
	if err != nil {
		return 0, err
	}
	if ch.raised {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
		defer cancel()
		if err := c.refresh(ctx, g, ch.haste); err != nil {
			return 0, err
		}
	}
	return g, nil
}

// finish sets the generation and writes the audit records, so that each carries the generation after the change.
func (ch *change) finish() (uint64, error) {
	g, _, err := ch.Generation()
	if err != nil {
		return 0, err
	}
	if ch.raised {
		g = max(g, ch.c.emergency.floor()) + 1
		if err := ch.SetGeneration(g); err != nil {
			return 0, err
		}
	}
	if len(ch.records) == 0 {
		return g, nil
	}
	for i := range ch.records {
		ch.records[i].Generation = g
	}
	return g, ch.c.appendAudit(ch.Tx, ch.records, g)
}
