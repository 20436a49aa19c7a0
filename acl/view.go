package acl

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// View is what one node may know: itself, the peers it has a permitted flow with, and the rules between them, narrowed to them.
type View struct {
	Self   Subject
	Peers  []Subject // by node id
	Rules  []Rule    // in the file's order
	Denies []Rule    // in the file's order
	// Postures are the names of those that a peer meets and that a rule asks of it by which it may open flows to Self's own addresses: sorted, by
	// peer. Peers without any are left out.
	Postures map[NodeID][]string
}

// Ruleset is the view as one ruleset, self included among the subjects. It judges flows that have self, or what lies behind its routes, at
// one end as the whole network's ruleset does. Flows between two peers it need not know.
func (v View) Ruleset() *Ruleset {
	subjects := make([]Subject, 0, len(v.Peers)+1)
	return &Ruleset{Rules: v.Rules, Denies: v.Denies, Subjects: append(append(subjects, v.Self), v.Peers...)}
}

// viewer computes one view, in five steps: which rules may let self open a flow (out) or take one (in), and who is at their other ends;
// which rules tell the application at self of those peers; those rules, and the denies that concern them, without what is neither self's
// nor a peer's; the peers without roles and routes that none of these mentions.
type viewer struct {
	*Compiled
	self  *entry
	peers map[*entry]bool
	out   map[int]bool // rules by which self may open flows to somebody
	in    map[int]bool
}

// View computes node's view; false when the directory has no such node. The result is the caller's own, but for its innermost slices,
// which are shared and must not be changed.
func (c *Compiled) View(node NodeID) (View, bool) {
	self := c.find(node)
	if self == nil {
		return View{}, false
	}
	v := c.meetAll(self)
	v.tell()
	view := v.narrow()
	view.Postures = v.postures()
	return view, true
}

// meetAll finds self's peers.
func (c *Compiled) meetAll(self *entry) *viewer {
	v := &viewer{Compiled: c, self: self, peers: map[*entry]bool{}, out: map[int]bool{}, in: map[int]bool{}}
	for _, i := range c.candidates(self, c.bySrc, &c.bySrcPrefix) {
		v.meet(i, c.rules[i].Dst, func(peer *entry) bool { return c.couples(i, self, peer) }, v.out)
	}
	for _, i := range c.candidates(self, c.byDst, &c.byDstPrefix) {
		v.meet(i, c.rules[i].Src, func(peer *entry) bool { return c.couples(i, peer, self) }, v.in)
	}
	return v
}

// candidates lists the rules at whose end, as by and prefixes index it, the node may stand.
func (g *program) candidates(n *entry, by map[RoleID][]int, prefixes *prefixIndex) (rules []int) {
	for _, id := range n.subject.Roles {
		rules = append(rules, by[id]...)
	}
	for _, a := range n.subject.Addresses {
		for _, p := range prefixes.around(a) {
			rules = append(rules, prefixes.rules[p]...)
		}
	}
	if len(n.subject.Routes) > 0 {
		rules = append(rules, g.routed...)
	}
	slices.Sort(rules)
	return slices.Compact(rules)
}

// meet notes as peers those at the other end of rule i with whom coupled holds, and then the rule in used.
func (v *viewer) meet(i int, other Set, coupled func(peer *entry) bool, used map[int]bool) {
	r := &v.rules[i]
	if len(r.Ports) == 0 || len(r.Restrictions) > 0 || v.ended(&r.Rule) {
		return
	}
	try := func(p *entry) {
		if p != v.self && (used[i] && v.peers[p] || coupled(p)) {
			v.peers[p], used[i] = true, true
		}
	}
	if r.SameOwner {
		for p := range v.owned.at(ownerKey(v.self.subject.Owner)) {
			try(p)
		}
		return
	}
	for _, id := range other.Roles {
		for p := range v.members.at(roleKey(id)) {
			try(p)
		}
	}
	for _, prefix := range other.Prefixes {
		if prefix.Bits() == 0 {
			continue // it stands beside a role that everybody has
		}
		for p := range v.within(prefix) {
			try(p)
		}
	}
	for p := range v.routers.at("") {
		try(p)
	}
}

