package wgtun

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

const (
	// inUse is how lately a peer must have been sent to, or heard, for a change of our key to wait for it.
	inUse = 2 * time.Minute
	// holdBack is how long packets for a peer stay with the host while there is no session under our new key: the device stages 128 batches and
	// drops the oldest.
	holdBack = 250 * time.Millisecond
	// remindAfter is when we begin a handshake with a peer in use that has not begun one, and again; giveUpAfter is when no more.
	remindAfter = 1500 * time.Millisecond
	giveUpAfter = 10 * time.Second
)

// Unready lists the peers in use which have not said that they know a next tunnel key of ours: until they do, a Rekey would cut them off.
func (t *Tunnel) Unready(next key.TunnelPublic) (nodes []acl.NodeID) {
	for _, p := range t.roster.used() {
		if !t.path.Knows(p.peer.Tunnel, next) {
			nodes = append(nodes, p.peer.Node)
		}
	}
	return nodes
}

// used lists the peers in the device that were sent to or heard lately.
func (r *roster) used() (list []installed) {
	r.mu.Lock()
	var awake []installed
	for _, m := range r.nodes {
		if m.awake != nil && !m.broken {
			awake = append(awake, m.installed)
		}
	}
	r.mu.Unlock()
	for _, in := range awake {
		if !r.path.Idle(in.peer.Tunnel, inUse) {
			list = append(list, in)
		}
	}
	return list
}

// Rekey changes our own tunnel key. What peers have sent under the former one is still taken; each peer in use is told at once, by a ping, and
// begins a handshake; meanwhile packets for it wait with the host, for at most holdBack. The private key of before is
// forgotten by the device, but for the sessions that it has. It fails, and leaves the key as it was, when a peer has
// that key, when the device refuses it, and with ErrClosed.
func (t *Tunnel) Rekey(k key.TunnelPrivate) (*Rekeying, error) {
	t.applying.Lock()
	defer t.applying.Unlock()
	public := k.Public()
	switch {
	case t.ended():
		return nil, ErrClosed
	case k.IsZero():
		return nil, errors.New("rekey: no key")
	case t.roster.knows(public):
		return nil, errors.New("rekey: a peer has this key")
	}
	r := t.roster
	begun := r.rekeying.begin(r.used())
	r.epoch.Add(1) // each next packet asks whether its peer has a session
	t.out.drain(drainTime)
	r.turn.Lock()
	defer r.turn.Unlock()
	t.path.Doubt()
	if err := r.changeKey(k); err != nil {
		t.path.Undoubt()
		begun.giveUp()
		return nil, fmt.Errorf("rekey: %w", err)
	}
	t.config.Tunnel, t.own.tunnel = k, public
	t.path.Rekey(public)
	r.greetAnew()
	r.over.ring()
	return begun, nil
}

// changeKey has the device change its private key. wireguard-go locks itself up for good if it takes the answer to a handshake meanwhile
// (ConsumeMessageResponse waits for the identity with a peer locked, SetPrivateKey for the peer with the identity locked). So none reaches
// it, and those that it has already find no handshake any more.
func (r *roster) changeKey(k key.TunnelPrivate) error {
	r.rekeying.deaf.Store(true)
	defer r.rekeying.deaf.Store(false)
	if r.engine == nil {
		return nil
	}
	for _, peer := range r.inDevice() {
		r.engine.Expire(peer)
	}
	return r.engine.IpcSet(configPrivate(k))
}

// inDevice lists the keys of all peers that the device may have.
func (r *roster) inDevice() (keys []key.TunnelPublic) {
	for k, m := range r.peers {
		if m.awake != nil {
			keys = append(keys, k)
		}
	}
	for k := range r.former {
		keys = append(keys, k)
	}
	for _, o := range r.over.all() {
		keys = append(keys, o.heir.peer.Tunnel)
	}
	return keys
}

func configPrivate(k key.TunnelPrivate) string {
	b := k.Bytes()
	return fmt.Sprintf("private_key=%s\n", hex.EncodeToString(b[:]))
}

// knows reports whether a key is a peer's, or one's next.
func (r *roster) knows(k key.TunnelPublic) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, m := range r.peers {
		if other == k || m.peer.next() == k {
			return true
		}
	}
	return false
}

// rekeying is the newest Rekeying; it looks on at what device and peers say to each other.
type rekeying struct {
	newest atomic.Pointer[Rekeying]
	deaf   atomic.Bool // no answer to a handshake may reach the device
}

// Rekeying is a change of our own key, until the peers that were in use have sessions under it.
type Rekeying struct {
	began time.Time
	until time.Time // no packet waits any longer
	done  chan struct{}
	peers int

	mu      sync.Mutex
	renewed map[key.TunnelPublic]*renewal // a peer that changes its key as well is there under both
	left    int                           // have neither a session nor been given up
	lost    int                           // were given up
}

