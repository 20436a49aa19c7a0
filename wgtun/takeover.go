package wgtun

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

// A peer changes its tunnel key without a packet lost. Its device has certified the next key (Peer.Next), and its ping says that it is
// in use; a ping is authentic and taken once. From then on:
//
//  1. the device gets the next key as a peer without addresses, and begins a handshake with it. What we send goes on by the session with the
//     former key, which the peer still opens; the peer itself has sent nothing since before its ping, and sends nothing until it has heard
//     from the new session
//  2. when the device has the session, it says so to the peer: that is held back (takeovers.hold), the addresses move to the next
//     key, in one text, and only then it goes out
//  3. the former key, by which nothing passes any more, leaves the device when what it had encrypted has been sent
//
// There is no way back: an Apply that still names the former key has the one that followed it (follow). An Apply meanwhile ends step 1, once it has
// narrowed, and none begins before it has ended.

const (
	// drainTime is how long what was sent under a former key, a peer's or ours, may take through the device.
	drainTime = 10 * time.Millisecond
	// retryGreeting is how long a handshake may take before it is begun anew; WireGuard itself waits for 5 seconds.
	retryGreeting = 400 * time.Millisecond
	// greetTries is how often it is begun. Then the addresses move without a session.
	greetTries = 12
	// settleTime is how long an Apply waits for those under way.
	settleTime = 50 * time.Millisecond
	// formerLife is how long a former key stays in the device, without addresses.
	formerLife = time.Second
	// maxHeldBack bounds what is held back of one peer, in datagrams.
	maxHeldBack = 16
)

// takeovers are those under way. Its lock is an inner one: the device's goroutines take it.
type takeovers struct {
	any  atomic.Bool   // pending is not empty
	rung chan struct{} // room for one: something is to be tended

	followed bell // keys that peers have taken up, for Config.OnHeir

	heirs     atomic.Uint64                 // members that another key has followed
	postponed map[key.TunnelPublic]struct{} // keys that are to wait for an Apply to end; nil while none runs; guarded by the roster's turn

	mu      sync.Mutex
	pending map[key.TunnelPublic]*takeover // by the key that is taken over
}

func newTakeovers() *takeovers {
	return &takeovers{rung: make(chan struct{}, 1), followed: newBell(), pending: make(map[key.TunnelPublic]*takeover)}
}

// takeover is one between steps 1 and 2. Owned by the roster's turn, but for held and met.
type takeover struct {
	old    *member
	heir   installed
	began  time.Time
	asked  time.Time // the newest handshake
	tries  int
	greets bool // we begin the handshake: the peer does when both have changed their keys, and its probe key is the smaller

	met  bool       // the device has the session; guarded by takeovers.mu
	held []heldBack // guarded by takeovers.mu
}

// heldBack is a datagram of the device's for a peer that does not have its addresses yet.
type heldBack struct {
	datagram []byte
	endpoint conn.Endpoint
}

// former is a key in the device that another has followed.
type former struct {
	installed
	since time.Time
}

func (o *takeovers) ring() {
	select {
	case o.rung <- struct{}{}:
	default:
	}
}

func (o *takeovers) add(t *takeover) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending[t.heir.peer.Tunnel] = t
	o.any.Store(true)
}

func (o *takeovers) all() (list []*takeover) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.pending {
		list = append(list, t)
	}
	return list
}

func (o *takeovers) hasMet(t *takeover) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return t.met
}

// hold keeps back what would have a peer send under a key that does not have its addresses yet: the end of a handshake, from
// whichever side it was begun, and all that the session carries. It reports whether it did.
func (o *takeovers) hold(ep conn.Endpoint, bufs [][]byte) bool {
	const response, transport = 2, 4 // WireGuard whitepaper section 5.4
	e, ok := ep.(*path.Endpoint)
	if !ok || len(bufs) == 0 || len(bufs[0]) == 0 || bufs[0][0] != response && bufs[0][0] != transport {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.pending[e.Peer()]
	if t == nil {
		return false
	}
	for _, b := range bufs[:min(len(bufs), maxHeldBack-len(t.held))] {
		t.held = append(t.held, heldBack{slices.Clone(b), ep})
	}
	t.met = true
	o.ring()
	return true
}

// take ends one; what was held back is to be sent now.
func (o *takeovers) take(t *takeover) []heldBack {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.pending, t.heir.peer.Tunnel)
	o.any.Store(len(o.pending) > 0)
	return t.held
}