// tell adds the rules that open nothing and only tell the application at self of a peer.
func (v *viewer) tell() {
	for _, i := range v.candidates(v.self, v.byDst, &v.byDstPrefix) {
		r := &v.rules[i]
		if len(r.App) == 0 || len(r.Ports) > 0 || len(r.Restrictions) > 0 || v.ended(&r.Rule) {
			continue
		}
		for p := range v.peers {
			if v.links(i, p, v.self) {
				v.in[i] = true
				break
			}
		}
	}
}

// couples reports whether rule i lets anything of src, own or behind its routes, open a flow to anything of dst that no lasting deny
// refuses. What a deny with an end refuses counts as allowed: what it opens when it ends must not wait for a new map.
func (c *Compiled) couples(i int, src, dst *entry) bool {
	own, routed := c.reach(i, src, dst)
	return routed || own && len(c.undenied(c.rules[i].Ports, src, dst)) > 0
}

// links is couples without a look at ports and denies.
func (c *Compiled) links(i int, src, dst *entry) bool {
	own, routed := c.reach(i, src, dst)
	return own || routed
}

// reach reports whether rule i goes from src to dst at their own addresses, and whether it does where one end is behind a route.
func (c *Compiled) reach(i int, src, dst *entry) (own, routed bool) {
	r := &c.rules[i]
	if r.SameOwner {
		return c.standsAt(src, i, r.Src, &c.bySrcPrefix)&c.standsAt(dst, i, r.Dst, &c.byDstPrefix) != 0 && r.meetsPosture(src) &&
			src.subject.Owner != "" && src.subject.Owner == dst.subject.Owner, false
	}
	var from, to, fromRoutes, toRoutes family
	if r.meetsPosture(src) {
		from = c.standsAt(src, i, r.Src, &c.bySrcPrefix)
	}
	if len(r.SrcPosture) == 0 {
		fromRoutes = c.reached(r.Src, src.subject.Routes)
		if r.anySrc {
			fromRoutes |= subnets(src.subject.Routes)
		}
	}
	if len(r.Via) == 0 {
		to = c.standsAt(dst, i, r.Dst, &c.byDstPrefix)
	}
	if len(r.Via) == 0 || shares(dst.subject.Roles, r.Via) {
		toRoutes = c.reached(r.Dst, dst.subject.Routes)
	}
	return from&to != 0, from&toRoutes != 0 || fromRoutes&(to|toRoutes) != 0
}

func (r *Rule) meetsPosture(src *entry) bool {
	return len(r.SrcPosture) == 0 || shares(src.subject.Roles, r.SrcPosture)
}

// standsAt returns the families in which the node's own addresses may stand at the end of rule i that has the set and the index.
func (c *Compiled) standsAt(e *entry, i int, s Set, index *prefixIndex) (f family) {
	if holds(s, &e.subject) {
		return e.families
	}
	for _, a := range e.subject.Addresses {
		for _, p := range index.around(a) {
			if _, found := slices.BinarySearch(index.rules[p], i); found {
				f |= familyOf(a)
			}
		}
	}
	return f
}

// undenied is what lasting denies leave of ports between two nodes' own addresses.
func (c *Compiled) undenied(ports []Ports, src, dst *entry) []Ports {
	for i := range c.denies {
		d := &c.denies[i]
		if d.Until != 0 || !holds(d.Src, &src.subject) || !holds(d.Dst, &dst.subject) || !d.meetsPosture(src) {
			continue
		}
		if !d.SameOwner || src.subject.Owner != "" && src.subject.Owner == dst.subject.Owner {
			ports = PortsWithout(ports, d.Ports)
		}
	}
	return ports
}

// holds is Set.names for the sorted roles of a Compiled.
func holds(s Set, n *Subject) bool {
	return slices.ContainsFunc(n.Roles, func(id RoleID) bool {
		_, found := slices.BinarySearch(s.Roles, id)
		return found
	})
}

// reached returns the families in which the set meets routes. A node's own address lies behind no route.
func (c *Compiled) reached(set Set, routes []netip.Prefix) (f family) {
	for _, r := range routes {
		for _, p := range set.behind(r) {
			if p.Overlaps(r) && !c.isOwn(p) {
				f |= familyOf(r.Addr())
			}
		}
	}
	return f
}

