package review

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"picket.internal/acl"
)

// overlays are the ranges from which stand-ins have their addresses, and in which an address is taken for a node's.
var overlays = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd7a:115c:a1e0::/48")}

// standIns builds a directory with somebody for each name in the policies: a node for each user and tag, a user for each role and each
// domain, a user that nothing names, a node that is nobody's; for each address or network in the overlay a node, and for every other one a
// router; and an exit node where a rule goes beyond one.
type standIns struct {
	dir  acl.Directory
	used map[netip.Addr]bool
	next [2]netip.Addr // where to look for the next address
	busy []netip.Prefix
	seen map[string]bool
}

// standInsFor fails only when a policy does not compile.
func standInsFor(sources ...*Source) (*acl.Directory, error) {
	b := &standIns{used: map[netip.Addr]bool{}, next: [2]netip.Addr{last(overlays[0]), last(overlays[1])}, seen: map[string]bool{}}
	prefixes, exits, err := addressesIn(sources)
	if err != nil {
		return nil, err
	}
	for _, p := range prefixes {
		inOverlay := slices.ContainsFunc(overlays, func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Contains(p.Addr()) })
		if inOverlay {
			b.busy = append(b.busy, p)
		}
	}
	// Single addresses take theirs first, so that no wider network takes it.
	slices.SortStableFunc(b.busy, func(p, q netip.Prefix) int { return cmp.Compare(q.Bits(), p.Bits()) })
	for _, p := range b.busy {
		b.addNode(acl.Node{Name: p.Addr().String(), Addresses: []netip.Addr{b.free(p)}}, false)
	}
	for _, s := range sources {
		b.addIdentities(s)
	}
	b.addUser("another user", "anybody@else.invalid", "")
	b.addNode(acl.Node{Name: "of nobody"}, true)
	for _, p := range prefixes {
		if !isExit(p) && !slices.ContainsFunc(overlays, p.Overlaps) {
			b.addNode(acl.Node{Name: "router to " + p.String(), Routes: []netip.Prefix{p}}, false)
		}
	}
	if exits {
		b.addNode(acl.Node{Name: "exit", Routes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}, false)
	}
	return &b.dir, nil
}

// addressesIn lists the prefixes in the policies' rules, in order, and whether a rule goes beyond exit nodes.
func addressesIn(sources []*Source) (out []netip.Prefix, exits bool, err error) {
	for _, s := range sources {
		c, err := acl.Compile(s.Policy, &acl.Directory{}, nil)
		if err != nil {
			return nil, false, err
		}
		rs := c.Ruleset()
		for _, r := range slices.Concat(rs.Rules, rs.Denies) {
			out = append(append(out, r.Src.Prefixes...), r.Dst.Prefixes...)
			exits = exits || len(r.Src.Beyond)+len(r.Dst.Beyond) > 0
		}
	}
	slices.SortFunc(out, comparePrefixes)
	return slices.Compact(out), exits, nil
}

func (b *standIns) addIdentities(s *Source) {
	for _, login := range s.logins() {
		b.addUser(login, login, "")
	}
	for _, tag := range slices.Sorted(maps.Keys(members(s.sections["tagOwners"]))) {
		if !b.seen[tag] {
			b.seen[tag] = true
			b.addNode(acl.Node{Name: "of " + tag, Tags: []string{tag}}, true)
		}
	}
	from, to := s.selectors()
	for _, sel := range slices.Concat(from, to) {
		role, isRole := strings.CutPrefix(sel, "autogroup:")
		if isRole && strings.HasSuffix(sel, "admin") || slices.Contains([]string{"owner", "auditor"}, role) {
			b.addUser("another "+role, role+"@else.invalid", role)
		}
		if domain, ok := strings.CutPrefix(sel, "user:*@"); ok {
			b.addUser("another user of "+domain, "anybody.else@"+strings.ToLower(domain), "")
		}
	}
}

func (b *standIns) addUser(name, login, role string) {
	if b.seen[login] {
		return
	}
	b.seen[login] = true
	id := acl.UserID(login)
	b.dir.Users = append(b.dir.Users, acl.User{ID: id, Login: login, Role: role})
	for range 2 { // two machines each, so that there is a way from one to the other
		b.addNode(acl.Node{Name: name, Owner: id}, true)
	}
}

// addNode adds a node with an id that no real one has, and with addresses of its own if it wants them.
func (b *standIns) addNode(n acl.Node, addressed bool) {
	n.ID = acl.NodeID(fmt.Sprintf("?%05d", len(b.dir.Nodes)))
	if addressed {
		for f := range b.next {
			n.Addresses = append(n.Addresses, b.anonymous(f))
		}
	}
	b.dir.Nodes = append(b.dir.Nodes, n)
}

// anonymous is an overlay address that no rule names: those that the policies do name are in few and narrow networks.
func (b *standIns) anonymous(f int) netip.Addr {
	for {
		a := b.next[f]
		b.next[f] = a.Prev()
		around := slices.IndexFunc(b.busy, func(p netip.Prefix) bool { return p.Contains(a) })
		if around >= 0 {
			b.next[f] = b.busy[around].Addr().Prev()
			if !overlays[f].Contains(b.next[f]) { // the policies name all there is
				b.next[f] = last(overlays[f])
				b.busy = nil
			}
			continue
		}
		b.used[a] = true
		return a
	}
}

// free is the first address of p that nobody has.
func (b *standIns) free(p netip.Prefix) netip.Addr {
	a := p.Addr()
	for p.Contains(a) && b.used[a] {
		a = a.Next()
	}
	b.used[a] = true
	return a
}
