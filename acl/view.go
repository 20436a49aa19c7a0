package acl

import (
	"net/netip"
	"slices"
)

// View is what one node may know: itself, the peers it has a permitted flow with, and the rules between them, narrowed to them.
type View struct {
	Self  Subject
	Peers []Subject // by node id
	Rules []Rule    // in the file's order
}

// Ruleset is the view as one ruleset, self included among the subjects. It judges flows that have self, or what lies behind its routes, at
// one end as the whole network's ruleset does. Flows between two peers it need not know.
func (v View) Ruleset() *Ruleset {
	subjects := make([]Subject, 0, len(v.Peers)+1)
	return &Ruleset{Rules: v.Rules, Subjects: append(append(subjects, v.Self), v.Peers...)}
}

// viewer computes one view, in three steps: which rules may let self open a flow (out) or take one (in), and who is at their other ends;
// those rules without what is neither self's nor a peer's; the peers without roles and routes that no remaining rule mentions.
type viewer struct {
	*Compiled
	self  int
	peers map[int]bool
	out   map[int]bool // rules by which self may open flows to somebody
	in    map[int]bool
}

// View computes node's view; false when the directory has no such node. The result is the caller's own, but for its innermost slices,
// which are shared and must not be changed.
func (c *Compiled) View(node NodeID) (View, bool) {
	self, ok := c.index[node]
	if !ok {
		return View{}, false
	}
	v := &viewer{Compiled: c, self: self, peers: map[int]bool{}, out: map[int]bool{}, in: map[int]bool{}}
	for _, i := range c.candidates(self, c.bySrc) {
		v.meet(i, c.rules[i].Dst, func(peer int) bool { return c.couples(i, self, peer) }, v.out)
	}
	for _, i := range c.candidates(self, c.byDst) {
		v.meet(i, c.rules[i].Src, func(peer int) bool { return c.couples(i, peer, self) }, v.in)
	}
	return v.narrow(), true
}

// candidates lists the rules at whose end, as by indexes it, the subject may stand.
func (c *Compiled) candidates(subject int, by map[RoleID][]int) (rules []int) {
	s := &c.subjects[subject]
	for _, id := range s.Roles {
		rules = append(rules, by[id]...)
	}
	if len(s.Routes) > 0 {
		rules = append(rules, c.prefixed...)
	}
	slices.Sort(rules)
	return slices.Compact(rules)
}

// meet notes as peers those at the other end of rule i with whom coupled holds, and then the rule in used.
func (v *viewer) meet(i int, other Set, coupled func(peer int) bool, used map[int]bool) {
	r := &v.rules[i]
	try := func(peers []int) {
		for _, p := range peers {
			if p != v.self && (used[i] && v.peers[p] || coupled(p)) {
				v.peers[p], used[i] = true, true
			}
		}
	}
	if r.SameOwner {
		try(v.owned[v.subjects[v.self].Owner])
		return
	}
	for _, id := range other.Roles {
		try(v.members[id])
	}
	try(v.routers)
}

// couples reports whether rule i lets anything of src, own or behind its routes, open a flow to anything of dst.
func (c *Compiled) couples(i, src, dst int) bool {
	r, a, b := &c.rules[i], &c.subjects[src], &c.subjects[dst]
	if len(r.Restrictions) > 0 {
		return false
	}
	from, to := family(0), family(0)
	if holds(r.Src, a) {
		from = c.families[src]
	}
	if holds(r.Dst, b) {
		to = c.families[dst]
	}
	if r.SameOwner {
		return from&to != 0 && a.Owner != "" && a.Owner == b.Owner
	}
	from |= c.reached(r.Src.Prefixes, a.Routes)
	to |= c.reached(r.Dst.Prefixes, b.Routes)
	if r.anySrc {
		from |= subnets(a.Routes)
	}
	return from&to != 0
}

// holds is Set.names for the sorted roles of a Compiled.
func holds(s Set, n *Subject) bool {
	return slices.ContainsFunc(n.Roles, func(id RoleID) bool {
		_, found := slices.BinarySearch(s.Roles, id)
		return found
	})
}

