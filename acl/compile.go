package acl

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
)

// Compiled is a policy joined with a directory. It is read-only and safe for concurrent use.
//
// It is kept as indexes, so that a View costs by the node's own rules and peers, and Update by those of the nodes that changed: a program
// made of the policy, rules by the roles at their ends; and a population made of the nodes, by role, by owner, by address and by route.
type Compiled struct {
	*program
	*population
	at       int64      // Unix milliseconds: what has ended by then is in no View
	updating sync.Mutex // Update makes copies of the population
	spelling sync.Once
	whole    *Ruleset // by spelling
}

// program is the policy's side of a Compiled. It holds for every directory with the same users.
type program struct {
	book    *roleBook
	overlay []netip.Prefix
	rules   []compiledRule
	denies  []compiledRule
	bySrc   map[RoleID][]int // rules, ascending
	byDst   map[RoleID][]int
	// routed are the rules that may match an address behind a route, bySrcPrefix and byDstPrefix those that may match a node's own.
	routed                   []int
	bySrcPrefix, byDstPrefix prefixIndex
	singles                  map[netip.Addr]bool // addresses that rules name alone
	outside                  []netip.Prefix      // all that may lie beyond an exit node
	ends                     []int64             // when rules and denies end, in Unix milliseconds, ascending, each once
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
	c := &Compiled{
		program: &program{
			book: newRoleBook(p, d.Users, id), bySrc: map[RoleID][]int{}, byDst: map[RoleID][]int{}, singles: map[netip.Addr]bool{},
			overlay: slices.Clone(d.Overlay), outside: outside(d.Overlay),
		},
		population: newPopulation(), at: never,
	}
	for _, s := range p.rules {
		if err := c.addStatement(s, &c.rules); err != nil {
			return nil, err
		}
	}
	for _, s := range p.denies {
		if err := c.addStatement(s, &c.denies); err != nil {
			return nil, err
		}
	}
	c.indexRules()
	c.noteEnds()
	// In no order: an index that is filled in order has half-full nodes, and nothing leaves such a one without its neighbour being copied too.
	for _, i := range rand.New(rand.NewPCG(0, 0)).Perm(len(d.Nodes)) {
		c.put(c.entryOf(&d.Nodes[i]))
	}
	return c, nil
}

// addStatement appends the rules of one entry to list: one a target, and one more for autogroup:self in it.
func (g *program) addStatement(s statement, list *[]compiledRule) error {
	rule := Rule{Ref: s.ref, App: s.app, Postures: s.postures, Reason: s.reason, Log: s.log, Until: s.until, Restrictions: s.restrictions}
	src, err := g.setOf(s.src, s.deny)
	rule.Src = src.Set
	if err == nil {
		rule.SrcPosture, err = g.book.roles(s.postures)
	}
	if err == nil {
		rule.Via, err = g.book.roles(s.via)
	}
	if err != nil {
		return err
	}
	for _, t := range s.targets {
		others := slices.DeleteFunc(slices.Clone(t.dst), func(s selector) bool { return s.kind == kindSelf })
		dst, err := g.setOf(others, s.deny)
		if err != nil {
			return err
		}
		if dst.any && !s.deny && len(s.via) == 0 { // a way to everything is a way to nothing in particular, as in Tailscale
			dst.Prefixes, dst.Beyond = everyPrefix(), g.outside
		}
		r := rule
		r.Dst, r.Ports = dst.Set, t.ports
		if len(others) > 0 {
			*list = append(*list, compiledRule{r, src.any})
		}
		if len(others) == len(t.dst) || len(s.via) > 0 {
			continue
		}
		member, err := g.book.role(keyFor(selector{kind: kindMember, text: "autogroup:member"}, s.deny))
		if err != nil {
			return err
		}
		r.Dst, r.Src.Prefixes, r.Src.Beyond, r.SameOwner = Set{Roles: []RoleID{member}}, nil, nil, true
		*list = append(*list, compiledRule{Rule: r})
	}
	return nil
}

func everyPrefix() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// selected is a Set in the making; any reports "*".
type selected struct {
	Set
	any bool
}

// setOf turns selectors into roles and prefixes, both sorted. What names an address names that address only, as in Tailscale's files; but in
// a deny it names the node that has it, at all its addresses: whoever writes one means to shut the node out. And what a deny names is
// refused wherever it lies, beyond exit nodes as well.
func (g *program) setOf(sels []selector, deny bool) (out selected, err error) {
	for _, s := range sels {
		var id RoleID
		switch {
		case s.kind == kindInternet:
			out.Beyond = append(out.Beyond, g.internet(deny)...)
			continue
		case s.kind == kindPrefix && !deny:
			out.Prefixes = append(out.Prefixes, s.prefix)
			continue
		case s.kind == kindPrefix:
			out.Prefixes, out.Beyond = append(out.Prefixes, s.prefix), append(out.Beyond, s.prefix)
			id, err = g.book.network(s.prefix)
		default:
			id, err = g.book.role(keyFor(s, deny))
		}
		if err != nil {
			return out, err
		}
		out.Roles = append(out.Roles, id)
		switch {
		case s.kind == kindDangerAll && !deny:
			out.Prefixes, out.Beyond = append(out.Prefixes, everyPrefix()...), append(out.Beyond, g.outside...)
		case s.kind == kindDangerAll || s.kind == kindAny && deny:
			out.Prefixes, out.Beyond = append(out.Prefixes, everyPrefix()...), append(out.Beyond, everyPrefix()...)
		case s.kind == kindAny:
			out.any = true
		}
	}
	slices.Sort(out.Roles)
	out.Roles = slices.Compact(out.Roles)
	out.Prefixes, out.Beyond = sortPrefixes(out.Prefixes), sortPrefixes(out.Beyond)
	return out, nil
}

