package filter

import (
	"time"

	"picket.internal/acl"
)

const (
	// settling is how long a correct peer may still follow rules, or a deadline, that are past here.
	settling = 5 * time.Second
	// maxRulings bounds how many rulings of that time are kept. When there were more, nothing is proved until the rules have settled.
	maxRulings = 16
)

// refusedThroughout tells whether no correct peer can have passed a packet that asks q and is refused now: neither by rules that were in force
// lately, nor as the answer in a flow that this node opened and has forgotten, since the answer to a datagram may be late, and this node may have
// been started anew.
func (r *ruling) refusedThroughout(q question, from uint16, now int64) bool {
	before := now - int64(settling)
	for then := r; then != nil; then = then.before.Load() {
		if then.judge(q, before).reason == ReasonNone || then.judge(answered(q, from), before).reason == ReasonNone {
			return false
		}
		if then.since <= before {
			return true
		}
	}
	return false
}

// answered is the question whose answer a datagram from that port may be. TCP opens with what answers nothing, and so does an echo request.
func answered(q question, from uint16) question {
	switch q.proto {
	case acl.TCP, acl.ICMP, acl.ICMPv6:
		return q
	}
	q.dir ^= 1
	if q.proto.HasPorts() {
		q.port = from
	}
	return q
}

// succeed puts r behind the ruling that was in force until now.
func (r *ruling) succeed(old *ruling, now int64) {
	r.since = now
	r.before.Store(old)
	r.trim(now)
}

// trim lets go of rulings that no correct peer follows any more, and of those beyond the bound.
func (r *ruling) trim(now int64) {
	then := r
	for n := 1; n < maxRulings && then != nil && then.since > now-int64(settling); n++ {
		then = then.before.Load()
	}
	if then != nil {
		then.before.Store(nil)
	}
}
