package review

import (
	"net/netip"
	"slices"

	"picket.internal/acl"
)

// matcher finds the rules of a list at whose ends a place may stand.
type matcher struct {
	rules    []acl.Rule
	subjects map[acl.NodeID]*acl.Subject
	anyVia   bool
	ends     [2]endIndex // src and dst
	postured bits        // rules that ask for a posture of their source
	skipped  bits
}

// The two ends of a rule.
const (
	src = iota
	dst
)

// endIndex is one end of every rule.
type endIndex struct {
	roles              map[acl.RoleID][]int
	prefixes, beyondes table[[]int]
}

func (x *endIndex) add(s acl.Set, rule int) {
	if x.roles == nil {
		x.roles = map[acl.RoleID][]int{}
	}
	for _, id := range s.Roles {
		x.roles[id] = append(x.roles[id], rule)
	}
	for _, p := range s.Prefixes {
		x.prefixes.put(p, append(x.prefixes.entries[p], rule))
	}
	for _, p := range s.Beyond {
		x.beyondes.put(p, append(x.beyondes.entries[p], rule))
	}
}

// newMatcher leaves out the rules that skip says. anyVia takes every router for one that a rule's via names.
func newMatcher(rules []acl.Rule, subjects []acl.Subject, anyVia bool, skip func(*acl.Rule) bool) *matcher {
	m := &matcher{rules: rules, subjects: map[acl.NodeID]*acl.Subject{}, anyVia: anyVia, postured: newBits(len(rules)), skipped: newBits(len(rules))}
	for i := range subjects {
		m.subjects[subjects[i].Node] = &subjects[i]
	}
	for i := range rules {
		if skip(&rules[i]) {
			m.skipped.set(i)
			continue
		}
		m.ends[src].add(rules[i].Src, i)
		m.ends[dst].add(rules[i].Dst, i)
		if len(rules[i].SrcPosture) > 0 {
			m.postured.set(i)
		}
	}
	return m
}

// at returns the rules at whose src, and at whose dst, a may stand, which is an address of p. Who owns the two ends is not looked at, and
// what the source's device is like neither: that is a condition.
func (m *matcher) at(p *place, a netip.Addr) (from, to bits) {
	from, to = m.end(src, p, a), m.end(dst, p, a)
	if p.node == "" {
		from = from.minus(m.postured)
	}
	for i := range to.all() {
		r := &m.rules[i]
		if p.node != "" && len(r.Via) > 0 || p.node == "" && (r.SameOwner || !m.passes(r, p)) {
			to.unset(i)
		}
	}
	return from, to
}

func (m *matcher) end(which int, p *place, a netip.Addr) bits {
	out, x := newBits(len(m.rules)), &m.ends[which]
	add := func(rules []int) {
		for _, i := range rules {
			out.set(i)
		}
	}
	t := &x.prefixes
	if p.beyond {
		t = &x.beyondes
	}
	for rules := range t.around(a, a.BitLen()) {
		add(rules)
	}
	if p.node != "" {
		for _, id := range m.subjects[p.node].Roles {
			add(x.roles[id])
		}
	}
	return out
}

// passes reports whether a router to p is one that the rule's via names.
func (m *matcher) passes(r *acl.Rule, p *place) bool {
	return len(r.Via) == 0 || m.anyVia || slices.ContainsFunc(p.routers, func(id acl.NodeID) bool {
		return slices.ContainsFunc(m.subjects[id].Roles, func(role acl.RoleID) bool { return slices.Contains(r.Via, role) })
	})
}

// where returns, for each rule, the places that may stand at one of its ends.
func (m *matcher) where(w *world, which int) []bits {
	out := make([]bits, len(m.rules))
	for i := range out {
		out[i] = newBits(len(w.places))
	}
	for i, p := range w.places {
		for _, a := range p.addresses {
			from, to := m.at(p, a)
			for r := range [2]bits{from, to}[which].all() {
				out[r].set(i)
			}
		}
	}
	return out
}
