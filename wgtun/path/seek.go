package path

import (
	"time"

	"picket.internal/wgtun/key"
)

// How often a peer without direct path is sought, and how often a peer that seeks us has us ask all its addresses.
const (
	seekFirst     = 2 * time.Second
	seekAtMost    = time.Minute
	seekDoubting  = 8 * time.Second // pause up to which we doubt, too, where we are seen
	soughtAtLeast = 2 * time.Second
)

// seek plans the calls of Config.Seek for one peer.
type seek struct {
	due   instant // 0: at once
	pause time.Duration
}

// seekLocked has a peer sought that is in use and has no direct path.
func (b *Bind) seekLocked(p *peer, wanted bool, now instant) {
	l := p.live
	switch {
	case b.config.Seek == nil:
	case l.current != nil && l.current.direct():
		l.seek = seek{}
	case l.current == nil && !b.seekingLocked(p, now), l.current != nil && !wanted, now < l.seek.due:
	default:
		l.seek.pause = min(max(2*l.seek.pause, seekFirst), seekAtMost)
		l.seek.due = now + l.seek.pause
		if l.seek.pause <= seekDoubting {
			b.mirrors.doubt()
		}
		b.config.Seek(p.tunnel)
	}
}

// Sought says that a peer has no direct path to us and wants one, so that it is pinging us now: we ping all its addresses, and each side's pings let
// the other's through the address translators between. It is somebody else's word, and so is done at most every 2 s.
func (b *Bind) Sought(t key.TunnelPublic) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	if p == nil {
		return
	}
	l, now := b.rouseLocked(p), b.now()
	if l.round != 0 && now-l.round < soughtAtLeast {
		return
	}
	b.askAllLocked(p)
}
