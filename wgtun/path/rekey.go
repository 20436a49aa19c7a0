package path

import (
	"slices"
	"time"

	"picket.internal/wgtun/key"
)

// greetTime is how long a peer that begins the handshake under our new key is let alone with it: two that cross make each other void.
const greetTime = time.Second

// keys is what is known of a peer's tunnel keys beside the present one, and what it knows of ours. Guarded by Bind.mu.
type keys struct {
	next   key.TunnelPublic // certified by its device to follow; zero for none
	former key.TunnelPublic // under which it is found as well; zero for none
	ours   key.TunnelPublic // the newest of ours that it knows, by its newest pong
	greets instant          // until then we begin the handshake under the key that we have just taken over; 0 when not
}

// known is what of keys there is; noted is where to write it: peers that nobody uses have none.
func (p *peer) known() keys {
	if p.keys == nil {
		return keys{}
	}
	return *p.keys
}

func (p *peer) noted() *keys {
	if p.keys == nil {
		p.keys = new(keys)
	}
	return p.keys
}

// Doubt is called before our own tunnel key changes in WireGuard: from here no handshake of ours goes to a peer before it has answered
// a ping that names the new key. Undoubt takes that back, when the key did not change.
func (b *Bind) Doubt() { b.doubtAll(true) }

// Undoubt: see Doubt.
func (b *Bind) Undoubt() { b.doubtAll(false) }

func (b *Bind) doubtAll(stale bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.doubtAllLocked(stale)
}

func (b *Bind) doubtAllLocked(stale bool) {
	for _, p := range b.table.all() {
		p.stale.Store(stale)
		p.greeted.Store(0)
		if p.live == nil {
			continue
		}
		for _, c := range p.live.candidates { // an answer on its way is to a ping that named the former key
			c.flight, c.tries = [flightSize]flight{}, 0
		}
	}
}

// Rekey says that WireGuard has another tunnel key of ours, after Doubt: all peers with a path, or in use, are told by a ping at once. Their paths stay.
func (b *Bind) Rekey(t key.TunnelPublic) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tunnel = t
	b.doubtAllLocked(true) // of pings since Doubt, which named the former key
	now := b.now()
	for p := range b.alive {
		if c := p.live.current; c != nil {
			c.due = now
		}
		if b.wantedLocked(p, now) {
			b.roundLocked(p)
		}
		b.hastenLocked(p)
	}
}

// Knows reports whether a peer has said that it knows a tunnel key of ours.
func (b *Bind) Knows(t, ours key.TunnelPublic) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	return p != nil && p.known().ours == ours
}

// Stale reports whether a peer has yet to answer since our tunnel key changed.
func (b *Bind) Stale(t key.TunnelPublic) bool {
	p := b.table.peer(t)
	return p != nil && p.stale.Load()
}

// Succeed gives a peer its next tunnel key, in place of the present one: all that is known of it stays, and what WireGuard sends to the
// former one goes to it, until RemovePeer is called with that. greets says that we begin the handshake, for as long as the peer may keep
// its own waiting, or until Greeted. It reports whether there was such a peer.
func (b *Bind) Succeed(t, next key.TunnelPublic, greets bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	if p == nil || p.tunnel != t || next == b.tunnel {
		return false
	}
	if f := p.known().former; !f.IsZero() {
		b.table.unalias(p, f)
	}
	if !b.table.rename(p, next) {
		return false
	}
	if p.live != nil {
		b.dropInitiationsLocked(p)
	}
	k := p.noted()
	k.former, k.next, k.greets = t, key.TunnelPublic{}, 0
	if greets {
		k.greets = b.now() + heldLife
		p.greeted.Store(0)
	}
	return true
}

// Greeted says that the handshake with a peer's new key is over, or given up.
func (b *Bind) Greeted(t key.TunnelPublic) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.table.peer(t); p != nil && p.tunnel == t {
		p.noted().greets = 0
	}
}

// current is the peer with a present key; of a former one it ends the use, and returns nil.
func (b *Bind) current(t key.TunnelPublic) *peer {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	if p == nil {
		return nil
	}
	if p.tunnel != t {
		b.table.unalias(p, t)
		p.noted().former = key.TunnelPublic{}
		return nil
	}
	b.table.unalias(p, p.known().former)
	return p
}

// believedLocked takes a pong to a ping that named our present key: the peer knows it. The handshakes that waited for this go on, unless the
// peer begins one itself. When both ends have changed their keys at once both do, and the one with the smaller probe key is to go first.
func (b *Bind) believedLocked(p *peer, pong message) {
	if !p.stale.Load() {
		return
	}
	begins := !pong.greets || b.now() < p.known().greets && slices.Compare(b.self.public[:], p.probe[:]) < 0
	if !begins {
		b.dropInitiationsLocked(p)
		p.greeted.Store(int64(b.now() + greetTime))
	}
	p.stale.Store(false) // last: see keepInitiation
}

// dropInitiationsLocked drops the beginnings of handshakes that wait.
func (b *Bind) dropInitiationsLocked(p *peer) {
	p.live.held = slices.DeleteFunc(p.live.held, func(h held) bool {
		if isInitiation(h.datagram) {
			b.heldSize -= len(h.datagram)
			return true
		}
		return false
	})
}

// isInitiation tells the first message of a handshake (WireGuard whitepaper section 5.4.2).
func isInitiation(datagram []byte) bool { return len(datagram) > 0 && datagram[0] == 1 }

// keepInitiation reports whether the first message of a handshake is not to be sent now: the peer is to be asked first, or begins one itself.
func (b *Bind) keepInitiation(p *peer, t key.TunnelPublic, datagram []byte) bool {
	if p.stale.Load() && b.holdInitiation(p, t, datagram) {
		return true
	}
	return b.now() < load(&p.greeted)
}

// holdInitiation keeps the first message of a handshake for a peer that may not know our key yet, and asks the peer. One to
// a key that the peer has given up is dropped. It reports whether the datagram is dealt with.
func (b *Bind) holdInitiation(p *peer, t key.TunnelPublic, datagram []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !p.stale.Load() || b.table.peer(p.tunnel) != p {
		return false
	}
	if p.tunnel != t {
		return true
	}
	l, now := b.rouseLocked(p), b.now()
	b.dropInitiationsLocked(p) // a newer one makes it void
	b.holdOneLocked(l, datagram, now)
	switch c := l.current; {
	case c == nil && !l.asking():
		b.roundLocked(p)
	case c != nil && c.tries == 0:
		c.due = now
	}
	b.hastenLocked(p)
	return true
}
