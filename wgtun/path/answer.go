package path

import (
	"net/netip"
	"slices"
)

// takeProbe judges a datagram that looks like a probe, from cheap checks to dear ones; back is the way to where it came from. It runs on a receive
// function's goroutine and neither sends nor blocks.
func (b *Bind) takeProbe(datagram []byte, from netip.AddrPort, back func() way) {
	if len(datagram) < probeSize || datagram[3] != magic[3] {
		b.drop(DropMalformed, 1)
		return
	}
	if !isAlias(from.Addr()) && !b.mayProbe(from) {
		b.drop(DropForbidden, 1)
		return
	}
	p := b.table.byHint(hintIn(datagram[:probeSize], b.self.public))
	if p == nil {
		b.drop(DropUnknown, 1)
		return
	}
	if !b.mayOpen(p, from) {
		b.drop(DropLimited, 1)
		return
	}
	opener := b.boxOf(p)
	if opener == nil {
		b.drop(DropUnauthentic, 1)
		return
	}
	m, ok := opener.open(datagram[:probeSize])
	if !ok {
		b.drop(DropUnauthentic, 1)
		return
	}
	if len(datagram) != m.length() {
		b.drop(DropMalformed, 1)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.table.peer(p.tunnel) != p || p.box != opener { // removed, or under a new key, while we decrypted
		b.drop(DropUnauthentic, 1)
		return
	}
	if m.kind == ping {
		b.pingedLocked(p, m, back())
	} else {
		b.pongedLocked(p, m, from)
	}
}

// mayOpen reports whether one more probe that names p and comes from an address may be decrypted.
func (b *Bind) mayOpen(p *peer, from netip.AddrPort) bool {
	if opened := p.opened.Load(); opened != nil && b.table.claims(from, p, b.now()) {
		return opened.Allow()
	}
	return b.limiter.allow(from.Addr())
}

// boxOf is the box for a peer, made when first needed; nil when its key allows none. Making one takes about 100 us, outside of the lock.
func (b *Bind) boxOf(p *peer) *box {
	b.mu.Lock()
	made, probe := p.box, p.probe
	b.mu.Unlock()
	if made != nil {
		return made
	}
	made, err := newBox(b.self, probe)
	if err != nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.probe != probe {
		return nil
	}
	if p.box == nil {
		p.box = made
	}
	return p.box
}

// pingedLocked answers a ping, and asks back where it came from unless that is proved. back is the way to exactly the source,
// from exactly the local address the ping came to, because the peer takes no answer from another.
func (b *Bind) pingedLocked(p *peer, m message, back way) {
	if !p.window.take(m.sequence) {
		b.drop(DropReplayed, 1)
		return
	}
	if m.tunnel != p.tunnel && (m.tunnel != p.known().next || m.tunnel.IsZero()) {
		b.drop(DropKey, 1)
		return
	}
	now, from := b.now(), back.addr()
	p.heard = now
	l := b.rouseLocked(p)
	if !l.answers.Allow() { // or an insider has us send pongs wherever he says he is, and others wait for theirs
		b.drop(DropLimited, 1)
		return
	}
	b.bindLocked(p, from, false, now)
	b.answerLocked(p, m.tunnel, parcel{peer: p, way: back, message: message{kind: pong, transaction: m.transaction, observed: from, size: m.size}})
	c := l.find(from)
	if c == nil {
		if w := b.lasting(back); w != nil {
			c = l.reflexive(w, now)
		}
	}
	if c != nil && !c.proved(now) && now-c.asked >= tick {
		c.tries, c.due = 0, now
	}
	switch {
	case l.current == nil:
		if now-l.round >= roundAtLeast {
			b.roundLocked(p)
		}
	case c != l.current && l.current.tries == 0:
		l.current.due = now // the peer may have moved: see which of the two still answers
	}
	b.hastenLocked(p)
}

// pongedLocked takes an answer: the address it came from is proved, if the ping went there.
func (b *Bind) pongedLocked(p *peer, m message, from netip.AddrPort) {
	now := b.now()
	l := p.live
	if l == nil {
		b.drop(DropUnasked, 1)
		return
	}
	c := l.find(from)
	if c == nil {
		b.drop(DropUnasked, 1)
		return
	}
	if b.sizedLocked(p, c, m) {
		p.heard, p.noted().ours = now, m.tunnel
		return
	}
	sent, ok := c.land(m.transaction, now)
	if !ok {
		b.drop(DropUnasked, 1)
		return
	}
	p.heard, p.noted().ours = now, m.tunnel
	c.answered, c.tries, c.due = now, 0, 0
	c.measured(now - sent)
	b.bindLocked(p, from, true, now)
	if b.mayProbe(m.observed) {
		family := 0
		if m.observed.Addr().Is6() {
			family = 1
		}
		l.observed[family] = observation{m.observed, now}
	}
	b.chooseLocked(p, c, now)
	b.believedLocked(p, m)
	b.flushLocked(p, p.way.Load())
	l.waiters = slices.DeleteFunc(l.waiters, func(w *waiter) bool {
		if sent < w.since {
			return false
		}
		w.answer <- answer{now - sent, from}
		return true
	})
}

// bindLocked binds an address to a peer for incoming datagrams, by a ping that came from there or, proved, by an answer. The
// addresses of one peer are bounded; those longest unrenewed give way, and among those without proof the oldest of 4.
func (b *Bind) bindLocked(p *peer, a netip.AddrPort, proved bool, now instant) {
	l, until := p.live, now+bindingLife
	proved, ok := b.table.bind(a, p, &Endpoint{bind: b, tunnel: p.tunnel, from: a}, proved, until)
	if !ok {
		return
	}
	l.bound = slices.DeleteFunc(l.bound, func(x bound) bool { return x.addr == a })
	l.bound = append(l.bound, bound{a, proved, until})
	unproved := 0
	for _, x := range l.bound {
		if !x.proved {
			unproved++
		}
	}
	if unproved > maxProvisional {
		b.unbindLocked(p, slices.IndexFunc(l.bound, func(x bound) bool { return !x.proved }))
	}
	if len(l.bound) > maxBound {
		b.unbindLocked(p, 0)
	}
}

// unbindLocked ends the claim at an index of live.bound.
func (b *Bind) unbindLocked(p *peer, i int) {
	b.table.unbind(p.live.bound[i].addr, p)
	p.live.bound = slices.Delete(p.live.bound, i, i+1)
}
