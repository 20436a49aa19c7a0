package wgtun

import (
	"net/netip"
	"slices"

	"picket.internal/acl"
)

// The device goes by the longest prefix of the peers that are in it, but most are asleep: an exit node, or who has a wide network, could
// there take the addresses of one that is not. So a route is handed to the device without what lies in it of other peers, and an exit
// node's without the overlay.

// carve is the peers of s, each with what the device is to be told of its routes.
func carve(s *State, overlay []netip.Prefix) []Peer {
	type inner struct {
		prefix netip.Prefix
		node   acl.NodeID
	}
	var all []inner
	for i := range s.Peers {
		for _, r := range s.Peers[i].Routes {
			all = append(all, inner{r, s.Peers[i].Node})
		}
	}
	if len(all) == 0 {
		return s.Peers
	}
	peers := slices.Clone(s.Peers) // they are the caller's
	for i := range peers {
		p := &peers[i]
		p.carved = nil
		carved, out := false, []netip.Prefix{} // none is not nil: all of it may be others'
		for _, r := range p.Routes {
			var gaps []netip.Prefix
			if r.Bits() == 0 {
				gaps = slices.Clone(overlay)
			}
			for _, in := range all {
				if in.node != p.Node && in.prefix.Bits() > r.Bits() && r.Contains(in.prefix.Addr()) {
					gaps = append(gaps, in.prefix)
				}
			}
			carved = carved || len(gaps) > 0
			out = appendWithout(out, r, gaps)
		}
		if carved {
			p.carved = out
		}
	}
	return peers
}

// appendWithout appends the fewest prefixes that hold the addresses of whole that are in none of gaps.
func appendWithout(out []netip.Prefix, whole netip.Prefix, gaps []netip.Prefix) []netip.Prefix {
	var in []netip.Prefix
	for _, g := range gaps {
		switch {
		case !g.Overlaps(whole):
		case g.Bits() <= whole.Bits():
			return out
		default:
			in = append(in, g)
		}
	}
	if len(in) == 0 {
		return append(out, whole)
	}
	low, high := halves(whole)
	return appendWithout(appendWithout(out, low, in), high, in)
}

// halves splits a prefix of more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits() + 1
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	second, _ := netip.AddrFromSlice(b) // as long as an address is
	return netip.PrefixFrom(p.Addr(), bits), netip.PrefixFrom(second, bits)
}
