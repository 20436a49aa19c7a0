package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"picket.internal/acl"
)

// PolicyText is what a source found.
type PolicyText struct {
	Text    []byte
	Commit  string // full id; empty for a plain file
	Author  string
	Subject string // first line of the commit message
	Time    time.Time
	// Rewritten says that the commit in force, handed to Fetch, is no ancestor of Commit.
	Rewritten bool
	// Signer and SignerKey are whom the source holds to have signed Commit and the fingerprint of the key; empty when it asks for no signatures.
	Signer, SignerKey string
	// Unsigned says, in a sentence, why Commit does not count as signed by somebody who may; empty when it does, or no signatures are asked for.
	Unsigned string
}

// PolicySource is where policy comes from.
type PolicySource interface {
	// Fetch returns the newest text. inForce is the commit in force ("" none). Bounded in time by ctx and in size by itself.
	Fetch(ctx context.Context, inForce string) (PolicyText, error)
	// Changed may be nil; a value from it asks for a Fetch at once (a file watcher, say).
	Changed() <-chan struct{}
	String() string // for people, without credentials
}

// PolicyStatus is what is in force, and what stands against anything newer.
type PolicyStatus struct {
	Source     string    `json:"source"`
	Commit     string    `json:"commit,omitempty"`
	Author     string    `json:"author,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Signer     string    `json:"signer,omitempty"`    // who signed the commit; empty when signatures were not asked for
	SignerKey  string    `json:"signerKey,omitempty"` // fingerprint of the key
	Committed  time.Time `json:"committed"`
	InForce    time.Time `json:"inForce"` // since when; zero when nothing ever was
	Generation uint64    `json:"generation"`
	Text       string    `json:"text,omitempty"`
	Enforcing  int       `json:"enforcing"` // nodes with a receipt for at least Generation
	Nodes      int       `json:"nodes"`
	Checked    time.Time `json:"checked"` // last successful fetch
	// Refused is the newer commit that is not in force; Errors say why, one a line, with line and column.
	Refused       string    `json:"refused,omitempty"`
	RefusedAuthor string    `json:"refusedAuthor,omitempty"`
	Errors        []string  `json:"errors,omitempty"`
	ErrorSince    time.Time `json:"errorSince"`
	PolicyControl
}

// PolicyControl is what operators decided, or are asked to decide, about the policy.
type PolicyControl struct {
	ID      string         `json:"id,omitempty"`      // of the policy in force: its commit, or the SHA-256 of a plain file's text
	Newest  string         `json:"newest,omitempty"`  // of the newest that was fetched, when that is another
	Waiting *PolicyWaiting `json:"waiting,omitempty"` // the newest, when it waits for confirmation
	Pinned  *PolicyPin     `json:"pinned,omitempty"`  // the one in force stays, whatever is newer
}

// fetchTime bounds one Fetch.
const fetchTime = 2 * time.Minute

// policyKeeper is what is known of policy beside what is stored.
type policyKeeper struct {
	poke    chan struct{} // holds one value when a fetch is asked for
	loading sync.Mutex    // held through a fetch and its commit, so that policies land in the order they were found

	mu      sync.Mutex
	text    []byte      // by mu: what last was parsed
	last    *acl.Policy // by mu: that text, parsed
	checked time.Time   // by mu
	newest  string      // by mu: id of what was last fetched; empty before
	refused refusal     // by mu
}

// refusal is why a newer policy is not in force.
type refusal struct {
	commit, author string
	errors         []string
	since          time.Time
}

func (r refusal) same(o refusal) bool {
	return r.commit == o.commit && strings.Join(r.errors, "\n") == strings.Join(o.errors, "\n")
}

func (k *policyKeeper) init() { k.poke = make(chan struct{}, 1) }

// parsed is the policy of row, parsed once; without a row, the one that allows nothing.
func (k *policyKeeper) parsed(row PolicyRow) (*acl.Policy, error) {
	if row.Generation == 0 {
		return acl.Deny(), nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last != nil && bytes.Equal(k.text, row.Text) { // mostly the very slice, which costs nothing
		return k.last, nil
	}
	p, err := acl.Parse(row.Text)
	if err != nil {
		return nil, fmt.Errorf("parse the policy in force: %w", err)
	}
	k.text, k.last = row.Text, p
	return p, nil
}

// PokePolicy asks for a fetch soon (webhook); it does not block and coalesces.
func (c *Coordinator) PokePolicy() {
	select {
	case c.policy.poke <- struct{}{}:
	default:
	}
}

// keepPolicy fetches at once, then whenever it is asked to and every PolicyPoll, until ctx ends.
func (c *Coordinator) keepPolicy(ctx context.Context) error {
	source := c.config.Policy
	if source == nil {
		return nil
	}
	poll := time.NewTicker(c.config.PolicyPoll)
	defer poll.Stop()
	changed := source.Changed()
	for {
		if _, _, err := c.loadPolicy(ctx, system, order{}); err != nil && ctx.Err() == nil {
			c.log.Error("the policy cannot be loaded", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		case <-c.policy.poke:
		case _, ok := <-changed:
			if !ok {
				changed = nil
			}
		}
	}
}

// ReloadPolicy fetches now and reports. accept names a commit that may be taken although it rewrites history ("" none). A policy that is
// refused is no error: the status says why.
func (c *Coordinator) ReloadPolicy(ctx context.Context, a Actor, accept string) (PolicyStatus, Change, error) {
	if err := c.viewAllowed(ctx, a, rightLoadPolicy); err != nil {
		return PolicyStatus{}, Change{}, c.outward(ctx, err)
	}
	if c.config.Policy == nil {
		return PolicyStatus{}, Change{}, errNoSource
	}
	return c.orderPolicy(ctx, a, order{accept: accept})
}

var errNoSource = refuse(CodeInvalid, "the coordinator was started without a policy: start it with --policy-repo or --policy-file")

// order is what a person who loads the policy says beside it.
type order struct {
	accept  string   // a commit that may be taken although it rewrites history; "" none
	confirm *HoldRow // take this one, which waits, and no other
}

// orderPolicy loads the policy for a person, who has the right to, and reports.
func (c *Coordinator) orderPolicy(ctx context.Context, a Actor, o order) (PolicyStatus, Change, error) {
	g, summary, err := c.loadPolicy(ctx, a, o)
	if err != nil {
		return PolicyStatus{}, Change{}, c.outward(ctx, err)
	}
	s, err := c.policyStatus(ctx)
	return s, Change{Generation: g, Summary: summary}, c.outward(ctx, err)
}

// viewAllowed checks a right that reaches everything, in a transaction that reads.
func (c *Coordinator) viewAllowed(ctx context.Context, a Actor, r right) error {
	return c.store.View(ctx, func(tx ReadTx) error {
		_, err := reachOf(tx, a, r)
		return err
	})
}

// loadPolicy fetches, checks and, when it is new and good, and neither a pin nor the breaker holds it back, commits. The error is storage's, or
// a refusal of the order; what the source and the policy have against them goes into the status.
func (c *Coordinator) loadPolicy(ctx context.Context, a Actor, o order) (uint64, string, error) {
	c.policy.loading.Lock()
	defer c.policy.loading.Unlock()
	w := c.world.Load()
	fetching, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	found, err := c.config.Policy.Fetch(fetching, w.current.Commit)
	if ctx.Err() != nil {
		return 0, "", ctx.Err()
	}
	if err != nil {
		c.policyRefused(refusal{errors: []string{err.Error()}})
		return w.generation, "nothing new could be fetched", nil
	}
	c.policy.fetched(found, c.now())
	m, err := c.policyMarks(ctx)
	if err != nil {
		return 0, "", err
	}
	if o.confirm != nil && !o.confirm.holds(found) {
		c.PokePolicy() // what is newer is judged for itself
		return 0, "", refuse(CodeConflict, "the newest policy is %s now, not %s: look at `picket-coordinator policy status`", shortCommit(found.id()), shortCommit(o.confirm.id()))
	}
	if w.current.Generation > 0 && found.Commit == w.current.Commit && string(found.Text) == string(w.current.Text) {
		c.policyRefused(refusal{})
		return w.generation, "the policy in force is the newest", c.release(ctx, a, m.hold, "the policy in force is the newest again")
	}
	return c.takePolicy(ctx, a, w, found, m, o)
}

// takePolicy puts found, which is newer than the policy of w, in force, unless something stands against it. The caller holds loading.
func (c *Coordinator) takePolicy(ctx context.Context, a Actor, w *world, found PolicyText, m marks, o order) (uint64, string, error) {
	if m.hold.holds(found) && m.hold.Accepted {
		o.accept = found.Commit // it has been, and waits for another reason
	}
	if wrong := c.judge(w, found, o.accept); len(wrong) > 0 {
		c.policyRefused(refusal{commit: found.Commit, author: oneLine(found.Author, 200), errors: wrong})
		return w.generation, "the newest policy was refused", c.release(ctx, a, m.hold, "a newer one was refused")
	}
	c.policyRefused(refusal{})
	if m.pin != nil {
		return w.generation, "the policy in force is pinned; the newest, " + shortCommit(found.id()) + ", is not taken", nil
	}
	if o.confirm == nil {
		if wait, err := c.withhold(ctx, a, w, found, m, o); err != nil || wait {
			return w.generation, "policy " + shortCommit(found.id()) + " waits for confirmation", err
		}
	}
	g, err := c.commitPolicy(ctx, a, w, found, o)
	if err != nil {
		return 0, "", err
	}
	if found.Commit == "" {
		return g, "the policy file is in force", nil
	}
	return g, "policy " + shortCommit(found.Commit) + " is in force", nil
}

// fetched notes what a fetch brought.
func (k *policyKeeper) fetched(found PolicyText, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checked, k.newest = at, found.id()
}

// judge says what stands against a policy: a missing signature, rewritten history, mistakes, and its own tests. Nothing, when it may come into
// force. An operator who accepts a rewritten history does not sign for it: signatures come first.
func (c *Coordinator) judge(w *world, found PolicyText, accept string) []string {
	if found.Unsigned != "" {
		return []string{oneLine(found.Unsigned, 1000)}
	}
	if found.Rewritten && (accept == "" || accept != found.Commit) {
		return []string{fmt.Sprintf("history was rewritten: commit %s does not come after %s, which is in force; if that is meant, accept it: policy reload --accept %s",
			shortCommit(found.Commit), shortCommit(w.current.Commit), found.Commit)}
	}
	p, err := acl.Parse(found.Text)
	if err != nil {
		return policyErrors(err)
	}
	directory := c.directory(w, p, anyNode)
	if failures := p.Test(directory, c.now()); len(failures) > 0 {
		return testErrors(failures)
	}
	if _, err := acl.Compile(p, directory, c.config.Salt); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// maxPolicyErrors bounds what is kept of a refused policy's errors.
const maxPolicyErrors = 200

func policyErrors(err error) []string {
	var all acl.Errors
	if !errors.As(err, &all) {
		return []string{oneLine(err.Error(), 1000)}
	}
	var out []string
	for _, d := range all {
		if d.Severity == acl.SeverityWarning {
			continue
		}
		out = append(out, oneLine(d.String(), 1000))
	}
	return firstErrors(out)
}

func testErrors(failures []acl.TestFailure) []string {
	var out []string
	for _, f := range failures {
		out = append(out, fmt.Sprintf("line %d, column %d: %s", f.Line, f.Column, oneLine(f.Message, 1000)))
	}
	return firstErrors(out)
}

func firstErrors(all []string) []string {
	if len(all) > maxPolicyErrors {
		return append(all[:maxPolicyErrors:maxPolicyErrors], fmt.Sprintf("and %d more", len(all)-maxPolicyErrors))
	}
	return all
}

// policyRefused notes why nothing newer is in force (no errors: there is nothing newer), and logs it once.
func (c *Coordinator) policyRefused(r refusal) {
	c.policy.mu.Lock()
	defer c.policy.mu.Unlock()
	if r.same(c.policy.refused) {
		return
	}
	if len(r.errors) > 0 {
		r.since = c.now()
		c.log.Error("a newer policy is not in force", "commit", shortCommit(r.commit), "author", r.author, "reason", r.errors[0], "errors", len(r.errors))
	}
	c.policy.refused = r
}

// commitPolicy puts a policy in force: text, author, commit id and audit record in one transaction, with the next generation. It is refused
// when the policy in force is not that of w any more, by which found was judged, or was pinned meanwhile (R4).
func (c *Coordinator) commitPolicy(ctx context.Context, a Actor, w *world, found PolicyText, o order) (uint64, error) {
	return c.update(ctx, a, func(ch *change) error {
		if a.Kind != ActorSystem {
			if err := ch.allowed(rightLoadPolicy); err != nil {
				return err
			}
		}
		if err := ch.mayCommit(w, found, o); err != nil {
			return err
		}
		if o.confirm != nil {
			ch.record("policy.confirm", found.id(), c.config.Breaker.words(o.confirm.Impact))
		}
		subject, author := oneLine(found.Subject, 200), oneLine(found.Author, 200)
		signer, key := oneLine(found.Signer, 300), oneLine(found.SignerKey, 100)
		ch.record("policy.commit", found.Commit, strings.Trim(author+": "+subject, ": ")+signedBy(signer, key))
		return ch.enforcePolicy(PolicyRow{
			Text: found.Text, Source: c.config.Policy.String(), Commit: found.Commit, Author: author, Subject: subject, Signer: signer, SignerKey: key,
			Committed: found.Time,
		})
	})
}

// signedBy is what the audit record says of the signer; nothing without one.
func signedBy(signer, key string) string {
	if signer == "" {
		return ""
	}
	return " (signed by " + signer + ", key " + key + ")"
}

// mayCommit holds what found was judged by against what is there now.
func (ch *change) mayCommit(w *world, found PolicyText, o order) error {
	current, err := ch.Policy()
	if err != nil && !errors.Is(err, ErrNoRow) {
		return err
	}
	m, err := readMarks(ch)
	switch {
	case err != nil:
		return err
	case m.pin != nil:
		return refuse(CodeConflict, "the policy in force was pinned meanwhile")
	case current.Generation != w.current.Generation:
		ch.c.PokePolicy()
		return refuse(CodeConflict, "another policy came into force meanwhile: this one is judged anew")
	case o.confirm != nil && !m.hold.holds(found):
		return refuse(CodeConflict, "the policy does not wait for confirmation any more")
	}
	return nil
}

// keptPolicies and keptTexts (in bytes) bound the history of policies, for rollback.
const (
	keptPolicies = 1000
	keptTexts    = 64 << 20
)

// enforcePolicy puts p in force with the next generation. Nothing waits for confirmation any more: it would be judged by another policy.
func (ch *change) enforcePolicy(p PolicyRow) error {
	g, _, err := ch.Generation()
	if err != nil {
		return err
	}
	ch.narrow()
	if _, err := ch.DropHold(); err != nil {
		return err
	}
	p.InForce, p.Generation, p.By = ch.Now(), max(g, ch.c.emergency.floor())+1, ch.actor.String()
	if err := ch.InsertPolicy(p); err != nil {
		return err
	}
	return ch.PrunePolicies(keptPolicies, keptTexts)
}

// shortCommit is a commit's id as people write it; empty for a plain file.
func shortCommit(id string) string { return oneLine(id[:min(len(id), 12)], 12) }

// PolicyStatus reports.
func (c *Coordinator) PolicyStatus(ctx context.Context, a Actor) (PolicyStatus, error) {
	if err := c.viewAllowed(ctx, a, rightReadPolicy); err != nil {
		return PolicyStatus{}, c.outward(ctx, err)
	}
	s, err := c.policyStatus(ctx)
	return s, c.outward(ctx, err)
}

func (c *Coordinator) policyStatus(ctx context.Context) (PolicyStatus, error) {
	m, err := c.policyMarks(ctx)
	if err != nil {
		return PolicyStatus{}, err
	}
	w := c.world.Load()
	s := PolicyStatus{
		Source: w.current.Source, Commit: w.current.Commit, Author: w.current.Author, Subject: w.current.Subject,
		Signer: w.current.Signer, SignerKey: w.current.SignerKey,
		Committed: w.current.Committed, InForce: w.current.InForce, Generation: w.current.Generation, Text: string(w.current.Text),
	}
	if c.config.Policy != nil {
		s.Source = c.config.Policy.String()
	}
	for _, n := range w.nodes.all() {
		if n.Expired {
			continue
		}
		s.Nodes++
		if g := c.ledger.newest(n.ID).Generation; g > 0 && g >= s.Generation {
			s.Enforcing++
		}
	}
	c.policy.mu.Lock()
	defer c.policy.mu.Unlock()
	s.Checked = c.policy.checked
	s.Refused, s.RefusedAuthor = c.policy.refused.commit, c.policy.refused.author
	s.Errors, s.ErrorSince = c.policy.refused.errors, c.policy.refused.since
	s.PolicyControl = c.policyControl(w, m, c.policy.newest)
	return s, nil
}

func (c *Coordinator) policyControl(w *world, m marks, newest string) PolicyControl {
	p := PolicyControl{ID: w.current.id()}
	if newest != p.ID {
		p.Newest = newest
	}
	if h := m.hold; h != nil {
		p.Waiting = &PolicyWaiting{
			ID: h.id(), Commit: h.Commit, Author: h.Author, Subject: h.Subject, Since: h.Since, Limit: c.config.Breaker.Percent,
			Why: c.config.Breaker.words(h.Impact), Impact: h.Impact,
		}
	}
	if m.pin != nil {
		p.Pinned = &PolicyPin{By: m.pin.By, Since: m.pin.Since}
	}
	return p
}