// behind are the set's prefixes that count behind a route.
func (s Set) behind(route netip.Prefix) []netip.Prefix {
	if isExit(route) {
		return s.Beyond
	}
	return s.Prefixes
}

// isOwn reports whether p is one node's own address.
func (c *Compiled) isOwn(p netip.Prefix) bool { return p.IsSingleIP() && c.taken(p.Addr()) }

// subnets returns the families of routes that are no exits.
func subnets(routes []netip.Prefix) (f family) {
	for _, r := range routes {
		if !isExit(r) {
			f |= familyOf(r.Addr())
		}
	}
	return f
}

// side is what a view's rules may mention of those who stand at one end.
type side struct {
	roles     map[RoleID]bool
	addresses []netip.Addr
	routes    []netip.Prefix
}

func newSide() side { return side{roles: map[RoleID]bool{}} }

func (s *side) add(n *Subject) {
	for _, id := range n.Roles {
		s.roles[id] = true
	}
	s.addresses = append(s.addresses, n.Addresses...)
	s.routes = append(s.routes, n.Routes...)
}

// narrow builds the view from what meet found.
func (v *viewer) narrow() View {
	self, others, mentioned := newSide(), newSide(), newSide()
	self.add(&v.self.subject)
	peers := slices.SortedFunc(maps.Keys(v.peers), func(a, b *entry) int {
		return strings.Compare(string(a.subject.Node), string(b.subject.Node))
	})
	for _, p := range peers {
		others.add(&p.subject)
	}
	var out View
	for _, i := range v.used() {
		r := v.narrowRule(i, self, others)
		mentioned.mention(&r)
		out.Rules = append(out.Rules, r)
	}
	for i := range v.denies {
		if v.ended(&v.denies[i].Rule) {
			continue
		}
		if r, concerned := v.narrowDeny(&v.denies[i], self, others); concerned && len(peers) > 0 {
			mentioned.mention(&r)
			out.Denies = append(out.Denies, r)
		}
	}
	out.Self = mentioned.cut(v.self.subject)
	out.Self.Routes = v.self.subject.Routes
	for _, p := range peers {
		out.Peers = append(out.Peers, mentioned.cut(p.subject))
	}
	return out
}

// used lists the rules the view needs, in order.
func (v *viewer) used() []int {
	rules := slices.AppendSeq(slices.Collect(maps.Keys(v.out)), maps.Keys(v.in))
	slices.Sort(rules)
	return slices.Compact(rules)
}

// narrowRule returns rule i without the roles and prefixes that are neither self's at self's end nor a peer's at the other. What is for the
// application at the destination is for nobody else to read.
func (v *viewer) narrowRule(i int, self, others side) Rule {
	r := v.rules[i]
	var src, dst []side
	if v.out[i] {
		src, dst = append(src, self), append(dst, others)
	}
	if v.in[i] {
		src, dst = append(src, others), append(dst, self)
	} else {
		r.App = nil
	}
	r.Via = narrowRoles(r.Via, dst)
	r.SrcPosture = narrowRoles(r.SrcPosture, src)
	r.Src, r.Dst = v.narrowSet(r.Src, src, r.anySrc), v.narrowSet(r.Dst, dst, false)
	return r.Rule
}

// narrowRoles keeps of roles those that sides have, or all where that is none: an empty list would demand nothing.
func narrowRoles(roles []RoleID, sides []side) []RoleID {
	kept := slices.DeleteFunc(slices.Clone(roles), func(id RoleID) bool {
		return !slices.ContainsFunc(sides, func(s side) bool { return s.roles[id] })
	})
	if len(kept) == 0 {
		return roles
	}
	return kept
}

// narrowDeny returns a deny without what is neither self's at one end nor a peer's at the other, and whether it concerns any two of them. A
// deny about others is theirs to know.
func (v *viewer) narrowDeny(d *compiledRule, self, others side) (Rule, bool) {
	r := d.Rule
	r.SrcPosture = narrowRoles(r.SrcPosture, []side{self, others})
	r.Src, r.Dst = Set{}, Set{}
	for _, ends := range [][2]side{{self, others}, {others, self}} {
		src, dst := v.narrowEnd(d.Src, ends[:1], d.anySrc, true), v.narrowEnd(d.Dst, ends[1:], false, true)
		if !src.isEmpty() && !dst.isEmpty() {
			r.Src, r.Dst = r.Src.union(src), r.Dst.union(dst)
		}
	}
	return r, !r.Src.isEmpty()
}

