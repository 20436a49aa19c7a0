package filter

import (
	"cmp"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// icmp judges an ICMP message, or the first fragment of one.
func (f *Filter) icmp(v *packet.View, dir direction) Reason {
	kind, _, _ := v.ICMP()
	switch kind {
	case packet.ICMPError:
		return f.icmpError(v, dir)
	case packet.ICMPOther:
		return cmp.Or(classReason(v), ReasonICMPType)
	}
	var k key
	k.set(v, dir)
	mayOpen := kind == packet.ICMPEchoRequest
	if v.IsFragment() {
		return f.firstFragment(v, dir, &k, mayOpen)
	}
	return f.transport(v, dir, &k, mayOpen)
}

// icmpError judges an ICMP error. It passes only when it quotes a packet that its receiver sent within a live flow, and comes from the
// peer of that flow. It keeps no flow alive.
func (f *Filter) icmpError(v *packet.View, dir direction) Reason {
	if reason := classReason(v); reason != ReasonNone {
		return reason
	}
	var q packet.View
	if v.IsFragment() || v.Quote(&q) != packet.FaultNone || q.IsIPv6() != v.IsIPv6() || q.Src() != v.Dst() {
		return ReasonICMPQuote
	}
	if q.IsICMP() {
		if kind, _, _ := q.ICMP(); kind != packet.ICMPEchoRequest && kind != packet.ICMPEchoReply {
			return ReasonICMPQuote
		}
	}
	var k key
	k.set(&q, dir^1)
	h := f.table.hash(&k)
	s := f.table.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := f.clock.tick(&s.ticks)
	r := f.rules.Load()
	if now >= r.notAfter.Load() {
		return r.lapsed()
	}
	fl := s.find(h, &k)
	if fl == nil {
		return ReasonICMPQuote
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.idle(now) || fl.state == stateCut || fl.ended() || !fl.sent(&q, dir^1) || !r.mayComplain(fl, v, dir) {
		return ReasonICMPQuote
	}
	if (fl.epoch != r.epoch || now >= fl.until) && !f.rejudge(s, r, fl, now) {
		return ReasonCut
	}
	s.passed[dir]++
	return ReasonNone
}

// mayComplain tells whether the sender of an error stands at the right end of the flow: the far host, or a router before it that
// belongs to the same peer; at our end, an address of ours.
func (r *ruling) mayComplain(fl *flow, v *packet.View, dir direction) bool {
	if dir == ingress {
		return r.whose(v.Src()) == fl.peer
	}
	return r.ours(v.Src())
}

// sent tells whether the packet q may have been sent in the flow in direction dir.
func (fl *flow) sent(q *packet.View, dir direction) bool {
	if acl.Proto(fl.k.proto()) != acl.TCP {
		return dir == fl.dir || fl.replied
	}
	me, other := &fl.ends[dir], &fl.ends[dir^1]
	if fl.state == stateSynSent && dir != fl.dir {
		return false
	}
	behind := me.end - q.QuotedSeq()
	return behind <= max(other.maxWin, leastWindow)+slack
}