// reached returns the families in which prefixes meet routes. A node's own address lies behind no route.
func (c *Compiled) reached(prefixes, routes []netip.Prefix) (f family) {
	for _, r := range routes {
		for _, p := range prefixes {
			if p.Overlaps(r) && !c.isOwn(p) {
				f |= familyOf(r.Addr())
			}
		}
	}
	return f
}

// isOwn reports whether p is one node's own address.
func (c *Compiled) isOwn(p netip.Prefix) bool { return p.IsSingleIP() && c.taken[p.Addr()] }

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
	roles  map[RoleID]bool
	routes []netip.Prefix
}

func (s *side) add(n *Subject) {
	for _, id := range n.Roles {
		s.roles[id] = true
	}
	s.routes = append(s.routes, n.Routes...)
}

// narrow builds the view from what meet found.
func (v *viewer) narrow() View {
	self, others := side{roles: map[RoleID]bool{}}, side{roles: map[RoleID]bool{}}
	self.add(&v.subjects[v.self])
	peers := make([]int, 0, len(v.peers))
	for p := range v.peers {
		others.add(&v.subjects[p])
		peers = append(peers, p)
	}
	slices.Sort(peers)
	var out View
	mentioned := side{roles: map[RoleID]bool{}}
	for _, i := range v.used() {
		r := v.narrowRule(i, self, others)
		mentioned.mention(r.Src)
		mentioned.mention(r.Dst)
		out.Rules = append(out.Rules, r)
	}
	out.Self = mentioned.cut(v.subjects[v.self])
	out.Self.Routes = v.subjects[v.self].Routes
	for _, p := range peers {
		out.Peers = append(out.Peers, mentioned.cut(v.subjects[p]))
	}
	return out
}

// used lists the rules the view needs, in order.
func (v *viewer) used() []int {
	rules := make([]int, 0, len(v.out)+len(v.in))
	for i := range v.out {
		rules = append(rules, i)
	}
	for i := range v.in {
		rules = append(rules, i)
	}
	slices.Sort(rules)
	return slices.Compact(rules)
}

// narrowRule returns rule i without the roles and prefixes that are neither self's at self's end nor a peer's at the other.
func (v *viewer) narrowRule(i int, self, others side) Rule {
	r := v.rules[i]
	var src, dst []side
	if v.out[i] {
		src, dst = append(src, self), append(dst, others)
	}
	if v.in[i] {
		src, dst = append(src, others), append(dst, self)
	}
	r.Src, r.Dst = v.narrowSet(r.Src, src, r.anySrc), v.narrowSet(r.Dst, dst, false)
	return r.Rule
}

// narrowSet keeps of set what sides have. Prefixes shrink to the routes they meet; anySrc adds the sides' routes but exits.
func (v *viewer) narrowSet(set Set, sides []side, anySrc bool) (out Set) {
	for _, id := range set.Roles {
		if slices.ContainsFunc(sides, func(s side) bool { return s.roles[id] }) {
			out.Roles = append(out.Roles, id)
		}
	}
	for _, s := range sides {
		for _, route := range s.routes {
			if anySrc && !isExit(route) {
				out.Prefixes = append(out.Prefixes, route)
			}
			for _, p := range set.Prefixes {
				if met, ok := meetPrefixes(p, route); ok && !v.isOwn(met) {
					out.Prefixes = append(out.Prefixes, met)
				}
			}
		}
	}
	out.Prefixes = sortPrefixes(out.Prefixes)
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

func (s *side) mention(set Set) {
	for _, id := range set.Roles {
		s.roles[id] = true
	}
	s.routes = append(s.routes, set.Prefixes...)
}

// cut returns n without roles and routes that s does not mention.
func (s *side) cut(n Subject) Subject {
	n.Roles = slices.DeleteFunc(slices.Clone(n.Roles), func(id RoleID) bool { return !s.roles[id] })
	n.Routes = slices.DeleteFunc(slices.Clone(n.Routes), func(r netip.Prefix) bool { return !overlapsAny(r, s.routes) })
	return n
}
