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
	Section string `json:"section"` // "acls", "grants" or "denies"
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
type Set struct {
	Roles    []RoleID       `json:"roles,omitempty"`    // nodes that have one of them, at all their addresses
	Prefixes []netip.Prefix `json:"prefixes,omitempty"` // addresses: nodes' own, and those behind a subnet router
	Beyond   []netip.Prefix `json:"beyond,omitempty"`   // addresses beyond an exit node (a route to everything)
}

// Rule allows, or among Ruleset.Denies refuses, flows from Src to Dst on Ports. The zero Rule does neither.
type Rule struct {
	Ref   Ref     `json:"ref"`
	Src   Set     `json:"src"`
	Dst   Set     `json:"dst"`
	Ports []Ports `json:"ports"`
	// SrcPosture, when not empty, narrows Src to nodes, at their own addresses, that have one of these roles: those that meet a posture.
	SrcPosture []RoleID `json:"srcPosture,omitempty"`
	// Via, when not empty, narrows Dst to what lies behind routes that a node with one of these roles serves.
	Via []RoleID `json:"via,omitempty"`
	// SameOwner additionally demands that both ends are untagged nodes of one owner (autogroup:self).
	SameOwner bool `json:"sameOwner,omitempty"`
	// Until is when the rule ends, in Unix milliseconds; 0 never ends.
	Until int64 `json:"until,omitempty"`
	// Restrictions must all hold. A kind this build does not know never holds, so a newer policy is never read too widely.
	Restrictions []Restriction `json:"restrictions,omitempty"`
	// App is what the application at the destination is told of the source: canonical JSON texts by the capability's name. It allows no flow.
	App map[string][]string `json:"app,omitempty"`
	// Log is what is to be logged of the rule's flows: "", "all", "deny" or "sample".
	Log string `json:"log,omitempty"`
	// Postures are the names of SrcPosture's roles, for explanations.
	Postures []string `json:"postures,omitempty"`
	// Reason is what a deny says of itself.
	Reason string `json:"reason,omitempty"`
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
	Denies   []Rule // each beats every rule, whatever its Restrictions and Via
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
	Deny   *Rule     // the first deny that refuses what a rule allows; nil when none does
	Until  time.Time // when the last of the allowing rules ends; zero when one of them never does
	Reason string    // on refusal: what is missing, in words
}

// end is an address resolved: whose it is, or who serves the route it lies behind.
type end struct {
	addr    netip.Addr
	subject *Subject // nil when nobody has or serves it
	routed  bool
	beyond  bool       // the route is an exit node's
	routers []*Subject // all who serve the most specific route, subject first
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
	if routers := rs.routersTo(addr); len(routers) > 0 {
		return routers[0], true
	}
	return nil, false
}

// routersTo lists who serves the most specific route to addr.
func (rs *Ruleset) routersTo(addr netip.Addr) (out []*Subject) {
	bits := -1
	for i := range rs.Subjects {
		s := &rs.Subjects[i]
		for _, route := range s.Routes {
			switch {
			case !route.Contains(addr) || route.Bits() < bits:
			case route.Bits() > bits:
				out, bits = []*Subject{s}, route.Bits()
			case out[len(out)-1] != s:
				out = append(out, s)
			}
		}
	}
	return out
}

func (rs *Ruleset) resolve(addr netip.Addr) end {
	s, routed := rs.SubjectOf(addr)
	e := end{addr: addr, subject: s, routed: routed}
	if routed {
		e.routers = rs.routersTo(addr)
		e.beyond = !slices.ContainsFunc(s.Routes, func(p netip.Prefix) bool { return !isExit(p) && p.Contains(addr) })
	}
	return e
}

// matches reports whether e may stand at the set's end of a rule.
func (s Set) matches(e end) bool {
	switch {
	case e.subject == nil:
		return false
	case e.beyond:
		return contains(s.Beyond, e.addr)
	case e.routed:
		return contains(s.Prefixes, e.addr)
	}
	return s.names(e.subject) || contains(s.Prefixes, e.addr)
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// names reports whether the set names the node itself.
func (s Set) names(n *Subject) bool {
	return shares(n.Roles, s.Roles)
}

// LeadsThrough reports whether the rule may let flows to something behind route, which router serves, pass by way of it.
func (r *Rule) LeadsThrough(router *Subject, route netip.Prefix) bool {
	return len(r.Ports) > 0 && len(r.Restrictions) == 0 && (len(r.Via) == 0 || shares(router.Roles, r.Via)) && overlapsAny(route, r.Dst.behind(route))
}

// passes reports whether dst may be reached the way that Via demands.
func (r *Rule) passes(dst end) bool {
	return len(r.Via) == 0 || slices.ContainsFunc(dst.routers, func(s *Subject) bool { return shares(s.Roles, r.Via) })
}

func shares(a, b []RoleID) bool {
	return slices.ContainsFunc(a, func(id RoleID) bool { return slices.Contains(b, id) })
}

// postured reports whether the source's device is as the rule demands.
func (r *Rule) postured(src end) bool {
	return len(r.SrcPosture) == 0 || !src.routed && shares(src.subject.Roles, r.SrcPosture)
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
		if !r.fits(src, dst) || !r.passes(dst) || !r.covers(f.Proto, f.Port) || !r.inForce(now) {
			continue
		}
		d.allowedBy(r)
	}
	if d.Allow {
		if deny := rs.denying(src, dst, f, now); deny != nil {
			return Decision{Deny: deny}
		}
	}
	return d
}

// allowedBy adds one more rule that allows, in the file's order.
func (d *Decision) allowedBy(r *Rule) {
	if !d.Allow {
		*d = Decision{Allow: true, Rule: r, Until: r.end()}
	} else if !d.Until.IsZero() && (r.Until == 0 || r.end().After(d.Until)) {
		d.Until = r.end()
	}
}

// fits reports whether the flow's ends may stand at the rule's.
func (r *Rule) fits(src, dst end) bool {
	return r.Src.matches(src) && r.Dst.matches(dst) && r.postured(src) && r.owners(src, dst)
}

// inForce reports whether the rule allows anything now.
func (r *Rule) inForce(now time.Time) bool { return !r.over(now) && len(r.Restrictions) == 0 }

// denying returns the first deny that refuses the flow. A deny that carries restrictions refuses all the same: what is not understood must
// not make it narrower.
func (rs *Ruleset) denying(src, dst end, f Flow, now time.Time) *Rule {
	for i := range rs.Denies {
		if r := &rs.Denies[i]; r.fits(src, dst) && r.covers(f.Proto, f.Port) && !r.over(now) {
			return r
		}
	}
	return nil
}
