package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"picket.internal/acl"
)

// For bad days: an earlier policy that was in force comes back by rollback, from the database alone. It neither fetches nor waits for a fetch
// under way, is not judged by the breaker, and the policy's own tests do not run: an operator names the policy, and is in the audit log. A
// rollback pins the policy it puts in force. While one is pinned newer ones are fetched and checked, and none is taken.

// PolicyPin says that the policy in force stays.
type PolicyPin struct {
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

// PolicyVersion is a policy that is, or was, in force.
type PolicyVersion struct {
	ID         string    `json:"id"` // the commit, or the SHA-256 of a plain file's text
	Commit     string    `json:"commit,omitempty"`
	Author     string    `json:"author,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Source     string    `json:"source"`
	Generation uint64    `json:"generation"` // of the change that put it in force
	InForce    time.Time `json:"inForce"`    // from then
	Until      time.Time `json:"until"`      // until then; zero for the one in force
	By         string    `json:"by,omitempty"`
}

// PolicyHistory lists the policies that were in force, newest first, as far back as they are kept.
func (c *Coordinator) PolicyHistory(ctx context.Context, a Actor) ([]PolicyVersion, error) {
	out := []PolicyVersion{}
	err := c.store.View(ctx, func(tx ReadTx) error {
		if _, err := reachOf(tx, a, rightReadPolicy); err != nil {
			return err
		}
		var until time.Time
		return tx.PolicyScan(func(p PolicyRow) error {
			out = append(out, PolicyVersion{
				ID: p.id(), Commit: p.Commit, Author: p.Author, Subject: p.Subject, Source: p.Source, Generation: p.Generation,
				InForce: p.InForce, Until: until, By: p.By,
			})
			until = p.InForce
			return nil
		})
	})
	if err != nil {
		return nil, c.outward(ctx, err)
	}
	return out, nil
}

// RollbackPolicy puts an earlier policy that was in force in force again, and pins it. ref is its id, or the first 7 digits of that at least,
// which must fit no other.
func (c *Coordinator) RollbackPolicy(ctx context.Context, a Actor, ref string) (Change, error) {
	change, err := c.rollback(ctx, a, ref)
	return change, c.outward(ctx, err)
}

func (c *Coordinator) rollback(ctx context.Context, a Actor, ref string) (Change, error) {
	var row PolicyRow
	err := c.store.View(ctx, func(tx ReadTx) (err error) {
		if _, err = reachOf(tx, a, rightLoadPolicy); err == nil {
			row, err = formerPolicy(tx, ref)
		}
		return err
	})
	if err != nil {
		return Change{}, err
	}
	if err := c.readable(row); err != nil {
		return Change{}, err
	}
	g, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightLoadPolicy); err != nil {
			return err
		}
		current, err := ch.Policy()
		if err != nil {
			return err
		}
		if current.id() == row.id() {
			return refuse(CodeConflict, "policy %s is the one in force: `picket-coordinator policy pin` keeps it there", shortCommit(row.id()))
		}
		ch.record("policy.rollback", row.id(), fmt.Sprintf("from %s to that of generation %d", shortCommit(current.id()), row.Generation))
		if err := ch.enforcePolicy(row); err != nil {
			return err
		}
		return ch.pin()
	})
	if err != nil {
		return Change{}, err
	}
	return Change{Generation: g, Summary: "policy " + shortCommit(row.id()) + " is in force again, and pinned"}, nil
}

// formerPolicy finds the newest row of the one policy that ref names.
func formerPolicy(tx policyReader, ref string) (found PolicyRow, err error) {
	if !isPolicyRef(ref) {
		return found, errPolicyRef
	}
	err = tx.PolicyScan(func(p PolicyRow) error {
		id := p.id()
		switch {
		case !strings.HasPrefix(id, ref) || found.Generation != 0 && found.id() == id:
		case found.Generation != 0:
			return refuse(CodeInvalid, "%s is the beginning of more than one policy's id: give more digits", ref)
		default:
			found = p
		}
		return nil
	})
	if err == nil && found.Generation == 0 {
		err = refuse(CodeNotFound, "no policy %s was ever in force, or it is too long ago: `picket-coordinator policy list` shows those that were", shortCommit(ref))
	}
	return found, err
}

// readable refuses a policy that this version, or these nodes and people, cannot be ruled by: in force it would let nothing pass.
func (c *Coordinator) readable(p PolicyRow) error {
	parsed, err := acl.Parse(p.Text)
	if err == nil {
		_, err = acl.Compile(parsed, c.directory(c.world.Load(), parsed, reachable), c.config.Salt)
	}
	if err != nil {
		return refuse(CodeInvalid, "policy %s cannot come back: %s", shortCommit(p.id()), policyErrors(err)[0])
	}
	return nil
}

// pin keeps newer policies from being taken.
func (ch *change) pin() error {
	return ch.SetPin(PinRow{By: ch.actor.String(), Since: ch.Now()})
}

// PinPolicy keeps the policy in force there. ref may be empty; otherwise it must name that very policy.
func (c *Coordinator) PinPolicy(ctx context.Context, a Actor, ref string) (Change, error) {
	var current PolicyRow
	g, err := c.update(ctx, a, func(ch *change) (err error) {
		if err := ch.allowed(rightLoadPolicy); err != nil {
			return err
		}
		if current, err = ch.Policy(); errors.Is(err, ErrNoRow) {
			return refuse(CodeConflict, "no policy was ever in force")
		} else if err != nil {
			return err
		}
		if ref != "" && !isPolicyRef(ref) {
			return errPolicyRef
		}
		if !strings.HasPrefix(current.id(), ref) {
			return refuse(CodeConflict, "%s is not in force, but %s: `picket-coordinator policy rollback` brings an earlier one back", shortCommit(ref), shortCommit(current.id()))
		}
		if was, err := ch.Pin(); err == nil {
			return refuse(CodeConflict, "policy %s is pinned already, by %s since %s", shortCommit(current.id()), was.By, was.Since.Format(time.DateTime))
		} else if !errors.Is(err, ErrNoRow) {
			return err
		}
		if _, err := ch.DropHold(); err != nil {
			return err
		}
		ch.record("policy.pin", current.id(), "")
		return ch.pin()
	})
	if err != nil {
		return Change{}, c.outward(ctx, err)
	}
	return Change{Generation: g, Summary: "policy " + shortCommit(current.id()) + " is pinned"}, nil
}

// UnpinPolicy lifts the pin, fetches, and takes the newest if nothing stands against it. Without a source, what is in force stays.
func (c *Coordinator) UnpinPolicy(ctx context.Context, a Actor) (PolicyStatus, Change, error) {
	g, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightLoadPolicy); err != nil {
			return err
		}
		was, err := ch.DropPin()
		if err != nil {
			return err
		}
		if !was {
			return refuse(CodeConflict, "the policy is not pinned")
		}
		current, err := ch.Policy()
		ch.record("policy.unpin", current.id(), "")
		return err
	})
	if err != nil {
		return PolicyStatus{}, Change{}, c.outward(ctx, err)
	}
	if c.config.Policy == nil {
		s, err := c.policyStatus(ctx)
		return s, Change{Generation: g, Summary: "the policy is not pinned any more"}, c.outward(ctx, err)
	}
	return c.orderPolicy(ctx, a, order{})
}
