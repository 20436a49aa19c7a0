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

// ruleset is an acl.Ruleset made fast: address to node, node to class (all nodes with the same roles, or all routed addresses inside the
// same rule prefixes), pair of classes to port ranges. The last step is compiled when a pair first meets, so that memory grows with
// nodes plus rules. It is read-only but for the cache of pairs.
type ruleset struct {
	source *acl.Ruleset
	offset time.Duration // Policy.ClockOffset
	self   acl.NodeID

	until    []int64 // deadline of each rule
	nodes    []node
	hosts    map[packet.Addr]int32 // index in nodes; nobody for an address that two nodes claim
	routes   bart.Table[int32]     // index in nodes
	prefixes bart.Table[int32]     // class, for each prefix in a rule
	classes  []class
	byRole   map[acl.RoleID]*uses
	byPrefix map[netip.Prefix]*uses
	pairs    pairCache
}

const nobody = -1

type node struct {
	id    acl.NodeID
	owner acl.UserID
	class int32
	peer  *peer // nil for self
}

// class is what rules see of an address.
type class struct {
	roles  []acl.RoleID
	prefix netip.Prefix // the narrowest rule prefix around a routed address; invalid for nodes
}

// uses are the rules, in order, that name a role or prefix at either end.
type uses struct{ src, dst []int32 }

// compile makes rs fast. peers supplies the lasting peer of each node.
func (c *clock) compile(rs *acl.Ruleset, self acl.NodeID, offset time.Duration, peers *registry) *ruleset {
	out := &ruleset{
		source: rs, offset: offset, self: self,
		hosts: map[packet.Addr]int32{}, byRole: map[acl.RoleID]*uses{}, byPrefix: map[netip.Prefix]*uses{},
	}
	wall := time.Now()
	for i := range rs.Rules {
		out.until = append(out.until, deadline(rs.Rules[i].Until, wall.Add(offset), c.at(wall)))
		out.indexRule(int32(i), &rs.Rules[i])
	}
	ids := map[string]int32{}
	for i := range rs.Subjects {
		out.addNode(&rs.Subjects[i], ids, peers)
	}
	return out
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

// indexRule notes where the rule is used. A rule with a restriction that this build does not know is used nowhere.
func (rs *ruleset) indexRule(i int32, r *acl.Rule) {
	if len(r.Restrictions) > 0 {
		return
	}
	for _, role := range r.Src.Roles {
		u := rs.usesOfRole(role)
		u.src = append(u.src, i)
	}
	for _, role := range r.Dst.Roles {
		u := rs.usesOfRole(role)
		u.dst = append(u.dst, i)
	}
	for _, p := range r.Src.Prefixes {
		if u := rs.usesOfPrefix(p); u != nil {
			u.src = append(u.src, i)
		}
	}
	for _, p := range r.Dst.Prefixes {
		if u := rs.usesOfPrefix(p); u != nil {
			u.dst = append(u.dst, i)
		}
	}
}

func (rs *ruleset) usesOfRole(role acl.RoleID) *uses {
	u := rs.byRole[role]
	if u == nil {
		u = &uses{}
		rs.byRole[role] = u
	}
	return u
}

// usesOfPrefix is nil for a prefix with bits beyond its length or of mapped addresses: read literally it may mean more than was meant.
func (rs *ruleset) usesOfPrefix(p netip.Prefix) *uses {
	if !plainPrefix(p) {
		return nil
	}
	u := rs.byPrefix[p]
	if u == nil {
		u = &uses{}
		rs.byPrefix[p] = u
		rs.prefixes.Insert(p, int32(len(rs.classes)))
		rs.classes = append(rs.classes, class{prefix: p})
	}
	return u
}

func plainPrefix(p netip.Prefix) bool {
	return p.IsValid() && p == p.Masked() && !p.Addr().Is4In6()
}

func (rs *ruleset) addNode(s *acl.Subject, classes map[string]int32, peers *registry) {
	index := int32(len(rs.nodes))
	n := node{id: s.Node, owner: s.Owner, class: rs.classOf(s.Roles, classes)}
	if s.Node != rs.self {
		n.peer = peers.get(s.Node)
	}
	rs.nodes = append(rs.nodes, n)
	for _, a := range s.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			continue
		}
		k := packet.AddrOf(a)
		if other, taken := rs.hosts[k]; taken && other != index {
			rs.hosts[k] = nobody
			continue
		}
		rs.hosts[k] = index
	}
	for _, p := range s.Routes {
		if !plainPrefix(p) {
			continue
		}
		if _, taken := rs.routes.Get(p); !taken {
			rs.routes.Insert(p, index)
		}
	}
}

// classOf finds the class of nodes with exactly these roles.
func (rs *ruleset) classOf(roles []acl.RoleID, classes map[string]int32) int32 {
	roles = slices.Clone(roles)
	slices.Sort(roles)
	roles = slices.Compact(roles)
	var name strings.Builder
	for _, role := range roles {
		name.WriteString(strconv.FormatUint(uint64(role), 36))
		name.WriteByte(' ')
	}
	if id, known := classes[name.String()]; known {
		return id
	}
	id := int32(len(rs.classes))
	rs.classes = append(rs.classes, class{roles: roles})
	classes[name.String()] = id
	return id
}

// end is an address as rules see it.
type end struct {
	node   *node
	class  int32 // nobody for a routed address inside no rule's prefix
	routed bool
}

// resolve finds whose an address is; node is nil when it is nobody's.
func (rs *ruleset) resolve(a packet.Addr) end {
	if i, ok := rs.hosts[a]; ok {
		if i == nobody {
			return end{}
		}
		n := &rs.nodes[i]
		return end{node: n, class: n.class}
	}
	ip := a.Netip()
	i, ok := rs.routes.Lookup(ip)
	if !ok {
		return end{}
	}
	class, ok := rs.prefixes.Lookup(ip)
	if !ok {
		class = nobody
	}
	return end{node: &rs.nodes[i], class: class, routed: true}
}

// rulesOf lists the rules, in order, that name class at the end that pick chooses.
func (rs *ruleset) rulesOf(c class, pick func(*uses) []int32) []int32 {
	var out []int32
	if c.prefix.IsValid() {
		for p := range rs.prefixes.Supernets(c.prefix) {
			out = append(out, pick(rs.byPrefix[p])...)
		}
	}
	for _, role := range c.roles {
		if u := rs.byRole[role]; u != nil {
			out = append(out, pick(u)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
