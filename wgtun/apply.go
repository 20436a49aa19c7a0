package wgtun

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"picket.internal/acl"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
)

// ErrIncomplete is wrapped by Apply's error when the device refused a part: the nodes concerned are denied until a later
// Apply puts them right; all else of the State is in force.
var ErrIncomplete = errors.New("state incomplete")

// ErrClosed is returned by what needs a tunnel that has not ended.
var ErrClosed = errors.New("tunnel is closed")

// Apply narrows, then widens (DESIGN.md section 6, rule 6), the one door for every State:
//
//  1. the filter takes what old and new allow both, departing nodes and addresses that change hands denied; flows are cut, and what passed
//     before and waits for a handshake is dropped. Only then the keys that peers are just changing are settled, which may take a moment, and
//     none is taken over until the end
//  2. those peers leave the device and the paths; this waits until nothing of theirs is under way, which a blocked TUN may
//     delay (SECURITY.md R14): by then nothing of theirs passes
//  3. the new peers come, asleep (see roster), the others change, a rotated tunnel key hands its addresses over
//  4. the filter takes the new rules whole
//
// So no rule meant for an address's new owner ever meets the old one's key. A State in which two peers claim one address or
// one key, or a peer claims one of ours, is refused whole and the old one stays: the error wraps ErrRefused. Calls wait for
// each other.
func (t *Tunnel) Apply(s State) (Applied, error) {
	t.applying.Lock()
	defer t.applying.Unlock()
	if t.ended() {
		return Applied{}, ErrClosed
	}
	s.Peers = t.roster.follow(s.Peers)
	if err := t.own.check(&s); err != nil {
		return Applied{}, fmt.Errorf("apply generation %d: %w", s.Generation, err)
	}
	overlay := slices.Concat(t.config.Overlay, s.Overlay)
	s.Peers = carve(&s, overlay)
	// Before any peer comes: one that sends a probe through the tunnel must not be answered with a path through it.
	t.path.SetOverlay(overlay)
	a := application{
		t: t, roster: t.roster, state: s, heirs: t.roster.over.heirs.Load(), plan: t.roster.plan(s.Peers), policy: policyOf(s),
		failed: make(map[acl.NodeID]error), removed: make(map[acl.NodeID]*member),
	}
	a.narrow()
	a.settle()
	defer t.roster.resumeTakeovers()
	a.removePeers()
	a.addPeers()
	a.widen()
	t.roster.reseat(a.state.Peers)
	return a.applied, a.err()
}

func policyOf(s State) *filter.Policy {
	return &filter.Policy{Generation: s.Generation, Self: s.Self, Rules: s.Rules, NotAfter: s.NotAfter, ClockOffset: s.ClockOffset}
}

// application is one Apply under way; the caller holds t.applying.
type application struct {
	t       *Tunnel
	roster  *roster
	state   State
	heirs   uint64 // takeovers.heirs when the plan was made
	plan    plan
	policy  *filter.Policy
	applied Applied
	failed  map[acl.NodeID]error
	removed map[acl.NodeID]*member // in step 2, of nodes that stay
	tainted []netip.Prefix         // of peers that could not be removed: nobody may have them yet
}

// narrow is step 1. The cuts are told before step 2, which may have to wait.
func (a *application) narrow() {
	both := filter.Intersect(a.t.policy, a.policy, func(n acl.NodeID) bool { return a.plan.departing[n] })
	a.swap(both)
	a.unstage()
}

// settle has each peer be found under one key until resumeTakeovers, and the plan be of those. It may wait a moment, and so comes after what narrows.
func (a *application) settle() {
	r := a.roster
	r.settleTakeovers(a.state.Peers)
	if r.over.heirs.Load() == a.heirs {
		return
	}
	a.state.Peers = r.follow(a.state.Peers)
	a.plan = r.plan(a.state.Peers)
}

// unstage drops what the filter passed before the cut and a peer's handshake keeps waiting: it would be sent whenever that is done. What
// others send to the same peer goes with it, before its session stands, and is sent again by its sender.
func (a *application) unstage() {
	if len(a.applied.Cut) == 0 {
		return
	}
	a.t.tun.drain()
	r := a.roster
	r.turn.Lock()
	defer r.turn.Unlock()
	done := make(map[acl.NodeID]bool)
	for i := range a.applied.Cut {
		node := a.applied.Cut[i].Flow().Peer
		if done[node] {
			continue
		}
		done[node] = true
		if m := r.nodes[node]; m != nil && m.awake != nil && r.engine != nil {
			r.engine.Unstage(m.peer.Tunnel)
		}
	}
}

func (a *application) swap(p *filter.Policy) {
	cuts := a.t.filter.Swap(p)
	a.t.policy = p
	a.applied.Cut = append(a.applied.Cut, cuts...)
	a.t.tellCuts(cuts)
}

// removePeers is step 2. Packets that the filter passed under the old rules may still lie between TUN and peer: they are
// waited for, so that none is sent to an address's next owner.
func (a *application) removePeers() {
	for _, in := range a.plan.remove {
		a.remove(in)
	}
	if len(a.plan.remove) > 0 {
		a.t.tun.drain()
	}
	a.applied.Removed = a.plan.removed
}