// internet is what autogroup:internet names: in grants without the overlay, which no exit node is a way to.
func (g *program) internet(deny bool) []netip.Prefix {
	if deny || len(g.overlay) == 0 {
		return internet
	}
	var out []netip.Prefix
	for _, p := range internet {
		out = append(out, cover(p, g.overlay...)...)
	}
	return out
}

// sortPrefixes puts prefixes in order, each once, in place.
func sortPrefixes(p []netip.Prefix) []netip.Prefix {
	slices.SortFunc(p, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(p)
}

func (g *program) indexRules() {
	for i, r := range g.rules {
		for _, id := range r.Src.Roles {
			g.bySrc[id] = append(g.bySrc[id], i)
		}
		for _, id := range r.Dst.Roles {
			g.byDst[id] = append(g.byDst[id], i)
		}
		g.bySrcPrefix.add(r.Src.Prefixes, i)
		g.byDstPrefix.add(r.Dst.Prefixes, i)
		if r.anySrc || !r.Src.isAtNodes() || !r.Dst.isAtNodes() {
			g.routed = append(g.routed, i)
		}
	}
	for _, list := range [][]compiledRule{g.rules, g.denies} {
		for i := range list {
			g.noteSingles(list[i].Src)
			g.noteSingles(list[i].Dst)
		}
	}
}

func (g *program) noteSingles(s Set) {
	for _, prefixes := range [][]netip.Prefix{s.Prefixes, s.Beyond} {
		for _, p := range prefixes {
			if p.IsSingleIP() {
				g.singles[p.Addr()] = true
			}
		}
	}
}

// isAtNodes reports whether the set matches nodes' own addresses only.
func (s Set) isAtNodes() bool { return len(s.Prefixes)+len(s.Beyond) == 0 }

// prefixIndex finds the rules whose prefixes an address lies in.
type prefixIndex struct {
	rules map[netip.Prefix][]int
	bits4 []int // lengths that occur
	bits6 []int
}

func (x *prefixIndex) add(prefixes []netip.Prefix, rule int) {
	for _, p := range prefixes {
		if x.rules == nil {
			x.rules = map[netip.Prefix][]int{}
		}
		x.rules[p] = append(x.rules[p], rule)
		bits := &x.bits6
		if p.Addr().Is4() {
			bits = &x.bits4
		}
		if !slices.Contains(*bits, p.Bits()) {
			*bits = append(*bits, p.Bits())
		}
	}
}

// around lists the prefixes that a lies in.
func (x *prefixIndex) around(a netip.Addr) (out []netip.Prefix) {
	bits := x.bits6
	if a.Is4() {
		bits = x.bits4
	}
	for _, n := range bits {
		if p, err := a.Prefix(n); err == nil && len(x.rules[p]) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// plainAddr reports whether a is in the one form that addresses are compared in.
func plainAddr(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }

// plainPrefix is plainAddr for prefixes; no bits may be set behind the mask.
func plainPrefix(p netip.Prefix) bool { return p.IsValid() && !p.Addr().Is4In6() && p == p.Masked() }

// isExit tells an exit node's route from a subnet's.
func isExit(p netip.Prefix) bool { return p.Bits() == 0 }

// Ruleset is the whole network's, spelled out when first asked for. Its slices are shared: do not change them.
func (c *Compiled) Ruleset() *Ruleset {
	c.spelling.Do(func() { c.whole = c.spellOut() })
	return c.whole
}

// spellOut builds the whole network's ruleset. "*" as source becomes the approved routes but exits: what lies beyond an exit node is
// the whole internet, and nobody there may open a flow because a policy says "*".
func (c *Compiled) spellOut() *Ruleset {
	rs := &Ruleset{}
	var routes []netip.Prefix
	for e := range c.everybody() {
		rs.Subjects = append(rs.Subjects, e.subject)
		routes = append(routes, e.subject.Routes...)
	}
	routes = sortPrefixes(slices.DeleteFunc(routes, isExit))
	spell := func(list []compiledRule) []Rule {
		out := make([]Rule, len(list))
		for i, r := range list {
			out[i] = r.Rule
			if r.anySrc {
				out[i].Src.Prefixes = sortPrefixes(append(slices.Clone(r.Src.Prefixes), routes...))
			}
		}
		return out
	}
	rs.Rules, rs.Denies = spell(c.rules), spell(c.denies)
	return rs
}
