package filter

import (
	"net/netip"
	"sync/atomic"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// ruling is a policy made ready: what the filter's atomic pointer points to.
type ruling struct {
	epoch      uint32 // may wrap around: no flow is further behind than by one Swap
	generation uint64
	set        bool // there are rules: not so in a new filter
	sets       []*ruleset
	deny       map[acl.NodeID]struct{}
	notAfter   atomic.Int64 // the lease, moved by Extend
	since      int64        // in force from then on
	before     atomic.Pointer[ruling]
}

// lapsed says why nothing passes any more.
func (r *ruling) lapsed() Reason {
	if r.set {
		return ReasonLease
	}
	return ReasonNoPolicy
}

// question is: may this flow be opened?
type question struct {
	local, remote packet.Addr
	dir           direction // of the opening packet
	proto         acl.Proto
	port          uint16 // destination; 0 for protocols without ports
}

// judgement answers a question. reason is zero when the flow may be opened.
type judgement struct {
	reason Reason
	peer   *peer     // also on refusal, when it is known
	rule   *acl.Rule // that allows, or for ReasonDenied the deny
	until  int64
}

// judge asks each ruleset; all must allow the flow between the same two nodes.
func (r *ruling) judge(q question, now int64) judgement {
	if len(r.sets) == 0 {
		return judgement{reason: ReasonNoRule}
	}
	j := judgement{until: never}
	for i, rs := range r.sets {
		local, remote := rs.resolve(q.local), rs.resolve(q.remote)
		if local.node == nil || local.node.id != rs.self {
			return judgement{reason: ReasonNotOurs}
		}
		if remote.node == nil || remote.node.peer == nil {
			return judgement{reason: ReasonUnknownPeer}
		}
		if i > 0 && remote.node.peer != j.peer {
			return judgement{reason: ReasonDeparting}
		}
		j.peer = remote.node.peer
		if _, denied := r.deny[j.peer.id]; denied {
			return judgement{reason: ReasonDeparting, peer: j.peer}
		}
		rule, until, reason := rs.mayOpen(local, remote, q, now)
		if reason != ReasonNone {
			return judgement{reason: reason, peer: j.peer, rule: rule}
		}
		if i == 0 {
			j.rule = rule
		}
		j.until = min(j.until, until)
	}
	return j
}

// mayOpen returns the first rule that allows the flow and when the last one ends, or why none does.
func (rs *ruleset) mayOpen(local, remote end, q question, now int64) (*acl.Rule, int64, Reason) {
	if local.class == nobody || remote.class == nobody {
		return nil, 0, ReasonNoRule
	}
	src, dst := local, remote
	if q.dir == ingress {
		src, dst = remote, local
	}
	k := pairKey{src: src.class, dst: dst.class, servers: dst.servers}
	k.sameOwner = !local.routed && !remote.routed && local.node.owner != "" && local.node.owner == remote.node.owner
	p := rs.pair(k)
	if i, _, refused := p.deny.find(q.proto, q.port, now); refused {
		return &rs.source.Denies[i], 0, ReasonDenied
	}
	i, until, ok := p.allow.find(q.proto, q.port, now)
	if !ok {
		return nil, 0, ReasonNoRule
	}
	return &rs.source.Rules[i], until, ReasonNone
}

// whose tells which peer a far address belongs to, and whether a near one is ours.
func (r *ruling) whose(remote packet.Addr) *peer {
	if len(r.sets) == 0 {
		return nil
	}
	if e := r.sets[0].resolve(remote); e.node != nil {
		return e.node.peer
	}
	return nil
}

// NodeAt is the peer whose an address is by the rules in force, its own or by a route.
func (f *Filter) NodeAt(a netip.Addr) (acl.NodeID, bool) {
	p := f.rules.Load().whose(packet.AddrOf(a))
	if p == nil {
		return "", false
	}
	return p.id, true
}

func (r *ruling) ours(local packet.Addr) bool {
	if len(r.sets) == 0 {
		return false
	}
	e := r.sets[0].resolve(local)
	return e.node != nil && e.node.peer == nil
}

// classReason refuses addresses that are nobody's own.
func classReason(v *packet.View) Reason {
	if c := v.DstClass(); c == packet.Multicast || c == packet.Broadcast {
		return ReasonMulticast
	} else if c != packet.Unicast || v.SrcClass() != packet.Unicast {
		return ReasonAddress
	}
	return ReasonNone
}

// opening is a packet of no live flow.
type opening struct {
	v       *packet.View
	dir     direction
	k       *key
	h       uint64
	mayOpen bool
	old     *flow // over, but still in the table under the same key
}

// open judges a packet of no live flow and, when it may, makes the flow it opens. The caller holds the shard's lock: between the verdict and
// the insertion no Swap can pass this shard. It holds that of the old flow, too, if there is one.
func (f *Filter) open(s *shard, r *ruling, o *opening, now int64) Reason {
	if reason := classReason(o.v); reason != ReasonNone {
		return reason
	}
	if reason := o.cannotOpen(); reason != ReasonNone {
		return reason
	}
	q := o.k.question(o.dir)
	j := r.judge(q, now)
	if j.reason != ReasonNone {
		if r.proves(j.reason, o.dir) && r.refusedThroughout(q, o.k.remotePort(), now) {
			j.peer.note(q, r.generation, now)
		}
		return j.reason
	}
	if !f.exchange(s, o.old, j.peer) {
		return ReasonFlowsFull
	}
	fl := &flow{entry: entry{
		k: *o.k, dir: o.dir, state: stateDatagram, epoch: r.epoch, last: now, until: j.until,
		origin: &origin{peer: j.peer, rule: j.rule, opened: now},
	}}
	if o.k.proto() == packet.ProtoTCP {
		fl.state = stateSynSent
		seg := o.v.TCP()
		fl.openTCP(o.v, &seg, o.dir)
	}
	fl.count(o.dir, o.v, now)
	if o.old != nil {
		s.replace(o.h, o.old, fl)
	} else {
		s.insert(o.h, fl)
	}
	return ReasonNone
}

// exchange takes a place in the table for a flow of p, in exchange for that of the old flow if there is one.
func (f *Filter) exchange(s *shard, old *flow, p *peer) bool {
	if old != nil && old.state != stateCut && old.peer == p {
		s.retire(old, stateForgotten)
		return true
	}
	if !f.table.take(&p.flows) {
		return false
	}
	if old != nil {
		f.release(old)
		s.retire(old, stateForgotten)
	}
	return true
}

// cannotOpen refuses packets that open nothing whatever the rules.
func (o *opening) cannotOpen() Reason {
	if !o.mayOpen {
		return ReasonNoFlow
	}
	if o.k.proto() != packet.ProtoTCP {
		return ReasonNone
	}
	flags := o.v.TCP().Flags
	switch {
	case isSYN(flags):
		return ReasonNone
	case !flagsMakeSense(flags):
		return ReasonTCPFlags
	}
	return ReasonNoFlow
}

// proves tells whether a peer under the same rules would not have sent what was refused for this reason. While a change of rules is under
// way, two sets of them hold, and it proves nothing.
func (r *ruling) proves(reason Reason, dir direction) bool {
	return dir == ingress && (reason == ReasonNoRule || reason == ReasonDenied) && len(r.sets) == 1
}

// rejudge asks about a live flow again, and cuts it when it is not allowed any more. It reports whether the flow lives.
func (f *Filter) rejudge(s *shard, r *ruling, fl *flow, now int64) bool {
	j := r.judge(fl.k.question(fl.dir), now)
	if j.reason == ReasonNone && j.peer == fl.peer {
		fl.epoch, fl.rule, fl.until = r.epoch, j.rule, j.until
		s.until = min(s.until, fl.until)
		return true
	}
	cause := causePolicy
	if now >= fl.until {
		cause = causeDeadline
	}
	f.cut(s, r, fl, cause, now)
	return false
}