// renewal is one peer's next session.
type renewal struct {
	done chan struct{} // closed when it is there
	over bool
	// A session that the peer begins is there when it has used it: what is sent to index. One that we begin is, when we have used it.
	answered bool
	index    uint32
	met      bool
	moving   bool // its addresses are still with its former key
	there    bool // the session is

	reminded time.Time
}

func (r *rekeying) begin(peers []installed) *Rekeying {
	k := &Rekeying{
		began: time.Now(), until: time.Now().Add(holdBack), done: make(chan struct{}), peers: len(peers), left: len(peers),
		renewed: make(map[key.TunnelPublic]*renewal, len(peers)),
	}
	for _, p := range peers {
		k.renewed[p.peer.Tunnel] = &renewal{done: make(chan struct{})}
	}
	if k.left == 0 {
		close(k.done)
	}
	if old := r.newest.Swap(k); old != nil {
		old.giveUp()
	}
	return k
}

// alias has a peer that changes its key found under the next one.
func (r *rekeying) alias(former, next key.TunnelPublic) {
	k := r.newest.Load()
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := k.renewed[former]; n != nil {
		n.moving = !n.over
		k.renewed[next] = n
	}
}

// moved says that such a peer has its addresses under the next key.
func (r *rekeying) moved(peer key.TunnelPublic) {
	k := r.newest.Load()
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.renewed[peer]
	if n == nil || !n.moving {
		return
	}
	if n.moving = false; n.there && !n.over {
		k.endLocked(n)
	}
}

// unsettled reports whether a peer has no session yet under our newest key.
func (r *rekeying) unsettled(peer key.TunnelPublic) bool {
	k := r.pending()
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.renewed[peer]
	return n != nil && !n.over
}

// waitingFor lists the peers without a session that are to be reminded now.
func (k *Rekeying) waitingFor() (peers []key.TunnelPublic) {
	if time.Since(k.began) > giveUpAfter {
		k.giveUp()
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for peer, n := range k.renewed {
		if n.reminded.IsZero() {
			n.reminded = k.began
		}
		if !n.over && time.Since(n.reminded) >= remindAfter {
			peers = append(peers, peer)
		}
	}
	for _, peer := range peers {
		k.renewed[peer].reminded = time.Now()
	}
	return peers
}

// await blocks while packets for a peer are to wait.
func (r *rekeying) await(peer key.TunnelPublic) {
	k := r.newest.Load()
	if k == nil {
		return
	}
	left := time.Until(k.until)
	k.mu.Lock()
	n := k.renewed[peer]
	k.mu.Unlock()
	if n == nil || left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-n.done:
	case <-timer.C:
	}
}

// pending is the Rekeying under way; nil when none is.
func (r *rekeying) pending() *Rekeying {
	k := r.newest.Load()
	if k == nil {
		return nil
	}
	select {
	case <-k.done:
		return nil
	default:
		return k
	}
}

// Messages that tell of sessions (WireGuard whitepaper section 5.4): type in byte 0, sender or receiver index in bytes 4 to 7.
const (
	messageResponse  = 2
	messageTransport = 4
)

// sent looks at what the device sends to a peer, heard at what it is given of one's.
func (k *Rekeying) sent(peer key.TunnelPublic, message []byte) {
	k.look(peer, message, func(n *renewal, index uint32) bool {
		if message[0] == messageResponse {
			n.answered, n.index = true, index
		}
		return message[0] == messageTransport && n.met
	})
}

func (k *Rekeying) heard(e *path.Endpoint, message []byte) {
	k.look(e.Peer(), message, func(n *renewal, index uint32) bool {
		if message[0] == messageResponse {
			n.met = true
		}
		return message[0] == messageTransport && n.answered && n.index == index
	})
}

func (k *Rekeying) look(peer key.TunnelPublic, message []byte, there func(n *renewal, index uint32) bool) {
	if len(message) < 8 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.renewed[peer]
	if n == nil || n.over || !there(n, binary.LittleEndian.Uint32(message[4:])) {
		return
	}
	if n.there = true; !n.moving {
		k.endLocked(n)
	}
}

func (k *Rekeying) endLocked(n *renewal) {
	n.over = true
	close(n.done)
	if k.left--; k.left == 0 {
		close(k.done)
	}
}

// giveUp lets whoever waits go on; Wait's count stays.
func (k *Rekeying) giveUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range k.renewed {
		if !n.over {
			k.lost++
			k.endLocked(n)
		}
	}
}

// Peers is how many were in use when the key changed.
func (k *Rekeying) Peers() int { return k.peers }

// Wait waits until each peer that was in use has a session under the new key, or ctx ends; it returns how many have none.
func (k *Rekeying) Wait(ctx context.Context) (without int) {
	if k.done == nil { // the zero Rekeying: nobody was in use
		return 0
	}
	select {
	case <-k.done:
	case <-ctx.Done():
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.left + k.lost
}
