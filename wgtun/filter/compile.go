package filter

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gaissmai/bart"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// never is the deadline of what has none.
const never = math.MaxInt64

// ruleset is an acl.Ruleset made fast: address to node and class (all addresses that rules cannot tell apart), pair of classes to port
// ranges. The last step is compiled when a pair first meets, so that memory grows with nodes plus rules. It is read-only but for the cache
// of pairs.
type ruleset struct {
	source *acl.Ruleset
	offset time.Duration // Policy.ClockOffset
	self   acl.NodeID

	allow, deny rules
	nodes       []node
	hosts       map[packet.Addr]host // nobody for an address that two nodes claim
	routes      bart.Table[route]
	prefixes    bart.Table[int32] // class of what is routed, for every prefix that a rule or deny has for nodes and subnets
	beyond      bart.Table[int32] // and for what lies beyond exit nodes
	classes     classes
	pairs       pairCache
}

const nobody = -1

type node struct {
	id    acl.NodeID
	owner acl.UserID
	roles []acl.RoleID
	peer  *peer // nil for self
}

// host is whose an address is, and its class.
type host struct{ node, class int32 }

// route is who serves a prefix: the first of several, and the class of all their roles together.
type route struct {
	node, servers int32
	exit          bool
}

// class is what rules see of an address.
type class struct {
	roles  []acl.RoleID // of the node whose own it is
	prefix netip.Prefix // the narrowest prefix of rules around it; invalid when there is none
	beyond bool         // it lies beyond an exit node
}

// classes numbers classes.
type classes struct {
	all []class
	ids map[string]int32
}

// of is the number of a class. roles may be in any order.
func (c *classes) of(x class) int32 {
	x.roles = slices.Clone(x.roles)
	slices.Sort(x.roles)
	x.roles = slices.Compact(x.roles)
	var name strings.Builder
	for _, role := range x.roles {
		name.WriteString(strconv.FormatUint(uint64(role), 36))
		name.WriteByte(' ')
	}
	name.WriteString(x.prefix.String())
	if x.beyond {
		name.WriteByte('!')
	}
	if id, known := c.ids[name.String()]; known {
		return id
	}
	id := int32(len(c.all))
	c.all = append(c.all, x)
	if c.ids == nil {
		c.ids = map[string]int32{}
	}
	c.ids[name.String()] = id
	return id
}

// rules are a ruleset's rules, or its denies, by what stands at their ends.
type rules struct {
	list     []acl.Rule
	until    []int64 // deadline of each
	byRole   map[acl.RoleID]*uses
	byPrefix map[netip.Prefix]*uses
	byBeyond map[netip.Prefix]*uses
}

// uses are the rules, in order, that name a role or prefix at either end.
type uses struct{ src, dst []int32 }

// compile makes rs fast. peers supplies the lasting peer of each node.
func (c *clock) compile(rs *acl.Ruleset, self acl.NodeID, offset time.Duration, peers *registry) *ruleset {
	out := &ruleset{source: rs, offset: offset, self: self, nodes: make([]node, 0, len(rs.Subjects)), hosts: map[packet.Addr]host{}}
	out.allow = c.index(rs.Rules, offset)
	// A rule with a restriction that this build does not know allows nothing; a deny with one refuses all the same.
	for i := range rs.Rules {
		if len(rs.Rules[i].Restrictions) == 0 {
			out.use(&out.allow, int32(i), &rs.Rules[i])
		}
	}
	out.deny = c.index(rs.Denies, offset)
	for i := range rs.Denies {
		out.use(&out.deny, int32(i), &rs.Denies[i])
	}
	servers := map[netip.Prefix][]int32{}
	for i := range rs.Subjects {
		out.addNode(&rs.Subjects[i], servers, peers)
	}
	for p, nodes := range servers {
		var all []acl.RoleID
		for _, n := range nodes {
			all = append(all, out.nodes[n].roles...)
		}
		out.routes.Insert(p, route{node: nodes[0], servers: out.classes.of(class{roles: all}), exit: p.Bits() == 0})
	}
	return out
}

func (c *clock) index(list []acl.Rule, offset time.Duration) rules {
	r := rules{list: list, byRole: map[acl.RoleID]*uses{}, byPrefix: map[netip.Prefix]*uses{}, byBeyond: map[netip.Prefix]*uses{}}
	wall := time.Now()
	for i := range list {
		r.until = append(r.until, deadline(list[i].Until, wall.Add(offset), c.at(wall)))
	}
	return r
}

