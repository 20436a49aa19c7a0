package review

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"picket.internal/acl"
)

// namer says who a set of places is, in the words of one policy where they fit.
type namer struct {
	*world
	at        [2]map[string]bits // by selector, what it names at either end
	whole     map[string]bits    // all places, by identity
	listNodes bool
	common    []string // selectors of both, those that name most first
}

// newNamer has the compiler say what each selector of s, and of extra, names. When it cannot, as when the names alone are more than a
// policy may hold, sets are spelled out.
func newNamer(s *Source, d *acl.Directory, w *world, extra ...string) *namer {
	n := &namer{world: w, at: [2]map[string]bits{{}, {}}}
	from, to := s.selectors()
	from = sortedSet(append(from, "autogroup:member", "autogroup:tagged"), groupsOf(s), extra)
	to = sortedSet(append(to, "autogroup:member", "autogroup:tagged", "autogroup:internet"), groupsOf(s), extra)
	m, err := selectorMatcher(s, d, from, to)
	if err != nil {
		return n
	}
	n.note(m, from, to)
	return n
}

func sortedSet(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

func groupsOf(s *Source) (out []string) {
	for name := range members(s.sections["groups"]) {
		out = append(out, name)
	}
	return out
}

// selectorMatcher compiles a rule for each selector: first those at src, then those at dst.
func selectorMatcher(s *Source, d *acl.Directory, from, to []string) (*matcher, error) {
	text, err := s.definitions(from, to)
	if err != nil {
		return nil, err
	}
	p, err := acl.Parse(text)
	if err != nil {
		return nil, err
	}
	c, err := acl.Compile(p, d, nil)
	if err != nil {
		return nil, err
	}
	rs := c.Ruleset()
	return newMatcher(rs.Rules, rs.Subjects, true, func(*acl.Rule) bool { return false }), nil
}

func (n *namer) note(m *matcher, from, to []string) {
	at := [2][]bits{m.where(n.world, src), m.where(n.world, dst)}
	for i, s := range from {
		n.at[src][s] = at[src][i]
	}
	for i, s := range to {
		n.at[dst][s] = at[dst][len(from)+i]
	}
	size := map[string]int{}
	for _, s := range sortedSet(from, to) {
		if m := n.at[src][s]; m != nil {
			size[s] = m.count()
		} else {
			size[s] = n.at[dst][s].count()
		}
		if size[s] > 0 {
			n.common = append(n.common, s)
		}
	}
	slices.SortStableFunc(n.common, func(a, b string) int { return cmp.Compare(size[b], size[a]) })
}

// Party is who stands at one end of a line.
type Party struct {
	Name  string   `json:"name"`            // a selector, a login, tags, a node, a network
	Nodes []string `json:"nodes,omitempty"` // what its nodes are called, where that was asked for
}

// plainly is how many users or tags a set may have before groups are sought that fit it.
const plainly = 3

// name lists who is in a set of places that stand at one end of a rule, which calls them by hints.
func (n *namer) name(set bits, end int, hints []string) (out []Party) {
	rest := set.clone()
	take := func(s string, least int) {
		m := n.at[end][s]
		if m == nil || m.empty() || !m.within(set) || rest.and(m).empty() {
			return
		}
		if least > 1 && len(n.identities(rest.and(m))) < least {
			return
		}
		out, rest = append(out, n.party(visible(s), m)), rest.minus(m)
	}
	for _, s := range hints {
		take(s, 1)
	}
	if len(n.identities(rest)) > plainly {
		for _, s := range n.common {
			take(s, 2)
		}
	}
	return append(out, n.spellOut(rest, set)...)
}

// networkText is a network, or the address where it is one.
func networkText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// beyondExits is whose the addresses are that only an exit node leads to.
const beyondExits = "beyond exit nodes"

// identities groups places by whose they are.
func (n *namer) identities(set bits) map[string]bits {
	out := map[string]bits{}
	for i := range set.all() {
		id := n.identity(n.places[i])
		if out[id] == nil {
			out[id] = newBits(len(n.places))
		}
		out[id].set(i)
	}
	return out
}

// identity is whose a place is: a login, tags, or what is nobody's.
func (w *world) identity(p *place) string {
	switch {
	case p.node == "" && p.beyond:
		return beyondExits
	case p.node == "":
		return networkText(p.prefix)
	}
	return cmp.Or(w.whose[p.node], "node "+w.names[p.node])
}

// spellOut names what is left of a set by whose it is, or one by one where not all that is somebody's is in the set.
func (n *namer) spellOut(rest, set bits) (out []Party) {
	if rest.empty() {
		return nil
	}
	for id, part := range n.identities(rest) {
		routed := n.places[first(part)].node == ""
		switch {
		case routed && id != beyondExits:
			for _, name := range n.network(part, set) {
				out = append(out, Party{Name: name})
			}
		case n.everything()[id].within(set):
			out = append(out, n.party(id, part))
		default:
			for i := range part.all() {
				one := newBits(len(n.places))
				one.set(i)
				out = append(out, n.party(n.single(n.places[i], id), one))
			}
		}
	}
	slices.SortFunc(out, compareParties)
	return slices.CompactFunc(out, func(a, b Party) bool { return a.Name == b.Name && slices.Equal(a.Nodes, b.Nodes) })
}

func compareParties(a, b Party) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), slices.Compare(a.Nodes, b.Nodes))
}

func (n *namer) party(name string, set bits) Party {
	p := Party{Name: name}
	if n.listNodes {
		for i := range set.all() {
			if id := n.places[i].node; id != "" {
				p.Nodes = append(p.Nodes, n.names[id])
			}
		}
		slices.Sort(p.Nodes)
	}
	return p
}

func first(b bits) int {
	for i := range b.all() {
		return i
	}
	return 0
}

func (n *namer) everything() map[string]bits {
	if n.whole == nil {
		all := newBits(len(n.places))
		for i := range n.places {
			all.set(i)
		}
		n.whole = n.identities(all)
	}
	return n.whole
}

// network names an address range behind routers, unless a wider one that is in the set whole stands for it.
func (n *namer) network(part, set bits) []string {
	p := n.places[first(part)]
	complete := true
	for i, q := range n.places {
		if q.node != "" || q.beyond || q == p {
			continue
		}
		inside := p.prefix.Bits() < q.prefix.Bits() && p.prefix.Contains(q.prefix.Addr())
		around := q.prefix.Bits() < p.prefix.Bits() && q.prefix.Contains(p.prefix.Addr())
		if inside && !set.has(i) {
			complete = false
		}
		if around && set.has(i) && n.holdsAll(q, set) {
			return nil
		}
	}
	if complete {
		return []string{networkText(p.prefix)}
	}
	return []string{"the rest of " + p.prefix.String()}
}

// holdsAll reports whether every place inside p's prefix is in the set.
func (n *namer) holdsAll(p *place, set bits) bool {
	for i, q := range n.places {
		if q.node == "" && !q.beyond && p.prefix.Bits() <= q.prefix.Bits() && p.prefix.Contains(q.prefix.Addr()) && !set.has(i) {
			return false
		}
	}
	return true
}

func (n *namer) single(p *place, id string) string {
	if p.node == "" {
		return p.prefix.String() + " beyond exit nodes"
	}
	name := n.names[p.node]
	if strings.HasPrefix(id, "node ") {
		return id
	}
	return fmt.Sprintf("%s (%s)", name, id)
}

// nodes counts the nodes in a set.
func (w *world) nodes(set bits) (count int) {
	for i := range set.all() {
		if w.places[i].node != "" {
			count++
		}
	}
	return count
}