// heirTo is the member whose next key is k; nil when there is none that may have it. The caller holds turn.
func (r *roster) heirTo(k key.TunnelPublic) *member {
	if k.IsZero() || r.peers[k] != nil {
		return nil
	}
	for _, m := range r.nodes {
		if m.peer.next() == k && !m.broken {
			return m
		}
	}
	return nil
}

// takeOver is step 1, and all of it for a peer that sleeps, or one without device. It reports whether the device has the key.
func (r *roster) takeOver(k key.TunnelPublic) bool {
	m := r.heirTo(k)
	if m == nil {
		return false
	}
	if r.over.postponed != nil {
		r.over.postponed[k] = struct{}{}
		return false
	}
	r.expel(k)
	peer := *m.peer
	peer.Tunnel, peer.Next = k, nil
	heir := installed{peer: &peer}
	awake := m.awake != nil && r.engine != nil
	greets := awake && (!r.rekeying.unsettled(m.peer.Tunnel) || r.goesFirst(m))
	if !r.path.Succeed(m.peer.Tunnel, k, greets) {
		return false
	}
	if awake {
		r.rekeying.alias(m.peer.Tunnel, k)
	}
	r.logger.Info("a peer has a new tunnel key", "node", peer.Node, "key", k.Short())
	if !awake {
		r.path.RemovePeer(m.peer.Tunnel)
		return r.wake(r.succeed(m, heir, peerCounters{}))
	}
	if err := r.configure(configBare(heir)); err != nil {
		r.logger.Error("a peer's new key is not taken by the device: it is denied until the next map", "node", peer.Node, "reason", err)
		r.retire(m)
		r.abandon(r.succeed(m, heir, peerCounters{}))
		return false
	}
	now := time.Now()
	r.over.add(&takeover{old: m, heir: heir, began: now, asked: now, greets: greets})
	if greets {
		r.engine.Handshake(k)
	}
	r.path.Woken(k)
	r.over.ring()
	return true
}

// succeed puts an heir in a member's place. The caller holds turn.
func (r *roster) succeed(m *member, in installed, counted peerCounters) *member {
	sum := m.before().plus(counted)
	gaveUp := m.peer.Tunnel
	heir := &member{installed: in, came: m.came, awake: m.awake, past: &sum, gaveUp: &gaveUp}
	r.set(func() {
		delete(r.peers, m.peer.Tunnel)
		r.peers[in.peer.Tunnel], r.nodes[in.peer.Node] = heir, heir
	})
	r.over.heirs.Add(1) // after the change: who plans reads this first
	r.over.followed.ring(in.peer.Tunnel)
	return heir
}

// complete is step 2. The caller holds turn.
func (r *roster) complete(o *takeover) {
	k := o.heir.peer.Tunnel
	counted := r.counters()[o.old.peer.Tunnel]
	err := r.configure(configAdd(o.heir))
	heir := r.succeed(o.old, o.heir, counted)
	r.retire(o.old)
	held := r.over.take(o)
	r.path.Greeted(k)
	if err != nil {
		r.logger.Error("a peer's addresses cannot be moved to its new key: it is denied until the next map", "node", heir.peer.Node, "reason", err)
		r.abandon(heir)
		return
	}
	r.rekeying.moved(k)
	for _, h := range held {
		_ = r.path.Send([][]byte{h.datagram}, h.endpoint)
	}
}

// retire leaves a key in the device for what it has encrypted. The caller holds turn.
func (r *roster) retire(m *member) {
	r.former[m.peer.Tunnel] = former{m.installed, time.Now()}
	r.over.ring()
}

// expel takes a former key out of the device, if it is there: step 3. The caller holds turn.
func (r *roster) expel(k key.TunnelPublic) {
	f, ok := r.former[k]
	if !ok {
		return
	}
	if err := r.configure(configRemove(f.installed)); err != nil {
		r.logger.Error("a key that was given up cannot be taken out of the device: nothing passes by it", "node", f.peer.Node, "reason", err)
	}
	r.path.RemovePeer(k)
	r.sessions.removed(k)
	delete(r.former, k)
}

