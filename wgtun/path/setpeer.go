package path

import (
	"net/netip"
	"slices"

	"picket.internal/wgtun/key"
)

// SetPeer adds a peer, or changes its probe key, candidates or next key; setting what is already so does nothing. Candidates that may not be
// probed are left out and counted. A path already proved stays while its probes are answered, even when its address is no longer
// among the candidates. Our own key is ignored.
func (b *Bind) SetPeer(p Peer) {
	told, refused := b.normal(p.Candidates)
	b.drop(DropCandidate, refused)
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.table.peer(p.Tunnel)
	if known == nil {
		b.addPeerLocked(p, told)
		return
	}
	if known.tunnel != p.Tunnel { // by a key that it has given up
		return
	}
	if known.known().next != p.Next {
		known.noted().next = p.Next
	}
	sameKey, sameTold := known.probe == p.Probe, slices.Equal(known.told, told) && known.home == p.Home
	if sameKey && sameTold {
		return
	}
	known.told, known.home = told, p.Home
	if !sameKey {
		if !b.table.reprobe(known, p.Probe, hintFor(b.self.public, p.Probe)) {
			b.logger.Warn("peer left with its old probe key: its probes would pass for another's", "peer", p.Tunnel.Short())
			return
		}
		known.box, known.window = nil, window{}
	}
	if known.live == nil {
		return
	}
	if !sameKey {
		b.doubtLocked(known)
	}
	b.retellLocked(known)
	if b.wantedLocked(known, b.now()) {
		b.askAllLocked(known)
	}
}

func (b *Bind) addPeerLocked(p Peer, told []netip.AddrPort) {
	if p.Tunnel == b.tunnel {
		return
	}
	added := &peer{
		tunnel: p.Tunnel, probe: p.Probe, told: told, home: p.Home,
		hint: hintFor(b.self.public, p.Probe),
		// Above all of an earlier life of this peer here, so that its window takes our pings.
		sequence: uint64(b.epoch.Add(b.now()).UnixNano()),
		asleep:   b.config.Wake != nil,
	}
	if !p.Next.IsZero() {
		added.noted().next = p.Next
	}
	added.limit.Store(b.firstLimit())
	if !b.table.add(added) {
		b.logger.Warn("peer left without path: its probes would pass for another's", "peer", p.Tunnel.Short())
	}
}

// doubtLocked leaves of all proofs, and of all claims to addresses, only the grace that a peer with a new probe key is given, and
// forgets what was asked under the old one.
func (b *Bind) doubtLocked(p *peer) {
	l, now := p.live, b.now()
	for i := range l.bound {
		x := &l.bound[i]
		x.until = min(x.until, now+grace)
		b.table.bind(x.addr, p, &Endpoint{bind: b, tunnel: p.tunnel, from: x.addr}, false, x.until)
	}
	for _, c := range l.candidates {
		c.flight = [flightSize]flight{}
		c.tries = 0
		if c != l.current {
			c.answered = 0
			continue
		}
		c.answered = min(c.answered, now-proofLife+grace)
		c.due = now
	}
}

// retellLocked makes the live candidates those told, and keeps any other only while it is proved.
func (b *Bind) retellLocked(p *peer) {
	l, now := p.live, b.now()
	old := l.candidates
	l.candidates = nil
	tell := func(a netip.AddrPort, make func() way) {
		i := slices.IndexFunc(old, func(c *candidate) bool { return c.addr() == a })
		if i >= 0 {
			old[i].told = true
			l.candidates = append(l.candidates, old[i])
			old = slices.Delete(old, i, i+1)
		} else if w := make(); w != nil {
			l.candidates = append(l.candidates, &candidate{way: w, told: true})
		}
	}
	for _, relay := range []string{p.home.Relay, p.home.Spare} {
		if b.config.Relay != nil && relay != "" {
			w := b.newRelayed(Home{Relay: relay, Address: p.home.Address})
			tell(w.alias, func() way { return w })
		}
	}
	for _, a := range p.told {
		tell(a, func() way {
			if d := b.newDirect(a); d != nil {
				return d
			}
			return nil
		})
	}
	kept := 0
	for _, c := range old {
		if c == l.current || kept < maxReflexive && (!c.told || c.proved(now)) {
			c.told = false
			l.candidates = append(l.candidates, c)
			kept++
		}
	}
}

// RemovePeer forgets a peer: once it returns nothing is sent to it, and nothing from its addresses is handed up. It waits for a
// batch that is just being sent. Removing who is not known does nothing.
func (b *Bind) RemovePeer(t key.TunnelPublic) {
	p := b.current(t)
	if p == nil {
		return
	}
	p.gate.Lock()
	p.removed = true
	p.gate.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.table.remove(p)
	if p.live != nil {
		b.dozeLocked(p)
	}
}
