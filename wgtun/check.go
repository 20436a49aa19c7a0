package wgtun

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

// ErrRefused is wrapped by every refusal of a State as a whole: nothing of it is in force, and the old State stays.
var ErrRefused = errors.New("state refused")

// identity is what no peer may claim: our own keys.
type identity struct {
	tunnel key.TunnelPublic
	probe  key.ProbePublic
}

// check refuses a State that is not sound in itself: wireguard-go would silently move a prefix to the peer that claims it
// last, and a filter that knows an address as one node's must never meet another node's key behind it.
func (own identity) check(s *State) error {
	if err := own.checkKeys(s); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := checkClaims(s); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

// checkKeys refuses absent keys, keys shared by two peers, our own keys, and a node named twice.
func (own identity) checkKeys(s *State) error {
	nodes := make(map[acl.NodeID]bool, len(s.Peers))
	devices := make(map[key.DevicePublic]acl.NodeID, len(s.Peers))
	tunnels := make(map[key.TunnelPublic]acl.NodeID, len(s.Peers))
	probes := make(map[key.ProbePublic]acl.NodeID, len(s.Peers))
	for i := range s.Peers {
		p := &s.Peers[i]
		switch {
		case p.Node == "":
			return errors.New("a peer has no node id")
		case p.Node == s.Self:
			return fmt.Errorf("peer %s is this node", p.Node)
		case nodes[p.Node]:
			return fmt.Errorf("peer %s is named twice", p.Node)
		case p.Device.IsZero() || p.Tunnel.IsZero() || p.Probe.IsZero():
			return fmt.Errorf("peer %s lacks a key", p.Node)
		case p.Tunnel == own.tunnel || p.next() == own.tunnel || p.Probe == own.probe:
			return fmt.Errorf("peer %s has a key of this node", p.Node)
		}
		nodes[p.Node] = true
		if err := errors.Join(
			takeKey(devices, p.Device, p.Node, "device"),
			takeKey(tunnels, p.Tunnel, p.Node, "tunnel"),
			takeKey(probes, p.Probe, p.Node, "probe"),
		); err != nil {
			return err
		}
		if p.next().IsZero() {
			continue
		}
		if err := takeKey(tunnels, p.next(), p.Node, "tunnel"); err != nil {
			return err
		}
	}
	return nil
}

func takeKey[K comparable](taken map[K]acl.NodeID, k K, node acl.NodeID, role string) error {
	if other, ok := taken[k]; ok {
		return fmt.Errorf("peers %s and %s have one %s key", other, node, role)
	}
	taken[k] = node
	return nil
}

// claim is a prefix, or an address as a prefix of its own, that a node says is its own.
type claim struct {
	prefix  netip.Prefix
	node    acl.NodeID
	address bool
}

// isExit reports a claim to everything.
func (c claim) isExit() bool { return !c.address && c.prefix.Bits() == 0 }

// checkClaims refuses claims of two nodes to one address or route, and routes around another node's address, but for exit routes. Routes of
// two nodes may lie in each other, because wireguard-go and the filter both go by the longest; then both must know the same ones. The
// peers' claims and those the rules know the same nodes by, this node included, are one set: a peer whose address the rules give to another
// node is refused like any other overlap.
func checkClaims(s *State) error {
	var claims []claim
	var err error
	for i := range s.Peers {
		p := &s.Peers[i]
		if claims, err = appendClaims(claims, p.Node, p.Addresses, p.Routes); err != nil {
			return err
		}
	}
	if s.Rules != nil {
		for i := range s.Rules.Subjects {
			n := &s.Rules.Subjects[i]
			if claims, err = appendClaims(claims, n.Node, n.Addresses, n.Routes); err != nil {
				return err
			}
		}
	}
	nested, err := refuseOverlap(claims)
	if err != nil || nested == nil {
		return err
	}
	if err := sameRoutes(s); err != nil {
		return fmt.Errorf("%w, and %w", nested, err)
	}
	return nil
}

func appendClaims(claims []claim, node acl.NodeID, addrs []netip.Addr, routes []netip.Prefix) ([]claim, error) {
	for _, a := range addrs {
		if !overlayAddress(a) {
			return nil, fmt.Errorf("node %s: %s cannot be an overlay address", node, a)
		}
		claims = append(claims, claim{netip.PrefixFrom(a, a.BitLen()), node, true})
	}
	for _, r := range routes {
		if !r.IsValid() || r != r.Masked() || r.Addr().Is4In6() {
			return nil, fmt.Errorf("node %s: %s cannot be a route", node, r)
		}
		claims = append(claims, claim{r, node, false})
	}
	return claims, nil
}

// overlayAddress reports whether a may be a node's own: plain unicast without a zone.
func overlayAddress(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && (a.IsGlobalUnicast() || a.IsPrivate())
}

// refuseOverlap sorts the claims so that a prefix stands right before what lies in it, and walks them with the chain of enclosing
// prefixes at hand. nested says which of two nodes lies in which where that is allowed; nil when nowhere.
func refuseOverlap(claims []claim) (nested, err error) {
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	var around []claim
	for _, c := range claims {
		for len(around) > 0 && !around[len(around)-1].prefix.Overlaps(c.prefix) {
			around = around[:len(around)-1]
		}
		for _, outer := range around {
			if outer.node == c.node {
				continue
			}
			both := fmt.Errorf("node %s claims %s and node %s claims %s", outer.node, outer.prefix, c.node, c.prefix)
			if outer.prefix == c.prefix || outer.address || c.address && !outer.isExit() {
				return nil, both
			}
			nested = both
		}
		around = append(around, c)
	}
	return nested, nil
}

// sameRoutes refuses routes that the peers have and the rules do not know, or the other way round: what one of the two takes for one
// node's, the other would take for the node's around it.
func sameRoutes(s *State) error {
	known := make(map[acl.NodeID][]netip.Prefix)
	if s.Rules != nil {
		for i := range s.Rules.Subjects {
			n := &s.Rules.Subjects[i]
			known[n.Node] = append(known[n.Node], n.Routes...)
		}
	}
	delete(known, s.Self)
	for i := range s.Peers {
		p := &s.Peers[i]
		if !sameSet(p.Routes, known[p.Node]) {
			return fmt.Errorf("the rules know other routes of node %s than the peer has", p.Node)
		}
		delete(known, p.Node)
	}
	for node, routes := range known {
		if len(routes) > 0 {
			return fmt.Errorf("the rules know routes of node %s, which is no peer", node)
		}
	}
	return nil
}
