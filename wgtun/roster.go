package wgtun

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/device"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

const (
	// reapAfter is how long a peer must have been silent, both ways, to leave the device. No session outlives it (RejectAfterTime,
	// WireGuard whitepaper section 6.1), so the packet that wakes the peer again costs the handshake that it would have cost anyway.
	reapAfter = device.RejectAfterTime
	// reapInterval is also how long a peer is left drowsy before it is reaped: far longer than a packet takes through the device.
	reapInterval = 30 * time.Second
)

// roster is the peers of the State in force, and which of them are awake: in the device, where each costs 25 KB and two goroutines. A peer
// is woken by the first packet to it that the filter passes (outward), and by its own authenticated ping (path.Config.Wake), in both cases
// before anything of it can be lost; it is reaped when it was silent for reapAfter. What may pass is not decided here: a peer that is not
// of the State, or whose addresses another key has taken over, is never woken.
//
// Reaping has two steps, a round apart, so that no packet is lost between the filter and a peer that leaves: first the peer is made drowsy,
// and whoever sends to it must ask here once; only if nobody did is it reaped in the next round.
//
// The device forgets the time of a reaped peer's last handshake, and so takes one recorded initiation of its once more (SECURITY.md R12).
// That needs a sender at an address which the peer has proved. The answer goes by the peer's proved path, never where the recording came
// from, nobody can use the session that it begins, and the one in use goes on; a handshake of ours that was just under way is lost, and
// tried again 5 seconds later. Who can do this can withhold the peer's datagrams as well.
type roster struct {
	path     *path.Bind
	sessions *sessions
	logger   *slog.Logger
	failures *rate.Limiter // how often it is logged that a peer cannot be woken
	bell     bell
	over     *takeovers
	rekeying rekeying
	probe    key.ProbePublic // ours
	// epoch is raised before a peer may leave the device: what was known to be awake must be asked for again.
	epoch atomic.Uint64

	// turn is held while device and paths are told of one peer. Whoever holds it never waits for packets under way, since the goroutine that
	// reads the TUN waits for it.
	turn sync.Mutex

	// Written under turn and mu, so either is enough to read.
	mu     sync.Mutex
	engine engine // nil before Run has brought it up, and when it is about to close
	peers  map[key.TunnelPublic]*member
	nodes  map[acl.NodeID]*member // under the key each has now

	former map[key.TunnelPublic]former // in the device without addresses; guarded by turn
}

// member is a peer of the State in force. All of it is written under turn and mu.
type member struct {
	installed
	came  time.Time     // it was added
	awake *awake        // nil while the device does not have it
	past  *peerCounters // of its earlier lives in the device, under whatever key; nil when it had none
	// gaveUp is the key that this one followed by the peer's own word; nil when a State brought it.
	gaveUp *key.TunnelPublic
}

// awake is what is known of a peer in the device.
type awake struct {
	since  time.Time
	drowsy bool // nobody has sent to it since the last round
}

// before is past.
func (m *member) before() peerCounters {
	if m.past == nil {
		return peerCounters{}
	}
	return *m.past
}

// counted adds to past.
func (m *member) counted(c peerCounters) {
	sum := m.before().plus(c)
	m.past = &sum
}

func newRoster(logger *slog.Logger) *roster {
	r := &roster{
		logger: logger, failures: rate.NewLimiter(rate.Every(10*time.Second), 3), bell: newBell(), over: newTakeovers(),
		former: make(map[key.TunnelPublic]former),
		peers:  make(map[key.TunnelPublic]*member), nodes: make(map[acl.NodeID]*member),
	}
	r.sessions = newSessions(r.came)
	return r
}

// came is when a peer was added; the zero Time when there is none.
func (r *roster) came(k key.TunnelPublic) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.peers[k]; m != nil {
		return m.came
	}
	return time.Time{}
}

// set runs f, which changes what is guarded by turn and mu. The caller holds turn.
func (r *roster) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// open says that the device is up, close that it is about to close: it would wait for a wake that waits for it.
func (r *roster) open(e engine) {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.set(func() { r.engine = e })
}

func (r *roster) close() { r.open(nil) }

// configure hands a text to the device, when there is one. The caller holds turn.
func (r *roster) configure(text string) error {
	if r.engine == nil {
		return nil
	}
	return r.engine.IpcSet(text)
}

