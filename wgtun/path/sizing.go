package path

import (
	"slices"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
)

const (
	// BaseDatagram is the longest datagram, in bytes of UDP payload, that is sent on a way of which nothing is known: the message that carries
	// a packet of 1280 bytes. Paths that do not take it whole are for the network's own fragmentation.
	BaseDatagram = 1280 + messageOverhead
	// messageOverhead is what WireGuard adds to a packet (whitepaper section 5.4.6).
	messageOverhead = 32
	// mostDatagram is what IPv4 leaves to UDP: no socket takes more.
	mostDatagram = 65535 - 20 - 8

	sizeTries  = 3                // pings of one length before it is given up
	sizeWait   = time.Second      // for the answer to one, at least: a busy host must not pass for a short path, since systems remember what they are told
	sizeVerify = 5 * time.Second  // between pings of the proved length, while the way is used
	sizeAgain  = 10 * time.Minute // before greater lengths are tried again (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)

	// Ethernet's payload in IPv4 and in IPv6 UDP. Few paths take less, so that it is believed until it is disproved.
	ethernet4 = 1500 - 20 - 8
	ethernet6 = 1500 - 40 - 8
)

// rungs are the lengths worth trying: of jumbo frames, Ethernet, and what PPPoE and common tunnels leave of it, in IPv4 and IPv6.
var rungs = []int{8972, 8952, ethernet4, ethernet4 - 8, ethernet6, ethernet6 - 8, 1412, 1392}

// ladder is the lengths to try on a way, longest first, up to the longest of use; nil when nothing over BaseDatagram is.
func ladder(longest int) []int {
	if longest <= BaseDatagram {
		return nil
	}
	longest = min(longest, mostDatagram)
	l := []int{longest}
	for _, n := range rungs {
		if n < longest && n > BaseDatagram {
			l = append(l, n)
		}
	}
	return l
}

// sizing finds out how long datagrams may be on the way in use, by pings of that length which nobody may cut (RFC 8899). What a pong says was received is
// proved; that a length fails is believed after three pings, and then the next shorter one is tried. A proved length is pinged again and again.
type sizing struct {
	known    int // the longest that is proved, BaseDatagram when no other is; 0 while nothing is known
	climbing bool
	rung     int     // being tried while climbing
	climbed  instant // when climbing last began; 0 for never

	tries   int // pings under way of one length
	length  int // that length
	flights [sizeTries]transaction
	asked   instant
}

// limit is how long datagrams may be, in bytes. v6 is the family of the way.
func (s *sizing) limit(ladder []int, v6 bool) int {
	likely := ethernet4
	if v6 {
		likely = ethernet6
	}
	if s.known == 0 {
		return min(ladder[min(s.rung, len(ladder)-1)], likely)
	}
	return s.known
}

// next is the length to ping with now; 0 for none. retry is how long an answer may take.
func (s *sizing) next(ladder []int, now instant, retry time.Duration) int {
	if s.tries > 0 && now-s.asked < retry {
		return 0
	}
	if s.tries == sizeTries {
		s.failed(ladder)
	}
	if !s.climbing && (s.climbed == 0 || now-s.climbed >= sizeAgain) {
		s.climbing, s.rung, s.climbed, s.tries = true, 0, now, 0
	}
	if s.climbing && (s.rung == len(ladder) || ladder[s.rung] <= s.known) {
		s.climbing = false
		s.known = max(s.known, BaseDatagram)
	}
	switch {
	case s.climbing:
		return ladder[s.rung]
	case s.known == BaseDatagram, s.tries == 0 && now-s.asked < sizeVerify:
		return 0
	}
	return s.known
}

// failed gives up the length that was tried: the next is shorter, or, when it was one that had been proved, all are tried again.
func (s *sizing) failed(ladder []int) {
	s.tries, s.flights = 0, [sizeTries]transaction{}
	if s.climbing {
		s.rung = min(s.rung+1, len(ladder))
		return
	}
	s.known, s.climbed = BaseDatagram, 0
}

