package review

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"picket.internal/acl"
)

// place is where flows begin and end: a node, at its own addresses, or addresses that lie behind one set of routers and that no rule
// tells apart.
type place struct {
	node      acl.NodeID   // "" for addresses behind routers
	owner     acl.UserID   // of an untagged node
	addresses []netip.Addr // the node's, or one that stands for all
	prefix    netip.Prefix // behind routers: what it is part of
	beyond    bool         // the routers are exit nodes
	routers   []acl.NodeID
}

// world is the places of one directory, in which rulesets made with it are compared.
type world struct {
	places []*place
	names  map[acl.NodeID]string // what a node is called
	whose  map[acl.NodeID]string // the login or tags of a node; "" for nobody's
	// standIns makes conditions of what would be facts with real nodes: which tags a router has.
	standIns bool
}

// newWorld finds the places that the rules of several rulesets of one directory tell apart.
func newWorld(d *acl.Directory, sets ...*acl.Ruleset) *world {
	w := &world{names: map[acl.NodeID]string{}, whose: map[acl.NodeID]string{}}
	w.call(d)
	subjects := sets[0].Subjects
	shared := map[netip.Addr]int{}
	for _, s := range subjects {
		for _, a := range s.Addresses {
			shared[a]++
		}
	}
	for _, s := range subjects {
		p := &place{node: s.Node, owner: s.Owner}
		for _, a := range s.Addresses {
			if shared[a] == 1 { // an address that two have is nobody's
				p.addresses = append(p.addresses, a)
			}
		}
		w.places = append(w.places, p)
	}
	w.addRouted(subjects, shared, sets)
	return w
}

// call notes what nodes are called and whose they are.
func (w *world) call(d *acl.Directory) {
	logins, count := map[acl.UserID]string{}, map[string]int{}
	for _, u := range d.Users {
		login := strings.ToLower(u.Login)
		count[login]++
		logins[u.ID] = login
	}
	for _, n := range d.Nodes {
		w.names[n.ID] = visible(cmp.Or(n.Name, string(n.ID)))
		login := logins[n.Owner]
		switch {
		case len(n.Tags) > 0:
			w.whose[n.ID] = visible(strings.Join(slices.Sorted(slices.Values(n.Tags)), "+"))
		case login != "" && count[login] == 1:
			w.whose[n.ID] = visible(login)
		}
	}
}