// enrol adds a peer, asleep, in place of any other of its node; forget takes it out. The caller holds turn.
func (r *roster) enrol(m *member) {
	m.came = time.Now()
	r.sessions.added(m.peer.Tunnel)
	r.set(func() { r.peers[m.peer.Tunnel], r.nodes[m.peer.Node] = m, m })
}

func (r *roster) forget(m *member) {
	r.sessions.removed(m.peer.Tunnel)
	r.set(func() {
		delete(r.peers, m.peer.Tunnel)
		switch heir := r.nodes[m.peer.Node]; heir {
		case nil:
		case m:
			delete(r.nodes, m.peer.Node)
		default:
			heir.counted(m.before())
		}
	})
}

// plan is the way from what is there to the peers of a State. The caller holds Tunnel.applying.
func (r *roster) plan(want []Peer) plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	return makePlan(r.peers, want)
}

// reseat has the peers refer to the State now in force, so that nothing keeps older ones. The caller holds Tunnel.applying.
func (r *roster) reseat(peers []Peer) {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.set(func() {
		for i := range peers {
			if m := r.nodes[peers[i].Node]; m != nil && m.peer.Tunnel == peers[i].Tunnel {
				m.peer = &peers[i]
			}
		}
	})
}

func (r *roster) of(node acl.NodeID) (installed, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.nodes[node]
	if m == nil {
		return installed{}, false
	}
	return m.installed, true
}

// named is whose key that is now.
func (r *roster) named(k key.TunnelPublic) (acl.NodeID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.peers[k]
	if m == nil || r.nodes[m.peer.Node] != m {
		return "", false
	}
	return m.peer.Node, true
}

// limit is how long datagrams to a node may be: see path.Bind.Limit.
func (r *roster) limit(node acl.NodeID) *atomic.Int32 {
	in, ok := r.of(node)
	if !ok {
		return nil
	}
	return r.path.Limit(in.peer.Tunnel)
}

// wakeNode wakes a node's peer and reports whether the device now has it. It waits while the device removes another one.
func (r *roster) wakeNode(node acl.NodeID) bool {
	r.turn.Lock()
	defer r.turn.Unlock()
	m := r.nodes[node]
	return m != nil && r.wake(m)
}

// rang is wakeKey for the bell: a peer's next key is taken over.
func (r *roster) rang(k key.TunnelPublic) {
	if r.wakeKey(k) {
		return
	}
	r.turn.Lock()
	defer r.turn.Unlock()
	r.takeOver(k)
}

// wakeKey is wakeNode by key. A key that is being handed over stays as it is: its addresses are its successor's.
func (r *roster) wakeKey(k key.TunnelPublic) bool {
	r.turn.Lock()
	defer r.turn.Unlock()
	m := r.peers[k]
	return m != nil && r.nodes[m.peer.Node] == m && r.wake(m)
}

// greet begins a handshake with a peer that has betrayed a session which we do not have.
func (r *roster) greet(k key.TunnelPublic) {
	if !r.wakeKey(k) {
		return
	}
	r.mu.Lock()
	dev := r.engine
	r.mu.Unlock()
	if dev != nil {
		dev.Handshake(k)
	}
}

// wake tells the device first and then the paths: see path.Bind.Woken. The caller holds turn.
func (r *roster) wake(m *member) bool {
	switch {
	case m.broken || r.engine == nil:
		return false
	case m.awake != nil:
		r.set(func() { m.awake.drowsy = false })
		return true
	}
	if err := r.admit(m); err != nil {
		r.refused(m, err)
		return false
	}
	return true
}

// admit puts a peer into the device, without session.
func (r *roster) admit(m *member) error {
	if err := r.configure(configAdd(m.installed)); err != nil {
		return err
	}
	r.set(func() { m.awake = &awake{since: time.Now()} })
	r.path.Woken(m.peer.Tunnel)
	return nil
}

// refused takes a peer that the device did not take whole out of it again. The next packet tries anew.
func (r *roster) refused(m *member, err error) {
	if r.failures.Allow() {
		r.logger.Warn("a peer cannot be woken: nothing reaches it", "node", m.peer.Node, "reason", err)
	}
	if r.configure(configRemove(m.installed)) != nil {
		r.abandon(m)
	}
}

// abandon denies a peer of which the device may hold a part, until Apply has put it right.
func (r *roster) abandon(m *member) {
	r.path.RemovePeer(m.peer.Tunnel)
	r.set(func() { m.broken, m.awake = true, &awake{since: time.Now()} })
}