// depart notes a ping of size bytes, which next gave.
func (s *sizing) depart(t transaction, size int, now instant) {
	s.flights[s.tries], s.length = t, size
	s.tries++
	s.asked = now
}

// land takes a pong that says a ping of so many bytes was received whole; false when it answers none of ours. Of another length than it had, the
// peer proves nothing: the host is told of lengths, and keeps them for long.
func (s *sizing) land(t transaction, size int) bool {
	if size != s.length || !slices.Contains(s.flights[:s.tries], t) {
		return false
	}
	s.known, s.climbing, s.tries, s.flights = size, false, 0, [sizeTries]transaction{}
	return true
}

// unfragmented is an inner bind that can send a datagram which nobody may cut, whatever the system believes of the path's MTU.
type unfragmented interface {
	SendUnfragmented(buf []byte, ep conn.Endpoint) error
}

// sizeLocked makes the ping that finds out how long datagrams may be, if one is due on the way in use.
func (b *Bind) sizeLocked(p *peer, now instant) (parcel, bool) {
	c := p.live.current
	if c == nil || !c.direct() || len(b.ladder) == 0 || !c.proved(now) || c.tries > 0 {
		return parcel{}, false
	}
	size := c.sizing.next(b.ladder, now, max(sizeWait, c.retryAfter()))
	b.resizeLocked(p)
	if size == 0 {
		return parcel{}, false
	}
	t := newTransaction()
	c.sizing.depart(t, size, now)
	p.sequence++
	return parcel{peer: p, way: c.way, message: message{kind: ping, transaction: t, sequence: p.sequence, size: uint16(size), tunnel: b.tunnel}}, true
}

// sizedLocked takes a pong that tells of a length; false when it answers no ping of that kind.
func (b *Bind) sizedLocked(p *peer, c *candidate, m message) bool {
	if m.size == 0 || !c.sizing.land(m.transaction, int(m.size)) {
		return false
	}
	if c == p.live.current {
		b.resizeLocked(p)
		b.logger.Debug("length proved", "peer", p.tunnel.Short(), "addr", c.addr(), "bytes", m.size)
	}
	return true
}

// resizeLocked tells the packet path how long datagrams to a peer may be on its way in use. Without a way, or on a relay, which takes any, that stays as
// it was: what is told a program's system it keeps for long.
func (b *Bind) resizeLocked(p *peer) {
	if c := p.live.current; c != nil && c.direct() && len(b.ladder) > 0 {
		p.limit.Store(int32(c.sizing.limit(b.ladder, c.addr().Addr().Is6())))
	}
}

// firstLimit is how long datagrams to a peer may be of which nothing is known yet.
func (b *Bind) firstLimit() int32 {
	if len(b.ladder) == 0 {
		return BaseDatagram
	}
	return int32(new(sizing).limit(b.ladder, false))
}

// Limit is how long datagrams to a peer may be, in bytes of UDP payload, kept up to date as long as the peer is known: BaseDatagram, unless
// Config.MaxDatagram allows more and more is proved, or likely. Nil when there is no such peer.
func (b *Bind) Limit(t key.TunnelPublic) *atomic.Int32 {
	if p := b.table.peer(t); p != nil {
		return &p.limit
	}
	return nil
}

// sendWhole sends a probe that is padded to a length, and not cut on its way.
func (b *Bind) sendWhole(p *peer, w way, probe []byte, size int) {
	d, ok := w.(*direct)
	inner, can := b.inner.(unfragmented)
	if !ok || !can {
		return
	}
	p.gate.RLock()
	defer p.gate.RUnlock()
	if !p.removed {
		_ = inner.SendUnfragmented(append(probe, make([]byte, size-len(probe))...), d.ep) // what does not arrive is not answered
	}
}
