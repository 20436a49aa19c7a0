package acl

import (
	"net/netip"
	"slices"
)

// internet is what autogroup:internet names behind exit nodes: IPv4 without the private ranges (RFC 1918), the shared one that overlays use
// (RFC 6598) and the link-local one (RFC 3927), and IPv6's global unicast addresses (RFC 4291).
var internet = slices.Concat(
	cover(netip.MustParsePrefix("0.0.0.0/0"),
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16")),
	[]netip.Prefix{netip.MustParsePrefix("2000::/3")},
)

// outside is what may lie beyond an exit node where a rule says "*": everything but the ranges that overlays give addresses out from. An
// address there which a node does not know is another node's, and an exit node is no way to it.
func outside(overlay []netip.Prefix) []netip.Prefix {
	gaps := append(slices.Clone(overlay), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"))
	return slices.Concat(cover(netip.MustParsePrefix("0.0.0.0/0"), gaps...), cover(netip.MustParsePrefix("::/0"), gaps...))
}

// cover lists the fewest prefixes that hold the addresses of whole that are in none of gaps.
func cover(whole netip.Prefix, gaps ...netip.Prefix) []netip.Prefix {
	touched := false
	for _, g := range gaps {
		if g.Bits() <= whole.Bits() && g.Contains(whole.Addr()) {
			return nil
		}
		touched = touched || whole.Overlaps(g)
	}
	if !touched {
		return []netip.Prefix{whole}
	}
	low, high := halves(whole)
	return append(cover(low, gaps...), cover(high, gaps...)...)
}

// halves splits a prefix of more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	b, n := p.Addr().AsSlice(), p.Bits()
	low = netip.PrefixFrom(p.Addr(), n+1)
	b[n/8] |= 0x80 >> (n % 8)
	a, _ := netip.AddrFromSlice(b)
	return low, netip.PrefixFrom(a, n+1)
}
