package path

import (
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

// way is one way to reach a peer: direct UDP, or through a relay.
type way interface {
	// kind is the word for it in Status.
	kind() string
	// addr names it: the far end of a direct way, an alias of a relayed one.
	addr() netip.AddrPort
	// send sends the datagrams of one batch, without keeping them.
	send(bufs [][]byte) error
}

// direct is plain UDP to one address.
type direct struct {
	inner conn.Bind
	to    netip.AddrPort
	ep    conn.Endpoint // the inner bind's
}

func (d *direct) kind() string             { return directKind }
func (d *direct) addr() netip.AddrPort     { return d.to }
func (d *direct) send(bufs [][]byte) error { return d.inner.Send(bufs, d.ep) }

// newDirect makes the way to an address; nil when the inner bind cannot name it.
func (b *Bind) newDirect(to netip.AddrPort) *direct {
	ep, err := b.inner.ParseEndpoint(to.String())
	if err != nil {
		return nil
	}
	return &direct{inner: b.inner, to: to, ep: ep}
}

// lasting is the way to ask a place by, of one by which something came from there: it does not name the local address. Nil when there is none.
func (b *Bind) lasting(back way) way {
	if _, ok := back.(*direct); !ok {
		return back
	}
	if d := b.newDirect(back.addr()); d != nil {
		return d
	}
	return nil
}

// mayProbe reports whether an address may be a node's at all. What comes from elsewhere is believed only so far: without this, a
// false list of candidates would have us knock on our own loopback services, on whole subnets by multicast, or go in circles
// through the overlay itself.
func (b *Bind) mayProbe(a netip.AddrPort) bool {
	ip := a.Addr()
	switch {
	case a.Port() == 0, !ip.IsValid(), ip.Is4In6(), ip.Zone() != "":
		return false
	case ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
		return false
	case ip.IsLoopback():
		return b.config.AllowLoopback
	}
	for _, p := range reserved {
		if p.Contains(ip) {
			return false
		}
	}
	for _, p := range *b.overlay.Load() {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}

// reserved are the aliases of relayed ways, "this network" (RFC 791), class E with the broadcast address (RFC 1112), and IPv4-compatible IPv6 (RFC 4291 section 2.5.5.1).
var reserved = []netip.Prefix{
	aliases,
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),
}

// normal returns the candidates that may be probed, IPv4 in its own form, each once, at most MaxCandidates, in order; and how many
// were refused.
func (b *Bind) normal(in []netip.AddrPort) (out []netip.AddrPort, refused int) {
	seen := make(map[netip.AddrPort]bool, min(len(in), MaxCandidates))
	for _, a := range in {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		switch {
		case seen[a]:
		case len(out) == MaxCandidates || !b.mayProbe(a):
			refused++
		default:
			seen[a] = true
			out = append(out, a)
		}
	}
	return out, refused
}