// settleTakeovers waits a moment for step 1 of all, and ends it, with a session or without, so that an Apply finds one key a peer; none is taken over from then
// until resumeTakeovers. Former keys that a State names as somebody's leave.
func (r *roster) settleTakeovers(want []Peer) {
	for deadline := time.Now().Add(settleTime); r.over.any.Load() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	r.turn.Lock()
	defer r.turn.Unlock()
	for _, o := range r.over.all() {
		r.complete(o)
	}
	for i := range want {
		r.expel(want[i].Tunnel)
	}
	r.over.postponed = make(map[key.TunnelPublic]struct{})
}

// resumeTakeovers lets keys be taken over again, those first that had to wait.
func (r *roster) resumeTakeovers() {
	r.turn.Lock()
	defer r.turn.Unlock()
	for k := range r.over.postponed {
		r.bell.ring(k)
	}
	r.over.postponed = nil
}

// tendTakeovers does what is due, and returns when it is to be called again; zero when nothing is under way.
func (r *roster) tendTakeovers() (next time.Duration) {
	r.turn.Lock()
	defer r.turn.Unlock()
	soon := func(d time.Duration) {
		if d = max(d, time.Millisecond); next == 0 || d < next {
			next = d
		}
	}
	for _, o := range r.over.all() {
		met, age := r.over.hasMet(o), time.Since(o.began)
		switch {
		case met && age >= drainTime, o.tries >= greetTries:
			r.complete(o)
		case met:
			soon(drainTime - age)
		case time.Since(o.asked) >= r.patience(o):
			o.asked = time.Now()
			o.tries++
			if r.engine != nil {
				r.engine.Expire(o.heir.peer.Tunnel)
				r.engine.Handshake(o.heir.peer.Tunnel)
			}
			soon(r.patience(o))
		default:
			soon(r.patience(o) - time.Since(o.asked))
		}
	}
	if next := r.remind(); next > 0 {
		soon(next)
	}
	for k, f := range r.former {
		if left := formerLife - time.Since(f.since); left > 0 {
			soon(left)
		} else {
			r.expel(k)
		}
	}
	return next
}

// remind begins handshakes with peers that know our new key and have not begun one; it returns when it is to be called again, zero for never.
func (r *roster) remind() time.Duration {
	k := r.rekeying.pending()
	if k == nil || r.engine == nil {
		return 0
	}
	for _, peer := range k.waitingFor() {
		if r.peers[peer] == nil || r.path.Stale(peer) {
			continue
		}
		r.engine.Expire(peer)
		r.engine.Handshake(peer)
	}
	return remindAfter
}

// patience is how long a handshake may take. It is not the same at both ends, or two that have crossed would go on to cross.
func (r *roster) patience(o *takeover) time.Duration {
	d := retryGreeting + time.Duration(o.heir.peer.Tunnel[0])*time.Millisecond
	if !o.greets && o.tries == 0 {
		d += 2 * retryGreeting
	}
	return d
}

// goesFirst reports who begins the handshake when both ends have changed their keys.
func (r *roster) goesFirst(m *member) bool {
	return slices.Compare(r.probe[:], m.peer.Probe[:]) < 0
}

// greetAnew begins the handshakes of takeovers again, where we are to: our own key has changed meanwhile. The caller holds turn.
func (r *roster) greetAnew() {
	for _, o := range r.over.all() {
		k := o.heir.peer.Tunnel
		r.rekeying.alias(o.old.peer.Tunnel, k)
		o.asked, o.greets = time.Now(), r.goesFirst(o.old)
		if !o.greets {
			r.path.Greeted(k)
		} else if r.engine != nil {
			r.engine.Handshake(k)
		}
	}
}

// follow gives peers the key that has followed the one a State names, which may be older than the change. The caller holds Tunnel.applying.
func (r *roster) follow(peers []Peer) []Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	copied := false
	for i := range peers {
		p := &peers[i]
		m := r.nodes[p.Node]
		if m == nil || m.gaveUp == nil || *m.gaveUp != p.Tunnel || m.peer.Device != p.Device {
			continue
		}
		if !copied {
			peers, copied = slices.Clone(peers), true
			p = &peers[i]
		}
		if p.Tunnel = m.peer.Tunnel; p.next() == p.Tunnel {
			p.Next = nil
		}
	}
	return peers
}
