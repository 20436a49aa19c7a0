package acl

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Warnings about rules: what is legal, and probably not meant. Those of a file alone are found once every section has been read; those that
// depend on who is there today, when a directory is at hand.

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
		return slices.ContainsFunc(t.dst, isEverybody) && len(PortsWithout(anyPorts(), t.ports)) == 0
	})
}

func isEverybody(s selector) bool { return s.kind == kindAny || s.kind == kindDangerAll }

// maxShadowSteps bounds the comparison of rules with one another.
const maxShadowSteps = 2_000_000

// suspectShadowed warns of rules all of which another allows already, whatever its other conditions. Where two say the same the later one is
// named.
func (r *reader) suspectShadowed() {
	sizes := make([]ruleSize, len(r.pol.rules))
	for i, s := range r.pol.rules {
		sizes[i] = sizeOf(s)
	}
	steps := 0
	for i, s := range r.pol.rules {
		for j, by := range r.pol.rules {
			if steps++; steps > maxShadowSteps {
				return
			}
			cost := sizes[i].against(sizes[j])
			if i == j || cost > maxShadowSteps-steps {
				continue // cheaper pairs may follow
			}
			steps += cost
			if shadows(by, s) && (j < i || !shadows(s, by)) {
				r.warnAt(s.ref, "remove one of the two", "%s[%d] allows nothing that %s does not allow already", s.ref.Section, s.ref.Index, by.ref)
				break
			}
		}
	}
}

// ruleSize is what comparing an entry with another costs by.
type ruleSize struct{ src, dst, ports, targets int }

func sizeOf(s statement) ruleSize {
	n := ruleSize{src: len(s.src), targets: len(s.targets)}
	for _, t := range s.targets {
		n.dst, n.ports = n.dst+len(t.dst), n.ports+len(t.ports)
	}
	return n
}

// against is the number of comparisons that shadows makes at most, either way.
func (n ruleSize) against(o ruleSize) int {
	return 2 * (n.src*o.src + n.dst*o.dst + n.ports*o.targets + o.ports*n.targets)
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
				left = PortsWithout(left, other.ports)
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
	case s.kind == kindPrefix && o.kind == kindPrefix:
		return s.prefix.Bits() <= o.prefix.Bits() && s.prefix.Contains(o.prefix.Addr())
	case s.kind == o.kind && s.text == o.text:
		return true
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

// WarningsFor lists, in the file's order and at most 100, the rules and denies with an end at which nobody of d stands: no node that has the
// name or address, and no route to the address. What the file alone shows (Warnings) is not repeated. Its cost is that of a Compile.
func (p *Policy) WarningsFor(d *Directory) (out []Diagnostic) {
	c, err := Compile(p, d, nil) // the roles do not leave this function
	if err != nil {
		return []Diagnostic{{Severity: SeverityWarning, Message: err.Error()}}
	}
	census := census{Compiled: c, ways: map[string]*ways{}}
	for _, s := range slices.Concat(p.rules, p.denies) {
		for _, at := range census.deserted(s) {
			out = append(out, Diagnostic{
				SeverityWarning, s.ref.Line, s.ref.Column, fmt.Sprintf("%s[%d].%s names no node, and nothing behind a route, today", s.ref.Section, s.ref.Index, at),
				"it changes nothing until that is there",
			})
		}
	}
	slices.SortStableFunc(out, func(a, b Diagnostic) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	return slices.Clip(out[:min(len(out), maxReported)])
}

// census says which selectors name somebody.
type census struct {
	*Compiled
	ways  map[string]*ways // by the tags of via, joined
	spent int              // routers looked at
}

// maxCensus bounds the routers that one census looks at, again for each via.
const maxCensus = 2_000_000

// deserted lists which ends of an entry nobody stands at, "src" and "dst". An empty list is nobody by intent.
func (c *census) deserted(st statement) (ends []string) {
	if len(st.src) > 0 && !slices.ContainsFunc(st.src, func(s selector) bool { return c.names(s, nil, st.deny) }) {
		ends = append(ends, "src")
	}
	named, some := false, false
	for _, t := range st.targets {
		some = some || len(t.dst) > 0
		named = named || slices.ContainsFunc(t.dst, func(d selector) bool { return c.names(d, st.via, st.deny) })
	}
	if some && !named {
		ends = append(ends, "dst")
	}
	return ends
}

// names reports whether a selector names a node, or an address behind a route; where via is not empty, only what lies behind a route of a
// router with one of its tags.
func (c *census) names(s selector, via []string, deny bool) bool {
	switch s.kind {
	case kindInternet:
		return c.routes(via).exit
	case kindPrefix:
		if len(via) == 0 {
			for range c.within(s.prefix) {
				return true
			}
		}
		return c.routes(via).meet(s.prefix)
	}
	if len(via) > 0 {
		return false
	}
	if s.kind == kindSelf {
		s = selector{kind: kindMember, text: "autogroup:member"}
	}
	key := keyFor(s, deny)
	for range c.members.at(roleKey(c.book.ids[key])) {
		return true
	}
	return false
}

// ways are the routes of some routers.
type ways struct {
	exit    bool
	subnets []netip.Prefix // sorted, each once
	set     map[netip.Prefix]bool
}

// routes returns the routes of those with one of the tags, or of all.
func (c *census) routes(tags []string) *ways {
	key := strings.Join(tags, " ")
	if w := c.ways[key]; w != nil {
		return w
	}
	w := &ways{set: map[netip.Prefix]bool{}}
	c.ways[key] = w
	via, _ := c.book.roles(tags) // they are all there since Compile
	for e := range c.routers.at("") {
		if c.spent++; c.spent > maxCensus {
			w.exit = true // unknown: no warning
			w.subnets = everyPrefix()
			break
		}
		if len(via) > 0 && !shares(e.subject.Roles, via) {
			continue
		}
		for _, r := range e.subject.Routes {
			if isExit(r) {
				w.exit = true
			} else {
				w.subnets = append(w.subnets, r)
			}
		}
	}
	w.subnets = sortPrefixes(w.subnets)
	for _, r := range w.subnets {
		w.set[r] = true
	}
	return w
}

// meet reports whether p and one of the subnets have an address in common: one begins in p, or one holds all of p.
func (w *ways) meet(p netip.Prefix) bool {
	i, _ := slices.BinarySearchFunc(w.subnets, p.Addr(), func(r netip.Prefix, a netip.Addr) int { return r.Addr().Compare(a) })
	if i < len(w.subnets) && p.Contains(w.subnets[i].Addr()) {
		return true
	}
	for n := range p.Bits() {
		if around, err := p.Addr().Prefix(n); err == nil && w.set[around] {
			return true
		}
	}
	return false
}