// deadline converts Unix milliseconds to the filter's clock, which read now when the wall clock read wall.
func deadline(until int64, wall time.Time, now int64) int64 {
	if until == 0 {
		return never
	}
	// 146 years either way, so that nothing overflows.
	const limit = int64(math.MaxInt64/time.Millisecond) / 2
	left := min(max(max(until, -limit)-wall.UnixMilli(), -limit), limit)
	// Less the part of a millisecond already gone, so that a rule ends as its deadline's millisecond begins.
	return now + left*int64(time.Millisecond) - int64(wall.Nanosecond()%int(time.Millisecond))
}

// use notes where a rule is used.
func (rs *ruleset) use(in *rules, i int32, r *acl.Rule) {
	rs.useSet(in, r.Src, func(u *uses) { u.src = append(u.src, i) })
	rs.useSet(in, r.Dst, func(u *uses) { u.dst = append(u.dst, i) })
}

func (rs *ruleset) useSet(in *rules, s acl.Set, note func(*uses)) {
	for _, role := range s.Roles {
		note(usesOf(in.byRole, role))
	}
	for _, p := range s.Prefixes {
		if plainPrefix(p) {
			rs.prefixes.Insert(p, rs.classes.of(class{prefix: p}))
			note(usesOf(in.byPrefix, p))
		}
	}
	for _, p := range s.Beyond {
		if plainPrefix(p) {
			rs.beyond.Insert(p, rs.classes.of(class{prefix: p, beyond: true}))
			note(usesOf(in.byBeyond, p))
		}
	}
}

func usesOf[K comparable](by map[K]*uses, k K) *uses {
	u := by[k]
	if u == nil {
		u = &uses{}
		by[k] = u
	}
	return u
}

// plainPrefix is false for a prefix with bits beyond its length or of mapped addresses: read literally it may mean more than was meant.
func plainPrefix(p netip.Prefix) bool {
	return p.IsValid() && p == p.Masked() && !p.Addr().Is4In6()
}

func (rs *ruleset) addNode(s *acl.Subject, servers map[netip.Prefix][]int32, peers *registry) {
	index := int32(len(rs.nodes))
	n := node{id: s.Node, owner: s.Owner, roles: s.Roles}
	if s.Node != rs.self {
		n.peer = peers.get(s.Node)
	}
	rs.nodes = append(rs.nodes, n)
	for _, a := range s.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			continue
		}
		k := packet.AddrOf(a)
		if other, taken := rs.hosts[k]; taken && other.node != index {
			rs.hosts[k] = host{node: nobody, class: nobody}
			continue
		}
		rs.hosts[k] = host{node: index, class: rs.classes.of(class{roles: s.Roles, prefix: narrowest(&rs.prefixes, a)})}
	}
	for _, p := range s.Routes {
		if plainPrefix(p) && !slices.Contains(servers[p], index) {
			servers[p] = append(servers[p], index)
		}
	}
}

// narrowest is the longest prefix in the table around a; invalid when there is none.
func narrowest(table *bart.Table[int32], a netip.Addr) netip.Prefix {
	p, _, _ := table.LookupPrefixLPM(netip.PrefixFrom(a, a.BitLen()))
	return p
}

// end is an address as rules see it.
type end struct {
	node    *node
	class   int32
	servers int32 // class of the roles of all who serve the route; nobody for a node's own address
	routed  bool
}

// resolve finds whose an address is; node is nil when it is nobody's.
func (rs *ruleset) resolve(a packet.Addr) end {
	if h, ok := rs.hosts[a]; ok {
		if h.node == nobody {
			return end{}
		}
		return end{node: &rs.nodes[h.node], class: h.class, servers: nobody}
	}
	ip := a.Netip()
	r, ok := rs.routes.Lookup(ip)
	if !ok {
		return end{}
	}
	return end{node: &rs.nodes[r.node], class: rs.routedClass(ip, r.exit), servers: r.servers, routed: true}
}

// routedClass is the class of an address behind a route; nobody when no rule has a prefix around it, and so none matches.
func (rs *ruleset) routedClass(ip netip.Addr, exit bool) int32 {
	table := &rs.prefixes
	if exit {
		table = &rs.beyond
	}
	if class, ok := table.Lookup(ip); ok {
		return class
	}
	return nobody
}

// of lists the rules, in order, that name class c at the end that pick chooses.
func (r *rules) of(rs *ruleset, c class, pick func(*uses) []int32) []int32 {
	var out []int32
	if c.prefix.IsValid() {
		table, by := &rs.prefixes, r.byPrefix
		if c.beyond {
			table, by = &rs.beyond, r.byBeyond
		}
		for p := range table.Supernets(c.prefix) {
			if u := by[p]; u != nil {
				out = append(out, pick(u)...)
			}
		}
	}
	for _, role := range c.roles {
		if u := r.byRole[role]; u != nil {
			out = append(out, pick(u)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
