package filter

import (
	"slices"
	"time"

	"picket.internal/acl"
)

// Policy is what the filter enforces from one Swap to the next. The zero Policy refuses everything. The filter keeps it, and the
// rulesets in it, which must not change any more.
type Policy struct {
	Generation uint64
	Self       acl.NodeID
	Rules      *acl.Ruleset
	NotAfter   time.Time // end of the lease, carrying a monotonic reading; at and after it nothing passes

	// ClockOffset is added to this host's wall clock to get the time in which rules state their deadlines.
	ClockOffset time.Duration
	// Also are further rulesets which must all allow a flow as well, between the same nodes.
	Also []*acl.Ruleset
	// Deny names nodes that may exchange nothing.
	Deny map[acl.NodeID]struct{}
}

// Intersect returns the policy to put in force before the peers of old are exchanged for those of next: only what both allow, between
// the same two nodes at the same addresses, and nothing with a node for which departing is true (it may be nil). So an address, or
// a route, that changes hands is refused to both its holders until the whole of next is in force, and a flow that both allow loses nothing.
// The lease is next's: old's may have been extended since. A nil policy allows nothing.
func Intersect(old, next *Policy, departing func(acl.NodeID) bool) *Policy {
	if next == nil {
		return &Policy{}
	}
	both := *next
	if old == nil || old.Rules == nil || old.Self != next.Self {
		both.Rules, both.Also = nil, nil
		return &both
	}
	both.Also = slices.Concat(next.Also, []*acl.Ruleset{old.Rules}, old.Also)
	both.Deny = map[acl.NodeID]struct{}{}
	for _, denied := range []map[acl.NodeID]struct{}{old.Deny, next.Deny} {
		for node := range denied {
			both.Deny[node] = struct{}{}
		}
	}
	if departing == nil || next.Rules == nil {
		return &both
	}
	for i := range next.Rules.Subjects {
		if node := next.Rules.Subjects[i].Node; departing(node) {
			both.Deny[node] = struct{}{}
		}
	}
	return &both
}
