package acl

import (
	"net/netip"
	"slices"
)

// Warnings about rules: what is legal, and probably not meant. They are found once every section has been read.

// overlayRanges are where overlays give out addresses: the range of RFC 6598, and the one that IPv6's unique local addresses (RFC 4193)
// are drawn from by default here.
var overlayRanges = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd70:696b:6574::/48")}

// suspectRules looks at every rule, and at the hosts.
func (r *reader) suspectRules() {
	for _, s := range r.pol.rules {
		if open(s) {
			r.warnAt(s.ref, "name who needs it", "%s[%d] is open to everyone: it lets every node reach every other on every port", s.ref.Section, s.ref.Index)
		}
	}
	r.suspectShadowed()
	r.suspectHosts()
}

func (r *reader) warnAt(ref Ref, hint, format string, args ...any) {
	r.warn(r.src.starts[ref.Line-1]+ref.Column-1, hint, format, args...)
}

// open reports whether a rule holds nothing back.
func open(s statement) bool {
	if len(s.restrictions)+len(s.postures)+len(s.via) > 0 || !slices.ContainsFunc(s.src, isEverybody) {
		return false
	}
	return slices.ContainsFunc(s.targets, func(t target) bool {
		return slices.ContainsFunc(t.dst, isEverybody) && len(without(anyPorts(), t.ports)) == 0
	})
}

func isEverybody(s selector) bool { return s.kind == kindAny || s.kind == kindDangerAll }

// maxShadowSteps bounds the comparison of rules with one another.
const maxShadowSteps = 2_000_000

// suspectShadowed warns of rules all of which another allows already, whatever its other conditions. Where two say the same the later one is
// named.
func (r *reader) suspectShadowed() {
	steps := 0
	for i, s := range r.pol.rules {
		for j, by := range r.pol.rules {
			if steps += 1 + len(s.src) + len(by.src); steps > maxShadowSteps {
				return
			}
			if i != j && shadows(by, s) && (j < i || !shadows(s, by)) {
				r.warnAt(s.ref, "remove one of the two", "%s[%d] allows nothing that %s does not allow already", s.ref.Section, s.ref.Index, by.ref)
				break
			}
		}
	}
}

// shadows reports whether everything that s allows by allows as well, by what both say and nothing else.
func shadows(by, s statement) bool {
	if len(by.restrictions)+len(by.via)+len(by.app)+len(s.app) > 0 || by.until != 0 && (s.until == 0 || s.until > by.until) {
		return false
	}
	if len(by.postures) > 0 && (len(s.postures) == 0 || !covers(by.postures, s.postures)) || by.log != s.log {
		return false
	}
	if len(s.src) == 0 || !coversAll(by.src, s.src) {
		return false
	}
	for _, t := range s.targets {
		left := t.ports
		for _, other := range by.targets {
			if coversAll(other.dst, t.dst) {
				left = without(left, other.ports)
			}
		}
		if len(left) > 0 || len(t.dst) == 0 || len(t.ports) == 0 {
			return false
		}
	}
	return len(s.targets) > 0
}

func covers(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// coversAll reports whether each of some is named by one of all.
func coversAll(all, some []selector) bool {
	return !slices.ContainsFunc(some, func(s selector) bool {
		return !slices.ContainsFunc(all, func(a selector) bool { return a.names(s) })
	})
}

// names reports whether s names, in every directory, whom o names.
func (s selector) names(o selector) bool {
	switch {
	case s.key() == o.key():
		return true
	case s.kind == kindPrefix && o.kind == kindPrefix:
		return s.prefix.Bits() <= o.prefix.Bits() && s.prefix.Contains(o.prefix.Addr())
	case s.kind == kindMember:
		return slices.Contains([]kind{kindUser, kindGroup, kindDomain, kindRole}, o.kind)
	case s.kind == kindTagged:
		return o.kind == kindTag
	case s.kind == kindAny:
		return slices.Contains([]kind{kindUser, kindGroup, kindDomain, kindRole, kindMember, kindTagged, kindTag}, o.kind)
	}
	return false
}

// suspectHosts warns of a host that is a part of the overlay's own range: as long as its addresses are given out by the coordinator, whose
// they are changes without anybody touching the policy.
func (r *reader) suspectHosts() {
	for _, name := range r.hostNames {
		h := r.pol.hosts[name]
		if slices.ContainsFunc(overlayRanges, h.prefix.Overlaps) {
			r.warn(h.at, "name nodes by tag, group or user instead", "host %s overlaps the range that node addresses are given out from", quote(name))
		}
	}
}
