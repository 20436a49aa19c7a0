package path

import (
	"slices"
	"time"

	"picket.internal/wgtun/key"
)

// maxDeferred bounds the pongs of one peer that wait for Woken: one for each address it may ping us from, and some more.
const maxDeferred = 8

// answerLocked sends the pong to a ping that names a tunnel key, at once unless the peer sleeps, or takes that key over: then it has the peer woken first. A peer sends its handshake as soon as it
// has our pong, and WireGuard must not miss that, because it is tried again only 5 seconds later.
func (b *Bind) answerLocked(p *peer, tunnel key.TunnelPublic, pong parcel) {
	if !p.asleep && tunnel == p.tunnel {
		b.post(b.signedLocked(p, pong))
		return
	}
	l := p.live
	if len(l.deferred) == maxDeferred {
		l.deferred = slices.Delete(l.deferred, 0, 1)
		b.drop(DropBusy, 1)
	}
	l.deferred = append(l.deferred, deferred{pong, tunnel})
	if b.config.Wake != nil {
		b.config.Wake(tunnel)
	}
}

// signedLocked says in a pong what we know of its peer's keys.
func (b *Bind) signedLocked(p *peer, pong parcel) parcel {
	pong.message.tunnel, pong.message.greets = p.tunnel, b.now() < p.known().greets
	if next := p.known().next; !next.IsZero() {
		pong.message.tunnel = next
	}
	return pong
}

// Woken says that WireGuard knows the peer: its pings are answered from now on, and those answers sent that waited for this.
func (b *Bind) Woken(t key.TunnelPublic) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	if p == nil || p.tunnel != t {
		return
	}
	p.asleep = false
	if p.live == nil {
		return
	}
	p.live.deferred = slices.DeleteFunc(p.live.deferred, func(d deferred) bool {
		if d.tunnel == t {
			b.post(b.signedLocked(p, d.pong))
		}
		return d.tunnel == t
	})
}

// Idle reports whether a peer has been neither sent to nor heard from for so long, which is to be longer than any proof of ours lasts:
// then it has none, and sends nothing before we have answered a ping of its.
func (b *Bind) Idle(t key.TunnelPublic, since time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	return p != nil && b.idleLocked(p, since)
}

func (b *Bind) idleLocked(p *peer, since time.Duration) bool {
	return b.now()-max(p.used(), p.heard) >= since && (p.live == nil || len(p.live.held) == 0)
}

// Sleep lets a peer that is Idle sleep, and reports whether it does: WireGuard need not know it until Wake is called, and Woken after that.
// No address is its own any longer, nor is it asked for. It is still known by its probes, and those that it has sent are not taken again.
func (b *Bind) Sleep(t key.TunnelPublic, since time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	if p == nil || !b.idleLocked(p, since) {
		return false
	}
	if p.live != nil && len(p.live.waiters) > 0 {
		return false
	}
	p.asleep = b.config.Wake != nil
	if p.live != nil {
		b.dozeLocked(p)
	}
	return true
}