// leave takes a peer out of the device, if it is there; counted are the device's counters. The caller holds turn.
func (r *roster) leave(m *member, counted map[key.TunnelPublic]peerCounters) error {
	if m.awake == nil {
		return nil
	}
	r.epoch.Add(1)
	if err := r.configure(configRemove(m.installed)); err != nil {
		return err
	}
	r.set(func() {
		m.awake = nil
		if c, ok := counted[m.peer.Tunnel]; ok {
			m.counted(c)
		}
	})
	return nil
}

// counters are those of the peers in the device; none when it cannot tell. It waits while the device removes a peer.
func (r *roster) counters() map[key.TunnelPublic]peerCounters {
	r.mu.Lock()
	dev := r.engine
	r.mu.Unlock()
	if dev == nil {
		return nil
	}
	text, err := dev.IpcGet()
	if err != nil {
		return nil
	}
	return parseDeviceStats(text)
}

// tally copies the peers that are current, with all that was ever counted of each in past.
func (r *roster) tally() []member {
	r.turn.Lock() // or a peer might be counted twice, in the device and after it
	defer r.turn.Unlock()
	counted := r.counters()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]member, 0, len(r.nodes))
	for _, m := range r.nodes {
		c := *m
		if c.awake != nil {
			c.counted(counted[c.peer.Tunnel])
		}
		out = append(out, c)
	}
	return out
}

// run answers the bell, and reaps, until ctx ends.
func (r *roster) run(ctx context.Context) {
	ticker := time.NewTicker(reapInterval)
	defer ticker.Stop()
	later := time.NewTimer(reapInterval) // of takeovers
	defer later.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.bell.rung:
			for _, k := range r.bell.take() {
				r.rang(k)
			}
		case <-r.over.rung:
			r.retime(later)
		case <-later.C:
			r.retime(later)
		case <-ticker.C:
			r.reap()
		}
	}
}

// retime tends takeovers, and sets the timer for the next time.
func (r *roster) retime(later *time.Timer) {
	if next := r.tendTakeovers(); next > 0 {
		later.Reset(next)
	} else {
		later.Stop()
	}
}

// reap is one round.
func (r *roster) reap() {
	r.mu.Lock()
	var old []*member
	for _, m := range r.peers {
		if m.mayBeReaped() {
			old = append(old, m)
		}
	}
	r.mu.Unlock()
	if len(old) == 0 {
		return
	}
	// What is reaped below was counted long ago: it has been silent since.
	counted := r.counters()
	for _, m := range old {
		r.reapOne(m, counted)
	}
}

// mayBeReaped is false for a peer that is in the device for a shorter time than it must be silent.
func (m *member) mayBeReaped() bool {
	return m.awake != nil && !m.broken && time.Since(m.awake.since) >= reapAfter
}

// reapOne takes a peer's turn alone, so that an Apply never waits for more than one.
func (r *roster) reapOne(m *member, counted map[key.TunnelPublic]peerCounters) {
	r.turn.Lock()
	defer r.turn.Unlock()
	k := m.peer.Tunnel
	if r.peers[k] != m || !m.mayBeReaped() {
		return
	}
	if !m.awake.drowsy {
		if r.path.Idle(k, reapAfter) {
			r.set(func() { m.awake.drowsy = true })
			r.epoch.Add(1)
		}
		return
	}
	if !r.path.Sleep(k, reapAfter) {
		r.set(func() { m.awake.drowsy = false })
		return
	}
	if err := r.leave(m, counted); err != nil {
		r.logger.Error("a silent peer cannot be taken out of the device: it is denied until the next map", "node", m.peer.Node, "reason", err)
		r.abandon(m)
	}
}

// bell is where the paths ask for peers to be woken, each of them once however often it is asked for.
type bell struct {
	rung  chan struct{} // room for one
	mu    sync.Mutex
	asked map[key.TunnelPublic]struct{}
}

func newBell() bell {
	return bell{rung: make(chan struct{}, 1), asked: make(map[key.TunnelPublic]struct{})}
}

// ring never blocks.
func (b *bell) ring(k key.TunnelPublic) {
	b.mu.Lock()
	b.asked[k] = struct{}{}
	b.mu.Unlock()
	select {
	case b.rung <- struct{}{}:
	default:
	}
}

func (b *bell) take() []key.TunnelPublic {
	b.mu.Lock()
	defer b.mu.Unlock()
	asked := make([]key.TunnelPublic, 0, len(b.asked))
	for k := range b.asked {
		asked = append(asked, k)
	}
	clear(b.asked)
	return asked
}
