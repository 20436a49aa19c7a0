package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"picket.internal/acl"
)

// The breaker holds a policy commit back that would take much from many at once, as a bad synchronization does overnight: until an operator
// confirms it, the policy in force stays. It trips when a commit would cut more than Breaker.Percent of the live flows, of which there are
// breakerFloor at least, or leave nobody in a group that rules name.
//
// What concerns one node or one person alone never waits, however many flows that is: somebody may have to be cut off now. So flows do not
// count that all have one node, or one person's nodes, at an end; nor does a group whose only member it takes. Removal, quarantine, and all else
// that is no policy commit, do not come here at all.
//
// A commit that waits is known by its id and the SHA-256 of its text, on disk: it waits until it is confirmed or another is the newest, also
// over a restart, and whatever becomes of the flows.

// DefaultBreakerPercent is the share of live flows that a commit may cut.
const DefaultBreakerPercent = 25

// breakerFloor is how many live flows there must be before their share counts: of a handful, any is much.
const breakerFloor = 20

// Breaker says when a policy commit waits for confirmation. The zero Breaker is the default one.
type Breaker struct {
	Off     bool
	Percent int // of the live flows: 1 to 100; 0: DefaultBreakerPercent
}

func (b *Breaker) fill() error {
	if b.Percent == 0 {
		b.Percent = DefaultBreakerPercent
	}
	if b.Percent < 1 || b.Percent > 100 {
		return fmt.Errorf("the policy breaker's share of %d %% is not within 1 and 100", b.Percent)
	}
	return nil
}

// trips reports whether a commit with that impact waits.
func (b Breaker) trips(i Impact) bool { return b.cutsMuch(i) || emptiesMany(i) }

func (b Breaker) cutsMuch(i Impact) bool {
	return i.Live >= breakerFloor && i.Cut*100 > b.Percent*i.Live && i.Concerns == ""
}

// emptiesMany reports whether the emptied groups had more than one person in them.
func emptiesMany(i Impact) bool {
	only := ""
	for _, g := range i.Emptied {
		if g.Count > 1 || only != "" && g.People[0] != only {
			return true
		}
		only = g.People[0]
	}
	return false
}

// words says what a commit that waits would do.
func (b Breaker) words(i Impact) string {
	var out []string
	if i.Cut > 0 {
		s := fmt.Sprintf("it would cut %d of %s (%s %%; the limit is %d %%)", i.Cut, plural(i.Live, "live flow"), share(i.Cut, i.Live), b.Percent)
		out = append(out, s+": "+strings.Join(firstCuts(i), ", "))
	}
	for _, g := range i.Emptied {
		out = append(out, fmt.Sprintf("nobody would be in %s any more (%s), which rules of the policy in force name", oneLine(g.Group, 80), persons(g.Count)))
	}
	if len(i.Unknown) > 0 {
		out = append(out, fmt.Sprintf("the flows of %s are not known", plural(len(i.Unknown), "node")))
	}
	return strings.Join(out, "; ")
}

// maxCutsSaid bounds how many kinds of flows a sentence names.
const maxCutsSaid = 5

func firstCuts(i Impact) (out []string) {
	rest := i.Cut
	for _, f := range i.Cuts[:min(len(i.Cuts), maxCutsSaid)] {
		out = append(out, oneLine(f.String(), 200))
		rest -= f.Flows
	}
	if rest > 0 {
		out = append(out, fmt.Sprintf("and %d more", rest))
	}
	return out
}

func persons(n int) string {
	if n == 1 {
		return "1 person"
	}
	return strconv.Itoa(n) + " people"
}

// share is part in percent of whole, to one decimal.
func share(part, whole int) string {
	return strings.TrimSuffix(strconv.FormatFloat(100*float64(part)/float64(max(whole, 1)), 'f', 1, 64), ".0")
}

// PolicyWaiting is a commit that waits for confirmation.
type PolicyWaiting struct {
	ID      string    `json:"id"` // the commit, or the SHA-256 of a plain file's text
	Commit  string    `json:"commit,omitempty"`
	Author  string    `json:"author,omitempty"`
	Subject string    `json:"subject,omitempty"`
	Since   time.Time `json:"since"`
	Limit   int       `json:"limit"` // percent
	Why     string    `json:"why"`   // what it would do, in words
	Impact
}

// policyID names a policy: by its commit, or, when it is of a plain file, by the SHA-256 of its text.
func policyID(commit string, sum [32]byte) string {
	if commit != "" {
		return commit
	}
	return hex.EncodeToString(sum[:])
}

func (p PolicyRow) id() string {
	if p.Generation == 0 {
		return ""
	}
	return policyID(p.Commit, sha256.Sum256(p.Text))
}
func (p PolicyText) id() string { return policyID(p.Commit, sha256.Sum256(p.Text)) }
func (h HoldRow) id() string    { return policyID(h.Commit, h.Sum) }

// holds reports whether h is about that very policy.
func (h *HoldRow) holds(p PolicyText) bool {
	return h != nil && h.Commit == p.Commit && h.Sum == sha256.Sum256(p.Text)
}

// isPolicyRef reports whether ref can name a policy: the first 7 digits of its id or more.
func isPolicyRef(ref string) bool {
	return len(ref) >= 7 && len(ref) <= 64 && strings.Trim(ref, "0123456789abcdef") == ""
}