// remove takes a peer from the paths first: from then on nothing reaches it, whatever the device still holds.
func (a *application) remove(in installed) {
	r, node := a.roster, in.peer.Node
	r.turn.Lock()
	defer r.turn.Unlock()
	m := r.peers[in.peer.Tunnel]
	was := *m
	var counted map[key.TunnelPublic]peerCounters
	if m.awake != nil && !a.plan.departing[node] {
		counted = r.counters()
	}
	a.t.path.RemovePeer(in.peer.Tunnel)
	if err := r.leave(m, counted); err != nil {
		a.fail(in, fmt.Errorf("remove: %w", err))
		a.tainted = append(a.tainted, in.prefixes()...)
		r.abandon(m)
		return
	}
	r.forget(m)
	if !a.plan.departing[node] {
		was.past = m.past
		a.removed[node] = &was
	}
}

// addPeers is step 3.
func (a *application) addPeers() {
	for _, in := range a.plan.add {
		a.add(in)
	}
	for _, c := range a.plan.change {
		a.change(c)
	}
	for _, in := range a.plan.retire {
		a.remove(in)
	}
	a.applied.Added, a.applied.Changed = a.plan.added, a.plan.changed
}

// add enters a peer. It is put into the device only when its node was awake under the key it had, or until its prefixes changed hands.
func (a *application) add(in installed) {
	r, k := a.roster, in.peer.Tunnel
	r.turn.Lock()
	defer r.turn.Unlock()
	was := a.removed[in.peer.Node]
	if was == nil {
		was = r.nodes[in.peer.Node] // hands over to in, and is retired after it
	}
	m := &member{installed: in}
	if was != nil && was.sameHolder(in) {
		m.past = was.past
	}
	hands := was != nil && r.nodes[in.peer.Node] == was && was.sameHolder(in) && was.peer.Probe == in.peer.Probe &&
		a.t.path.Succeed(was.peer.Tunnel, k, true)
	r.enrol(m)
	a.t.path.SetPeer(in.path())
	if was == nil || was.awake == nil || r.engine == nil {
		a.t.path.Greeted(k)
		return
	}
	if err := r.admit(m); err != nil {
		r.abandon(m)
		a.fail(in, fmt.Errorf("add: %w", err))
		return
	}
	if hands { // it has changed its key before we heard of it, and whoever takes a key over begins
		r.engine.Handshake(k)
	}
	if a.plan.again[k] {
		r.engine.Handshake(k) // the peer, which has not left, still has the session that we gave up
	}
}

// change sets a peer that stays.
func (a *application) change(c change) {
	r := a.roster
	r.turn.Lock()
	defer r.turn.Unlock()
	m := r.peers[c.new.peer.Tunnel]
	if m.broken { // since the plan was made
		a.fail(c.new, errors.New("change: the device holds it in part"))
		return
	}
	if c.old.peer.Probe != c.new.peer.Probe {
		a.restarted(m, c.new)
	} else {
		a.t.path.SetPeer(c.new.path())
	}
	r.set(func() { m.installed = c.new })
	if m.awake == nil {
		return
	}
	if err := r.configure(configChange(c)); err != nil {
		r.abandon(m)
		a.fail(c.new, fmt.Errorf("change: %w", err))
	}
}

// restarted deals with a peer whose changed probe key says that it has started anew, and so lost its session: ours must not be
// sent into any more. Nor may a handshake be lost on the old path, because it is tried again only 5 seconds later: the path is
// given up but for its address, so that what is sent waits until the peer answers under its new key.
func (a *application) restarted(m *member, in installed) {
	p := in.path()
	if old, ok := a.t.path.Status(p.Tunnel); ok && old.Addr.IsValid() {
		p.Candidates = append([]netip.AddrPort{old.Addr}, p.Candidates...)
	}
	a.t.path.RemovePeer(p.Tunnel)
	a.t.path.SetPeer(p)
	a.roster.epoch.Add(1) // what was known of the path is void
	if m.awake != nil {
		a.t.path.Woken(p.Tunnel)
		a.roster.engine.Expire(p.Tunnel)
	}
}

func (a *application) fail(in installed, err error) {
	a.failed[in.peer.Node] = err
}

// denyTainted denies whoever is to have a prefix of a peer that could not be removed.
func (a *application) denyTainted() {
	if len(a.tainted) == 0 {
		return
	}
	for i := range a.state.Peers {
		p := &a.state.Peers[i]
		in := installed{peer: p}
		for _, prefix := range in.prefixes() {
			if slices.ContainsFunc(a.tainted, prefix.Overlaps) {
				a.failed[p.Node] = fmt.Errorf("%s is still with a peer that could not be removed", prefix)
			}
		}
	}
}

// widen is step 4. What failed stays denied.
func (a *application) widen() {
	a.denyTainted()
	p := *a.policy
	if len(a.failed) > 0 {
		p.Deny = make(map[acl.NodeID]struct{}, len(a.failed))
		for node := range a.failed {
			p.Deny[node] = struct{}{}
		}
	}
	a.swap(&p)
	a.t.setGeneration(a.state.Generation)
}

func (a *application) err() error {
	if len(a.failed) == 0 {
		return nil
	}
	errs := []error{fmt.Errorf("apply generation %d: %w: %d nodes are denied", a.state.Generation, ErrIncomplete, len(a.failed))}
	for node, err := range a.failed {
		errs = append(errs, fmt.Errorf("node %s: %w", node, err))
	}
	return errors.Join(errs...)
}

func (t *Tunnel) setGeneration(g uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.generation = g
}