func (s Set) union(o Set) Set {
	roles := slices.Concat(s.Roles, o.Roles)
	slices.Sort(roles)
	return Set{
		Roles:    slices.Compact(roles),
		Prefixes: sortPrefixes(slices.Concat(s.Prefixes, o.Prefixes)),
		Beyond:   sortPrefixes(slices.Concat(s.Beyond, o.Beyond)),
	}
}

func (s Set) isEmpty() bool { return len(s.Roles)+len(s.Prefixes)+len(s.Beyond) == 0 }

// narrowSet keeps of a rule's set what sides have.
func (v *viewer) narrowSet(set Set, sides []side, anySrc bool) Set {
	return v.narrowEnd(set, sides, anySrc, false)
}

// narrowEnd keeps of set what sides have. Prefixes around a node's own address stay as they are; others shrink to the routes they meet.
// anySrc adds the sides' routes but exits. A node's own address lies behind no route, but in a deny it stays all the same: the node may
// have another way there.
func (v *viewer) narrowEnd(set Set, sides []side, anySrc, deny bool) (out Set) {
	for _, id := range set.Roles {
		if slices.ContainsFunc(sides, func(s side) bool { return s.roles[id] }) {
			out.Roles = append(out.Roles, id)
		}
	}
	for _, s := range sides {
		out.Prefixes = append(out.Prefixes, holding(set.Prefixes, s.addresses)...)
		for _, route := range s.routes {
			if anySrc && !isExit(route) {
				out.Prefixes = append(out.Prefixes, route)
			}
			for _, p := range set.behind(route) {
				met, ok := meetPrefixes(p, route)
				switch {
				case !ok || !deny && v.isOwn(met):
				case isExit(route):
					out.Beyond = append(out.Beyond, met)
				default:
					out.Prefixes = append(out.Prefixes, met)
				}
			}
		}
	}
	out.Prefixes, out.Beyond = sortPrefixes(out.Prefixes), sortPrefixes(out.Beyond)
	return out
}

// holding lists the prefixes, but those of everything, that one of addresses lies in. Many prefixes are looked through by way of an index.
func holding(prefixes []netip.Prefix, addresses []netip.Addr) (out []netip.Prefix) {
	if len(prefixes) <= 16 {
		for _, p := range prefixes {
			if p.Bits() > 0 && slices.ContainsFunc(addresses, p.Contains) {
				out = append(out, p)
			}
		}
		return out
	}
	var x prefixIndex
	x.add(slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return p.Bits() == 0 }), 0)
	for _, a := range addresses {
		out = append(out, x.around(a)...)
	}
	return out
}

func overlapsAny(p netip.Prefix, list []netip.Prefix) bool {
	return slices.ContainsFunc(list, p.Overlaps)
}

// meetPrefixes returns what two prefixes have in common: the longer of them.
func meetPrefixes(a, b netip.Prefix) (netip.Prefix, bool) {
	if a.Bits() < b.Bits() {
		a, b = b, a
	}
	return a, a.Overlaps(b)
}

func (s *side) mention(r *Rule) {
	for _, id := range slices.Concat(r.Src.Roles, r.Dst.Roles, r.SrcPosture, r.Via) {
		s.roles[id] = true
	}
	s.routes = append(s.routes, slices.Concat(r.Src.Prefixes, r.Src.Beyond, r.Dst.Prefixes, r.Dst.Beyond)...)
}

// cut returns n without roles and routes that s does not mention.
func (s *side) cut(n Subject) Subject {
	n.Roles = slices.DeleteFunc(slices.Clone(n.Roles), func(id RoleID) bool { return !s.roles[id] })
	n.Routes = slices.DeleteFunc(slices.Clone(n.Routes), func(r netip.Prefix) bool { return !overlapsAny(r, s.routes) })
	return n
}