var errPolicyRef = refuse(CodeInvalid, "a policy is named by its commit, or the first 7 digits of that at least: `picket-coordinator policy list` shows them")

// marks are what operators have, or are asked, to decide about the policy; nil where there is nothing.
type marks struct {
	hold *HoldRow
	pin  *PinRow
}

func readMarks(tx policyReader) (m marks, err error) {
	switch h, err := tx.Hold(); {
	case err == nil:
		m.hold = &h
	case !errors.Is(err, ErrNoRow):
		return m, err
	}
	switch p, err := tx.Pin(); {
	case err == nil:
		m.pin = &p
	case !errors.Is(err, ErrNoRow):
		return m, err
	}
	return m, nil
}

func (c *Coordinator) policyMarks(ctx context.Context) (m marks, err error) {
	err = c.store.View(ctx, func(tx ReadTx) error {
		m, err = readMarks(tx)
		return err
	})
	return m, err
}

// withhold reports whether found is to wait, and notes that when it is new. Its failure is a refusal (R21).
func (c *Coordinator) withhold(ctx context.Context, a Actor, w *world, found PolicyText, m marks, o order) (bool, error) {
	if c.config.Breaker.Off || w.current.Generation == 0 || bytes.Equal(found.Text, w.current.Text) {
		return false, nil
	}
	if m.hold.holds(found) {
		return true, nil
	}
	next, err := acl.Parse(found.Text)
	if err != nil {
		return false, err
	}
	if err := c.awaitReturn(ctx); err != nil {
		return false, err
	}
	impact, err := c.impactOf(ctx, w, next)
	if err != nil {
		return false, err
	}
	if !c.config.Breaker.trips(impact) {
		return false, nil
	}
	return true, c.hold(ctx, a, found, impact, o.accept == found.Commit && found.Rewritten)
}

// hold has found wait.
func (c *Coordinator) hold(ctx context.Context, a Actor, found PolicyText, i Impact, accepted bool) error {
	why := c.config.Breaker.words(i)
	_, err := c.update(ctx, a, func(ch *change) error {
		ch.record("policy.hold", found.id(), why)
		return ch.SetHold(HoldRow{
			Sum: sha256.Sum256(found.Text), Commit: found.Commit, Author: oneLine(found.Author, 200), Subject: oneLine(found.Subject, 200),
			Since: ch.Now(), Accepted: accepted, Impact: i,
		})
	})
	if err == nil {
		c.log.Warn("a newer policy waits for confirmation", "commit", shortCommit(found.id()), "author", oneLine(found.Author, 200), "reason", why,
			"confirm", "picket-coordinator policy confirm "+shortCommit(found.id()))
	}
	return err
}

// release forgets the commit that waits, which is not the newest any more; why says what is.
func (c *Coordinator) release(ctx context.Context, a Actor, hold *HoldRow, why string) error {
	if hold == nil {
		return nil
	}
	_, err := c.update(ctx, a, func(ch *change) error {
		if was, err := ch.DropHold(); err != nil || !was {
			return err
		}
		ch.record("policy.unhold", hold.id(), why)
		return nil
	})
	return err
}

// ConfirmPolicy fetches now, and takes the commit that waits if that is the one named and the newest. Anything newer is judged for itself.
func (c *Coordinator) ConfirmPolicy(ctx context.Context, a Actor, ref string) (PolicyStatus, Change, error) {
	if err := c.viewAllowed(ctx, a, rightLoadPolicy); err != nil {
		return PolicyStatus{}, Change{}, c.outward(ctx, err)
	}
	if !isPolicyRef(ref) {
		return PolicyStatus{}, Change{}, errPolicyRef
	}
	if c.config.Policy == nil {
		return PolicyStatus{}, Change{}, errNoSource
	}
	m, err := c.policyMarks(ctx)
	switch {
	case err != nil:
		return PolicyStatus{}, Change{}, c.outward(ctx, err)
	case m.hold == nil:
		return PolicyStatus{}, Change{}, refuse(CodeConflict, "no policy waits for confirmation")
	case !strings.HasPrefix(m.hold.id(), ref):
		return PolicyStatus{}, Change{}, refuse(CodeConflict, "it is %s that waits for confirmation, not %s", shortCommit(m.hold.id()), shortCommit(ref))
	}
	return c.orderPolicy(ctx, a, order{confirm: m.hold})
}

// awaitReturn gives the nodes that were here when the last process ended returnTime to come back, so that a commit which is found at the
// start is not judged by a network that seems to have no flows.
func (c *Coordinator) awaitReturn(ctx context.Context) error {
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for time.Since(c.began) < returnTime && !c.allReturned() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// returnTime is how long after the start nodes are expected back: they try at least every 30 s, and much more often at first.
const returnTime = 20 * time.Second

// seenLately is how long before the start a node may have been seen last, to be expected back.
const seenLately = time.Minute

func (c *Coordinator) allReturned() bool {
	for _, n := range c.world.Load().nodes.all() {
		p := n.Presence
		if _, came := c.hub.presence(n.ID); came || !reachable(n) {
			continue
		}
		if p.Attached || p.LastSeen.After(c.began.Add(-seenLately)) {
			return false
		}
	}
	return true
}