// visible takes out of a name what a terminal would act on and what shows another text than is read.
func visible(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c <= 0x9f || c == 0x061c || c == 0x200e || c == 0x200f || c >= 0x2028 && c <= 0x202e || c >= 0x2066 && c <= 0x2069 {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
}

func isExit(p netip.Prefix) bool { return p.Bits() == 0 }

// addRouted finds the places behind routers. Behind subnet routers the routes, and the rules' prefixes inside them, part the addresses;
// beyond exit nodes the rules' Beyond does, where no subnet router is the nearer way.
func (w *world) addRouted(subjects []acl.Subject, own map[netip.Addr]int, sets []*acl.Ruleset) {
	routes, exits := map[netip.Prefix]bool{}, map[bool]bool{} // exits by Is4
	for _, s := range subjects {
		for _, r := range s.Routes {
			if isExit(r) {
				exits[r.Addr().Is4()] = true
			} else {
				routes[r] = true
			}
		}
	}
	if len(routes)+len(exits) == 0 {
		return
	}
	nodes := map[netip.Prefix]bool{}
	for a := range own {
		nodes[netip.PrefixFrom(a, a.BitLen())] = true
	}
	behind, beyond := maps.Clone(routes), map[netip.Prefix]bool{}
	inRoute := newTree(routes)
	for _, rs := range sets {
		for _, r := range slices.Concat(rs.Rules, rs.Denies) {
			for _, p := range slices.Concat(r.Src.Prefixes, r.Dst.Prefixes) {
				if inRoute.covers(p) {
					behind[p] = true
				}
			}
			for _, p := range slices.Concat(r.Src.Beyond, r.Dst.Beyond) {
				if exits[p.Addr().Is4()] && !inRoute.covers(p) {
					beyond[p] = true
				}
			}
		}
	}
	add := func(parts, holes map[netip.Prefix]bool, isBeyond bool) {
		tree := newTree(parts)
		for p := range holes {
			tree.add(p)
			delete(parts, p) // nothing of it is left
		}
		for _, p := range slices.SortedFunc(maps.Keys(parts), comparePrefixes) {
			if a, ok := tree.gap(p); ok {
				w.places = append(w.places, &place{addresses: []netip.Addr{a}, prefix: p, beyond: isBeyond, routers: routersTo(subjects, a)})
			}
		}
	}
	add(behind, nodes, false)
	holes := maps.Clone(nodes)
	maps.Copy(holes, routes)
	add(beyond, holes, true)
}

// routersTo lists who serves the most specific route to a.
func routersTo(subjects []acl.Subject, a netip.Addr) (out []acl.NodeID) {
	bits := -1
	for _, s := range subjects {
		for _, r := range s.Routes {
			if !r.Contains(a) || r.Bits() < bits {
				continue
			}
			if r.Bits() > bits {
				out, bits = nil, r.Bits()
			}
			out = append(out, s.Node)
		}
	}
	return slices.Compact(out)
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// tree is a set of prefixes in which what lies around and inside one is found.
type tree struct {
	table[struct{}]
	sorted []netip.Prefix // nil until asked for
}

func newTree(set map[netip.Prefix]bool) *tree {
	t := &tree{}
	for p := range set {
		t.add(p)
	}
	return t
}

func (t *tree) add(p netip.Prefix) {
	t.put(p, struct{}{})
	t.sorted = nil
}

// covers reports whether p lies in one of the prefixes.
func (t *tree) covers(p netip.Prefix) bool {
	for range t.around(p.Addr(), p.Bits()) {
		return true
	}
	return false
}

// gap returns an address of p that is in none of the smaller prefixes inside it.
func (t *tree) gap(p netip.Prefix) (netip.Addr, bool) {
	if t.sorted == nil {
		t.sorted = slices.SortedFunc(maps.Keys(t.entries), comparePrefixes)
	}
	at := p.Addr()
	from, _ := slices.BinarySearchFunc(t.sorted, p, comparePrefixes)
	for _, q := range t.sorted[from:] {
		switch {
		case q == p || q.Addr().Compare(at) < 0: // inside one before it
		case !p.Contains(q.Addr()) || q.Addr() != at:
			return at, true
		default:
			if at = last(q).Next(); !p.Contains(at) {
				return netip.Addr{}, false
			}
		}
	}
	return at, true
}

// last is the last address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// table holds values by prefix, and finds those of the prefixes around an address.
type table[V any] struct {
	entries      map[netip.Prefix]V
	lengths      [2][]int // that occur, of IPv4 and of IPv6
	lengthsCount [2][129]bool
}

func (t *table[V]) put(p netip.Prefix, v V) {
	if t.entries == nil {
		t.entries = map[netip.Prefix]V{}
	}
	t.entries[p] = v
	f := version(p.Addr())
	if !t.lengthsCount[f][p.Bits()] {
		t.lengthsCount[f][p.Bits()] = true
		t.lengths[f] = append(t.lengths[f], p.Bits())
	}
}

// around yields the values of the prefixes of at most limit bits that a lies in.
func (t *table[V]) around(a netip.Addr, limit int) func(yield func(V) bool) {
	return func(yield func(V) bool) {
		for _, n := range t.lengths[version(a)] {
			if n > limit {
				continue
			}
			p, err := a.Prefix(n)
			if err != nil {
				continue
			}
			if v, ok := t.entries[p]; ok && !yield(v) {
				return
			}
		}
	}
}

func version(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
