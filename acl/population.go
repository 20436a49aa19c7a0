package acl

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// entry is a node as a Compiled keeps it. It is never changed: a node that changes gets a new one.
type entry struct {
	subject  Subject
	families family
}

// index finds entries by a key that ends in the node's id, so that those with one beginning stand together, in the order of ids. A copy
// costs nothing; the two then share what neither changes.
type index struct{ btree.Map[string, *entry] }

// degree bounds a node of an index: 2*degree-1 keys. A change copies a few nodes of each index: small ones keep what that
// costs, and how it grows with one level more, small beside the views that are made anew. Measured: BENCHMARKS.md.
const degree = 8

func newIndex() *index { return &index{*btree.NewMap[string, *entry](degree)} }

func (x *index) copied() *index { return &index{*x.Copy()} }

// at lists the entries whose key is prefix and an id.
func (x *index) at(prefix string) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		x.Ascend(prefix, func(key string, e *entry) bool { return strings.HasPrefix(key, prefix) && yield(e) })
	}
}

// Keys of the indexes, but for the id at their end. Each is as long as every other of its kind, or ends in a byte that ids do not have,
// so that none is the beginning of another.
func roleKey(id RoleID) string {
	var b [8]byte
	for i := range b {
		b[i] = byte(id >> (8 * (7 - i)))
	}
	return string(b[:])
}
func ownerKey(id UserID) string { return string(id) + "\x00" }

// addrKey is '4' and 4 bytes, or '6' and 16, so that the addresses of a prefix stand together.
func addrKey(a netip.Addr) string {
	if a.Is4() {
		return "4" + string(a.AsSlice())
	}
	return "6" + string(a.AsSlice())
}

// population is the nodes' side of a Compiled.
type population struct {
	nodes   *index // by id
	members *index // by role
	owned   *index // untagged ones, by owner
	holders *index // by address
	routers *index // by id, those with routes
}

func newPopulation() *population {
	return &population{nodes: newIndex(), members: newIndex(), owned: newIndex(), holders: newIndex(), routers: newIndex()}
}

func (p *population) copied() *population {
	return &population{
		nodes: p.nodes.copied(), members: p.members.copied(), owned: p.owned.copied(), holders: p.holders.copied(), routers: p.routers.copied(),
	}
}

// everybody lists the nodes by id.
func (p *population) everybody() iter.Seq[*entry] { return p.nodes.at("") }

// find returns a node's entry; nil when there is no such node.
func (p *population) find(id NodeID) *entry {
	e, _ := p.nodes.Get(string(id))
	return e
}

// taken reports whether a is a node's own address.
func (p *population) taken(a netip.Addr) bool {
	for range p.holders.at(addrKey(a)) {
		return true
	}
	return false
}

// within lists the nodes that have an address in p, once for each.
func (pop *population) within(p netip.Prefix) iter.Seq[*entry] {
	length := len(addrKey(p.Addr()))
	return func(yield func(*entry) bool) {
		pop.holders.Ascend(addrKey(p.Addr()), func(key string, e *entry) bool {
			a, ok := netip.AddrFromSlice([]byte(key[1:min(length, len(key))]))
			return ok && p.Contains(a) && yield(e)
		})
	}
}

// put adds a node, or replaces what was there under its id. Places that the old entry has too are written over: to take one out and put it
// back would copy more of the tree.
func (p *population) put(e *entry) {
	old := p.find(e.subject.Node)
	p.eachKey(e, func(x *index, key string) { x.Set(key, e) })
	if old == nil {
		return
	}
	p.eachKey(old, func(x *index, key string) {
		if now, _ := x.Get(key); now == old {
			x.Delete(key)
		}
	})
}

func (p *population) remove(id NodeID) {
	if e := p.find(id); e != nil {
		p.eachKey(e, func(x *index, key string) { x.Delete(key) })
	}
}

// eachKey calls do for each place of an entry.
func (p *population) eachKey(e *entry, do func(x *index, key string)) {
	id := string(e.subject.Node)
	do(p.nodes, id)
	for _, role := range e.subject.Roles {
		do(p.members, roleKey(role)+id)
	}
	if e.subject.Owner != "" {
		do(p.owned, ownerKey(e.subject.Owner)+id)
	}
	for _, a := range e.subject.Addresses {
		do(p.holders, addrKey(a)+id)
	}
	if len(e.subject.Routes) > 0 {
		do(p.routers, id)
	}
}

// entryOf makes a node's entry.
func (g *program) entryOf(n *Node) *entry {
	e := &entry{subject: Subject{
		Node:      n.ID,
		Addresses: slices.DeleteFunc(slices.Clone(n.Addresses), func(a netip.Addr) bool { return !plainAddr(a) }),
		Routes:    slices.DeleteFunc(slices.Clone(n.Routes), func(p netip.Prefix) bool { return !plainPrefix(p) || !isExit(p) && overlapsAny(p, g.overlay) }),
		Roles:     g.book.rolesOf(n),
	}}
	if len(n.Tags) == 0 {
		e.subject.Owner = n.Owner
	}
	for _, a := range e.subject.Addresses {
		e.families |= familyOf(a)
	}
	return e
}

// Update returns c with the nodes in put added or replaced and those in gone removed; c stays as it is. The users must be those that c was
// compiled with. touched lists, sorted, whose View may differ from before: the nodes themselves, and who was or is a peer of one. Its cost
// is that of those nodes and their peers, whatever the size of the network.
func (c *Compiled) Update(put []Node, gone []NodeID) (next *Compiled, touched []NodeID) {
	c.updating.Lock()
	next = &Compiled{program: c.program, population: c.population.copied(), at: c.at}
	c.updating.Unlock()
	seen := map[NodeID]bool{}
	all := false
	for _, id := range gone {
		all = c.touch(id, seen) || all
		next.remove(id)
	}
	for i := range put {
		all = c.touch(put[i].ID, seen) || all
		next.put(next.entryOf(&put[i]))
	}
	for i := range put {
		all = next.touch(put[i].ID, seen) || all
	}
	if all {
		for e := range next.everybody() {
			seen[e.subject.Node] = true
		}
	}
	return next, sortedIDs(seen)
}

func sortedIDs(set map[NodeID]bool) []NodeID { return slices.Sorted(maps.Keys(set)) }

// touch notes a node and its peers. It reports whether every view may differ: when an address that rules name alone, and which may stand
// for something behind a route, is, or is no longer, a node's own.
func (c *Compiled) touch(id NodeID, seen map[NodeID]bool) (all bool) {
	seen[id] = true
	self := c.find(id)
	if self == nil {
		return false
	}
	for e := range c.meetAll(self).peers {
		seen[e.subject.Node] = true
	}
	return c.routers.Len() > 0 && slices.ContainsFunc(self.subject.Addresses, func(a netip.Addr) bool { return c.singles[a] })
}
