package wgtun

import (
	"net/netip"
	"slices"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

// installed is a peer as the device has it, when it is awake.
type installed struct {
	peer   *Peer // of the State in force
	broken bool  // the device refused a part of it: nothing of it may be relied on
}

// prefixes are what the device lets it use as source: its addresses, and its routes without what is others'. They are not kept, for most peers are asleep.
func (in *installed) prefixes() []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(in.peer.Addresses)+len(in.peer.Routes))
	for _, a := range in.peer.Addresses {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	if in.peer.carved != nil {
		return append(prefixes, in.peer.carved...)
	}
	return append(prefixes, in.peer.Routes...)
}

func (in installed) path() path.Peer {
	return path.Peer{Tunnel: in.peer.Tunnel, Next: in.peer.next(), Probe: in.peer.Probe, Candidates: in.peer.Candidates, Home: in.peer.Home}
}

// sameHolder reports whether both are one device of one node.
func (in installed) sameHolder(other installed) bool {
	return in.peer.Node == other.peer.Node && in.peer.Device == other.peer.Device
}

// plan is the way from what is installed to what a State wants.
type plan struct {
	departing map[acl.NodeID]bool // nodes that leave, or whose device is another: cut in step 1
	remove    []installed         // in step 2, and waited for: nothing of theirs is under way afterwards
	add       []installed         // in step 3
	change    []change            // in step 3
	retire    []installed         // old keys of a handover, after their successors took the addresses over

	again map[key.TunnelPublic]bool // those of add that were removed in step 2, of one device

	added, removed, changed int
}

// change is a peer that stays.
type change struct{ old, new installed }

// makePlan compares. A peer stays when its key, node and device stay. A key that changes at one device is handed over. All
// else leaves and comes anew; so does a peer one of whose prefixes goes to another node, since wireguard-go has no other way
// to wait for packets that it already took for that peer's.
func makePlan(have map[key.TunnelPublic]*member, want []Peer) plan {
	p := plan{departing: make(map[acl.NodeID]bool), again: make(map[key.TunnelPublic]bool)}
	next := make(map[key.TunnelPublic]installed, len(want))
	byNode := make(map[acl.NodeID]installed, len(want))
	var claims []claim
	for i := range want {
		w := &want[i]
		in := installed{peer: w}
		next[w.Tunnel], byNode[w.Node] = in, in
		for _, prefix := range in.prefixes() {
			claims = append(claims, claim{prefix: prefix, node: w.Node})
		}
	}
	owners := newOwners(claims)
	coming := make(map[key.TunnelPublic]bool) // replaced: removed in step 2, added in step 3, counted as changed
	for k, m := range have {
		old := m.installed
		same, ok := next[k]
		successor, hasSuccessor := byNode[old.peer.Node]
		lost := owners.takenFrom(old)
		switch {
		case ok && same.sameHolder(old) && !lost && !old.broken:
			p.keep(old, same)
		case ok && same.sameHolder(old):
			p.remove = append(p.remove, old)
			coming[k], p.again[k] = true, !old.broken
		case hasSuccessor && successor.sameHolder(old) && !lost && !old.broken:
			p.retire = append(p.retire, old)
			coming[successor.peer.Tunnel] = true
		case hasSuccessor && successor.sameHolder(old):
			p.remove = append(p.remove, old)
			coming[successor.peer.Tunnel] = true
		default:
			p.departing[old.peer.Node] = true
			p.remove = append(p.remove, old)
			p.removed++
		}
	}
	for k, in := range next {
		if m, ok := have[k]; ok && !coming[k] && m.sameHolder(in) {
			continue
		}
		p.add = append(p.add, in)
		if coming[k] {
			p.changed++
		} else {
			p.added++
		}
	}
	return p
}

func (p *plan) keep(old, same installed) {
	if old.peer.Probe == same.peer.Probe && old.peer.next() == same.peer.next() && old.peer.Home == same.peer.Home && slices.Equal(old.peer.Candidates, same.peer.Candidates) && sameAddresses(old.peer, same.peer) {
		return
	}
	p.change = append(p.change, change{old, same})
	p.changed++
}

// sameAddresses reports whether both claim the same, in whatever order.
func sameAddresses(a, b *Peer) bool {
	return sameSet(a.Addresses, b.Addresses) && sameSet(a.Routes, b.Routes) && sameSet(a.carved, b.carved)
}

func sameSet[T comparable](a, b []T) bool {
	return slices.Equal(a, b) || len(a) == len(b) && len(minus(a, b)) == 0 && len(minus(b, a)) == 0
}

// minus returns what of a is not in b.
func minus[T comparable](a, b []T) []T {
	in := make(map[T]struct{}, len(b))
	for _, p := range b {
		in[p] = struct{}{}
	}
	var out []T
	for _, p := range a {
		if _, ok := in[p]; !ok {
			out = append(out, p)
		}
	}
	return out
}

// owners answers whether a prefix has gone to somebody else.
type owners struct {
	claims []claim
	exact  map[netip.Prefix]acl.NodeID
}

func newOwners(claims []claim) owners {
	o := owners{claims: claims, exact: make(map[netip.Prefix]acl.NodeID, len(claims))}
	for _, c := range claims {
		o.exact[c.prefix] = c.node
	}
	return o
}

// takenFrom reports whether another node now claims a part of what in had. What two nodes have never overlaps (checkClaims, carve),
// so a prefix that its old holder still claims as it was needs no search.
func (o owners) takenFrom(in installed) bool {
	taken := func(p netip.Prefix) bool {
		if node, ok := o.exact[p]; ok {
			return node != in.peer.Node
		}
		return slices.ContainsFunc(o.claims, func(c claim) bool {
			return c.node != in.peer.Node && c.prefix.Overlaps(p)
		})
	}
	return slices.ContainsFunc(in.prefixes(), taken)
}
