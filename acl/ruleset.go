package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// RoleID stands for one selector of a policy ("group:eng", "tag:db", "alice@example.com", "*", a host): the set of nodes it names.
// It is derived from the selector's text and a salt of the network, so that it is the same after a restart and tells a reader nothing.
type RoleID uint64

// Proto is an IP protocol number.
type Proto uint8

// Protocols with meaning here.
const (
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
)

// Ref says which rule of the policy file something came from.
type Ref struct {
	Section string `json:"section"` // "acls" or "grants"
	Index   int    `json:"index"`   // from 0
	Line    int    `json:"line"`    // from 1
	Column  int    `json:"column"`  // from 1
}

// String is "grants[3], line 17".
func (r Ref) String() string { return fmt.Sprintf("%s[%d], line %d", r.Section, r.Index, r.Line) }

// Ports is one protocol and a range of destination ports, both ends included.
// For protocols without ports First and Last are 0 and 65535.
type Ports struct {
	Proto Proto  `json:"proto"`
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Set is what may stand at one end of a rule. The zero Set matches nothing.
// Roles match nodes by membership; Prefixes match only addresses that are no node's own (behind a subnet router).
type Set struct {
	Roles    []RoleID       `json:"roles,omitempty"`
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
}

// Rule allows flows from Src to Dst on Ports. The zero Rule allows nothing.
type Rule struct {
	Ref   Ref     `json:"ref"`
	Src   Set     `json:"src"`
	Dst   Set     `json:"dst"`
	Ports []Ports `json:"ports"`
	// SameOwner additionally demands that both ends are untagged nodes of one owner (autogroup:self).
	SameOwner bool `json:"sameOwner,omitempty"`
	// Until is when the rule ends, in Unix milliseconds; 0 never ends.
	Until int64 `json:"until,omitempty"`
	// Restrictions must all hold. A kind this build does not know never holds, so a newer policy is never read too widely.
	Restrictions []Restriction `json:"restrictions,omitempty"`
}

// Restriction is one further condition on a rule. No kind is defined yet: every one present makes its rule allow nothing.
type Restriction struct {
	Kind  string `json:"kind"`
	Value string `json:"value,omitempty"`
}

// Subject is a node as rules see it.
type Subject struct {
	Node      NodeID         `json:"node"`
	Owner     UserID         `json:"owner,omitempty"` // empty when tagged
	Addresses []netip.Addr   `json:"addresses"`
	Routes    []netip.Prefix `json:"routes,omitempty"`
	Roles     []RoleID       `json:"roles,omitempty"`
}

// Ruleset is the compiled form: it goes over the wire, into the filter and into explanations. The zero Ruleset allows nothing.
// It is read-only once made and then safe for concurrent use.
type Ruleset struct {
	Rules    []Rule
	Subjects []Subject
}

// Flow is a question: may Src open a flow to Dst?
type Flow struct {
	Src   netip.Addr `json:"src"` // 4-byte or 16-byte, never IPv4-mapped, no zone
	Dst   netip.Addr `json:"dst"` // as Src
	Proto Proto      `json:"proto"`
	Port  uint16     `json:"port,omitempty"` // destination port; 0 for protocols without ports
}

// Decision answers a Flow. The zero Decision is a refusal.
type Decision struct {
	Allow  bool
	Rule   *Rule     // the first rule in file order that allows; nil on refusal
	Until  time.Time // when the last of the allowing rules ends; zero when one of them never does
	Reason string    // on refusal: what is missing, in words
}

// end is an address resolved: whose it is, or who serves the route it lies behind.
type end struct {
	addr    netip.Addr
	subject *Subject // nil when nobody has or serves it
	routed  bool
}

// SubjectOf returns the subject that owns addr, or serves the most specific route to it (routed true; the first of several that serve the
// same route); nil when nobody does, and when two subjects own addr.
func (rs *Ruleset) SubjectOf(addr netip.Addr) (s *Subject, routed bool) {
	if !plainAddr(addr) {
		return nil, false
	}
	for i := range rs.Subjects {
		if slices.Contains(rs.Subjects[i].Addresses, addr) {
			if s != nil {
				return nil, false
			}
			s = &rs.Subjects[i]
		}
	}
	if s != nil {
		return s, false
	}
	bits := -1
	for i := range rs.Subjects {
		for _, route := range rs.Subjects[i].Routes {
			if route.Bits() > bits && route.Contains(addr) {
				s, bits = &rs.Subjects[i], route.Bits()
			}
		}
	}
	return s, s != nil
}

func (rs *Ruleset) resolve(addr netip.Addr) end {
	s, routed := rs.SubjectOf(addr)
	return end{addr: addr, subject: s, routed: routed}
}

// matches reports whether e may stand at the set's end of a rule.
func (s Set) matches(e end) bool {
	switch {
	case e.subject == nil:
		return false
	case e.routed:
		return slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Contains(e.addr) })
	}
	return s.names(e.subject)
}

// names reports whether the set names the node itself.
func (s Set) names(n *Subject) bool {
	return slices.ContainsFunc(n.Roles, func(id RoleID) bool { return slices.Contains(s.Roles, id) })
}

// owners reports whether what SameOwner demands holds.
func (r *Rule) owners(src, dst end) bool {
	return !r.SameOwner || !src.routed && !dst.routed && src.subject.Owner != "" && src.subject.Owner == dst.subject.Owner
}

// covers reports whether the rule is about this protocol and port.
func (r *Rule) covers(proto Proto, port uint16) bool {
	return slices.ContainsFunc(r.Ports, func(p Ports) bool { return p.Contains(proto, port) })
}

// over reports whether the rule has ended.
func (r *Rule) over(now time.Time) bool { return r.Until != 0 && now.UnixMilli() >= r.Until }

// end returns when the rule ends; zero when it never does.
func (r *Rule) end() time.Time {
	if r.Until == 0 {
		return time.Time{}
	}
	return time.UnixMilli(r.Until)
}

// Allows is the slow, obvious reading of the rules: it looks at every rule, and the filter must agree with it. now decides deadlines: a
// rule holds before its Until, not at it.
func (rs *Ruleset) Allows(f Flow, now time.Time) Decision {
	d := rs.decide(f, now)
	if !d.Allow {
		d.Reason = rs.Explain(f, now).String()
	}
	return d
}

// decide is Allows without words.
func (rs *Ruleset) decide(f Flow, now time.Time) (d Decision) {
	src, dst := rs.resolve(f.Src), rs.resolve(f.Dst)
	if src.subject == nil || dst.subject == nil || f.Src.Is4() != f.Dst.Is4() {
		return Decision{}
	}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		if !r.Src.matches(src) || !r.Dst.matches(dst) || !r.owners(src, dst) || !r.covers(f.Proto, f.Port) {
			continue
		}
		if r.over(now) || len(r.Restrictions) > 0 {
			continue
		}
		if !d.Allow {
			d = Decision{Allow: true, Rule: r, Until: r.end()}
		} else if !d.Until.IsZero() && (r.Until == 0 || r.end().After(d.Until)) {
			d.Until = r.end()
		}
	}
	return d
}
