package path

import (
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// rouseLocked gives a peer live state, if it has none, and Run something to tend.
func (b *Bind) rouseLocked(p *peer) *live {
	if p.live != nil {
		return p.live
	}
	p.live = &live{budget: rate.NewLimiter(pingPerPeer, pingPeerBurst), answers: rate.NewLimiter(pongPerPeer, pongPeerBurst)}
	p.opened.Store(rate.NewLimiter(openClaimed, openClaimed))
	b.retellLocked(p)
	b.alive[p] = struct{}{}
	b.hastenLocked(p)
	return p.live
}

// dozeLocked takes a peer's live state away: what waits is dropped, who waits is told, no address is its own any longer.
func (b *Bind) dozeLocked(p *peer) {
	l := p.live
	p.way.Store(nil)
	b.dropHeldLocked(l, len(l.held))
	b.drop(DropBusy, len(l.deferred))
	for _, w := range l.waiters {
		close(w.answer)
	}
	for _, x := range l.bound {
		b.table.unbind(x.addr, p)
	}
	p.live = nil
	p.opened.Store(nil)
	delete(b.alive, p)
}

// hastenLocked has Run look at a peer now rather than at the next tick.
func (b *Bind) hastenLocked(p *peer) {
	if !p.live.urgent {
		p.live.urgent = true
		b.urgent = append(b.urgent, p)
	}
	select {
	case b.wake <- struct{}{}:
	default: // one signal is enough for all
	}
}

// suspect has the way in use asked at once, because sending on it failed.
func (b *Bind) suspect(p *peer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, now := p.live, b.now()
	if l == nil || l.current == nil || now-l.current.asked < tick {
		return
	}
	l.current.due = now
	b.hastenLocked(p)
}

// roundLocked plans a ping now for every candidate but the way in use.
func (b *Bind) roundLocked(p *peer) {
	now := b.now()
	p.live.round = now
	for _, c := range p.live.candidates {
		if c != p.live.current {
			c.tries, c.due = 0, now
		}
	}
}

// askRelays plans a ping now through each relay that is not in use.
func (l *live) askRelays(now instant) {
	for _, c := range l.candidates {
		if c != l.current && !c.direct() {
			c.tries, c.due = 0, now
		}
	}
}

// askAllLocked has every candidate pinged now, the way in use too.
func (b *Bind) askAllLocked(p *peer) {
	if p.live.current != nil {
		p.live.current.due = b.now()
	}
	b.roundLocked(p)
	b.hastenLocked(p)
}

// wantedLocked reports whether a path to p is worth keeping: there was traffic lately, or somebody waits for an answer.
func (b *Bind) wantedLocked(p *peer, now instant) bool {
	return now-p.used() < usedLife || p.live != nil && len(p.live.waiters) > 0
}

// seekingLocked reports whether something waits for a path, or lately would have.
func (b *Bind) seekingLocked(p *peer, now instant) bool {
	return now-load(&p.sent) < wantedLife || len(p.live.waiters) > 0
}

// tendLocked does for one live peer what is due, and returns the pings to send. A peer with nothing left to tend goes back to sleep.
func (b *Bind) tendLocked(p *peer, now instant) (pings []parcel) {
	l := p.live
	l.urgent = false
	b.expireLocked(p, now)
	b.judgeLocked(p, now)
	wanted := b.wantedLocked(p, now)
	b.seekLocked(p, wanted, now)
	if wanted && now-l.round >= l.roundPause() {
		l.pause *= 2
		b.roundLocked(p)
	}
	for _, c := range l.candidates {
		if !b.dueLocked(p, c, wanted, now) {
			continue
		}
		if ping, ok := b.askLocked(p, c, now); ok {
			pings = append(pings, ping)
		}
	}
	if wanted {
		if ping, ok := b.sizeLocked(p, now); ok {
			pings = append(pings, ping)
		}
	}
	if !wanted && l.current == nil && len(l.bound) == 0 && len(l.held) == 0 && !l.asking() {
		b.dozeLocked(p)
	}
	return pings
}

// roundPause is how long after all candidates were asked they are asked again. It doubles while a relay is in use.
func (l *live) roundPause() time.Duration {
	if l.current == nil || l.current.direct() {
		return roundEvery
	}
	l.pause = max(l.pause, roundRelayed)
	return min(l.pause, roundEvery)
}

// expireLocked drops what is over: datagrams that waited too long, claims, and addresses of pings that never answered.
func (b *Bind) expireLocked(p *peer, now instant) {
	l := p.live
	stale := 0
	for stale < len(l.held) && now-l.held[stale].at >= heldLife {
		stale++
	}
	b.dropHeldLocked(l, stale)
	for len(l.bound) > 0 && now >= l.bound[0].until {
		b.unbindLocked(p, 0)
	}
	l.candidates = slices.DeleteFunc(l.candidates, func(c *candidate) bool {
		return !c.told && c != l.current && c.due == 0 && c.tries > triesAfresh && now-c.answered >= bindingLife
	})
}

// judgeLocked leaves the way in use when it no longer answers: for one that has answered since, else for none.
func (b *Bind) judgeLocked(p *peer, now instant) {
	l, c := p.live, p.live.current
	if c == nil {
		return
	}
	if !c.proved(now) {
		b.loseLocked(p, now)
		return
	}
	if c.tries < triesToDoubt || now-c.asked < c.retryAfter() {
		return
	}
	if now-b.table.heard(c.addr()) < 2*c.retryAfter() && c.tries < triesAtMost {
		return // datagrams still come: it is our probes that are lost
	}
	if other := l.rescuer(c); other != nil {
		c.answered, c.left = 0, now
		b.takeLocked(p, other, now)
		return
	}
	if c.tries >= triesToAbandon {
		b.loseLocked(p, now)
	} else if now-l.round >= c.retryAfter() {
		b.roundLocked(p)
	}
}

// rescuer is the best candidate that has answered since c first failed to; nil when there is none.
func (l *live) rescuer(c *candidate) (best *candidate) {
	for _, o := range l.candidates {
		if o != c && o.answered >= c.missed && (best == nil || o.before(best)) {
			best = o
		}
	}
	return best
}

// chooseLocked considers a candidate that has just answered.
func (b *Bind) chooseLocked(p *peer, c *candidate, now instant) {
	l := p.live
	switch {
	case l.current == nil:
		b.takeLocked(p, c, now)
	case c == l.current:
	case c.direct() && !l.current.direct():
		if c.left == 0 || now-c.left >= returnAfter {
			b.takeLocked(p, c, now)
		}
	case l.current.tries > 0:
		b.judgeLocked(p, now)
	case c.direct() != l.current.direct(): // no relay is better than a direct way that answers
	case now-l.since >= dwell && c.latency < l.current.latency*3/4 && l.current.latency-c.latency > 2*time.Millisecond:
		b.takeLocked(p, c, now)
	}
}

func (b *Bind) takeLocked(p *peer, c *candidate, now instant) {
	l := p.live
	l.current, l.since, l.pause = c, now, 0
	p.way.Store(&route{c.way})
	b.resizeLocked(p)
	b.logger.Info("path taken", "peer", p.tunnel.Short(), "kind", c.way.kind(), "at", placeOf(c.way), "latency", c.latency)
}

func (b *Bind) loseLocked(p *peer, now instant) {
	l := p.live
	lost := l.current
	l.current, lost.answered, lost.left = nil, 0, now
	l.seek = seek{} // at once
	p.way.Store(nil)
	b.logger.Info("path lost", "peer", p.tunnel.Short(), "at", placeOf(lost.way), "used", b.wantedLocked(p, now))
	if b.wantedLocked(p, now) {
		b.roundLocked(p)
	}
}

// dueLocked reports whether to ping a candidate now. The way in use is pinged when asked for, again while it owes an answer, and
// while it is wanted at intervals, sooner when we send and hear nothing.
func (b *Bind) dueLocked(p *peer, c *candidate, wanted bool, now instant) bool {
	if c.due != 0 && now >= c.due {
		return true
	}
	if c != p.live.current {
		return false
	}
	since := now - c.asked
	if c.tries > 0 {
		return since >= c.retryAfter()
	}
	return wanted && (since >= keepalive || since >= silence/3 && b.silentLocked(p, c, now))
}

// silentLocked reports that we are sending and that nothing has come back for a while.
func (b *Bind) silentLocked(p *peer, c *candidate, now instant) bool {
	return now-load(&p.sent) < time.Second && now-max(c.answered, b.table.heard(c.addr())) >= silence
}

// askLocked makes a ping to a candidate and plans the next; false when the rate for pings to what has not answered is used up.
// The ping then goes out at a later tick.
func (b *Bind) askLocked(p *peer, c *candidate, now instant) (parcel, bool) {
	l := p.live
	if !c.proved(now) && !(b.pingLimit.Tokens() >= 1 && l.budget.Allow() && b.pingLimit.Allow()) {
		return parcel{}, false
	}
	t := newTransaction()
	c.depart(t, now)
	p.sequence++
	c.due = 0
	switch {
	case c == l.current && c.tries == triesToDoubt:
		l.askRelays(now) // so that one has answered by the time that this way is given up
	case c == l.current:
	case c.tries <= triesAfresh:
		c.due = now + tick<<(c.tries-1)
	case l.current == nil && b.seekingLocked(p, now):
		c.due = now + roundAtLeast
	}
	return parcel{peer: p, way: c.way, message: message{kind: ping, transaction: t, sequence: p.sequence, tunnel: b.tunnel}}, true
}
