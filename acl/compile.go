package acl

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Compiled is a policy joined with a directory. It is read-only and safe for concurrent use.
//
// It is kept as indexes, so that a View costs by the node's own rules and peers: rules by the roles at their ends, nodes by role, by
// owner and by address, and apart the few nodes that serve routes.
type Compiled struct {
	rules    []compiledRule
	subjects []Subject // by node id
	families []family  // of subjects' addresses
	index    map[NodeID]int
	members  map[RoleID][]int // subjects, ascending
	owned    map[UserID][]int // untagged subjects
	taken    map[netip.Addr]bool
	routers  []int            // subjects with routes
	bySrc    map[RoleID][]int // rules, ascending
	byDst    map[RoleID][]int
	prefixed []int // rules that may match an address behind a route
	whole    *Ruleset
}

// compiledRule is a Rule whose "*" as source is not yet spelled out as routes.
type compiledRule struct {
	Rule
	anySrc bool // Src holds every approved route that is no exit
}

// family is a set of address families.
type family uint8

const (
	family4 family = 1 << iota
	family6
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return family4
	}
	return family6
}

// Compile joins a policy with a directory. salt makes role ids unguessable and must stay the same for the life of a network.
// It fails only when two selectors' role ids collide. Neither p, d nor salt is kept or changed.
func Compile(p *Policy, d *Directory, salt []byte) (*Compiled, error) {
	return compile(p, d, func(key string) RoleID { return newRoleID(salt, key) })
}

func compile(p *Policy, d *Directory, id func(string) RoleID) (*Compiled, error) {
	book := newRoleBook(p, d.Users, id)
	c := &Compiled{
		index: make(map[NodeID]int, len(d.Nodes)), members: map[RoleID][]int{}, owned: map[UserID][]int{}, taken: map[netip.Addr]bool{},
		bySrc: map[RoleID][]int{}, byDst: map[RoleID][]int{},
	}
	for _, s := range p.rules {
		if err := c.addStatement(s, book); err != nil {
			return nil, err
		}
	}
	c.indexRules()
	c.addNodes(d.Nodes, book)
	c.whole = c.spellOut()
	return c, nil
}

// addStatement appends the rules of one entry: one a target, and one more for autogroup:self in it.
func (c *Compiled) addStatement(s statement, book *roleBook) error {
	src, anySrc, err := setOf(s.src, book)
	if err != nil {
		return err
	}
	for _, t := range s.targets {
		others := slices.DeleteFunc(slices.Clone(t.dst), func(s selector) bool { return s.kind == kindSelf })
		dst, anyDst, err := setOf(others, book)
		if err != nil {
			return err
		}
		if anyDst {
			dst.Prefixes = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
		}
		if len(others) > 0 {
			c.rules = append(c.rules, compiledRule{Rule{Ref: s.ref, Src: src, Dst: dst, Ports: t.ports}, anySrc})
		}
		if len(others) == len(t.dst) {
			continue
		}
		member, err := book.role(selector{kind: kindMember, text: "autogroup:member"})
		if err != nil {
			return err
		}
		self := Rule{Ref: s.ref, Src: src, Dst: Set{Roles: []RoleID{member}}, Ports: t.ports, SameOwner: true}
		c.rules = append(c.rules, compiledRule{Rule: self})
	}
	return nil
}

// setOf turns selectors into roles and prefixes, both sorted; any reports "*".
func setOf(sels []selector, book *roleBook) (set Set, any bool, err error) {
	for _, s := range sels {
		id, err := book.role(s)
		if err != nil {
			return Set{}, false, err
		}
		set.Roles = append(set.Roles, id)
		if s.kind == kindPrefix {
			set.Prefixes = append(set.Prefixes, s.prefix)
		}
		any = any || s.kind == kindAny
	}
	slices.Sort(set.Roles)
	set.Prefixes = sortPrefixes(set.Prefixes)
	return set, any, nil
}

// sortPrefixes puts prefixes in order, each once, in place.
func sortPrefixes(p []netip.Prefix) []netip.Prefix {
	slices.SortFunc(p, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(p)
}

func (c *Compiled) indexRules() {
	for i, r := range c.rules {
		for _, id := range r.Src.Roles {
			c.bySrc[id] = append(c.bySrc[id], i)
		}
		for _, id := range r.Dst.Roles {
			c.byDst[id] = append(c.byDst[id], i)
		}
		if r.anySrc || len(r.Src.Prefixes)+len(r.Dst.Prefixes) > 0 {
			c.prefixed = append(c.prefixed, i)
		}
	}
}

// addNodes indexes the directory's nodes, by id.
func (c *Compiled) addNodes(nodes []Node, book *roleBook) {
	order := make([]*Node, len(nodes))
	for i := range nodes {
		order[i] = &nodes[i]
	}
	slices.SortFunc(order, func(a, b *Node) int { return strings.Compare(string(a.ID), string(b.ID)) })
	for _, n := range order {
		c.addNode(n, book)
	}
}

func (c *Compiled) addNode(n *Node, book *roleBook) {
	s := Subject{
		Node:      n.ID,
		Addresses: slices.DeleteFunc(slices.Clone(n.Addresses), func(a netip.Addr) bool { return !plainAddr(a) }),
		Routes:    slices.DeleteFunc(slices.Clone(n.Routes), func(p netip.Prefix) bool { return !plainPrefix(p) }),
		Roles:     book.rolesOf(n),
	}
	if len(n.Tags) == 0 {
		s.Owner = n.Owner
	}
	i := len(c.subjects)
	c.subjects = append(c.subjects, s)
	c.index[n.ID] = i
	c.families = append(c.families, 0)
	for _, a := range s.Addresses {
		c.families[i] |= familyOf(a)
		c.taken[a] = true
	}
	for _, id := range s.Roles {
		c.members[id] = append(c.members[id], i)
	}
	if s.Owner != "" {
		c.owned[s.Owner] = append(c.owned[s.Owner], i)
	}
	if len(s.Routes) > 0 {
		c.routers = append(c.routers, i)
	}
}

// plainAddr reports whether a is in the one form that addresses are compared in.
func plainAddr(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }

// plainPrefix is plainAddr for prefixes; no bits may be set behind the mask.
func plainPrefix(p netip.Prefix) bool { return p.IsValid() && !p.Addr().Is4In6() && p == p.Masked() }

// isExit tells an exit node's route from a subnet's.
func isExit(p netip.Prefix) bool { return p.Bits() == 0 }

// spellOut builds the whole network's ruleset. "*" as source becomes the approved routes but exits: what lies beyond an exit node is
// the whole internet, and nobody there may open a flow because a policy says "*".
func (c *Compiled) spellOut() *Ruleset {
	var routes []netip.Prefix
	for _, i := range c.routers {
		routes = append(routes, c.subjects[i].Routes...)
	}
	routes = sortPrefixes(slices.DeleteFunc(routes, isExit))
	rs := &Ruleset{Rules: make([]Rule, len(c.rules)), Subjects: c.subjects}
	for i, r := range c.rules {
		rs.Rules[i] = r.Rule
		if r.anySrc {
			rs.Rules[i].Src.Prefixes = sortPrefixes(append(slices.Clone(r.Src.Prefixes), routes...))
		}
	}
	return rs
}

// Ruleset is the whole network's. Its slices are shared: do not change them.
func (c *Compiled) Ruleset() *Ruleset { return c.whole }
