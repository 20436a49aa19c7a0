package path

import (
	"fmt"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
)

// Endpoint is a peer as WireGuard's destination. One that came with a datagram also names that datagram's true source, by which
// WireGuard limits handshakes and makes cookies; it does not direct what is sent.
type Endpoint struct {
	bind   *Bind
	tunnel key.TunnelPublic
	from   netip.AddrPort // zero when parsed from text
}

var _ conn.Endpoint = (*Endpoint)(nil)

// nowhere stands for the address of a peer without a path; wg and wgctrl can parse it.
var nowhere = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)

// EndpointText is the form to hand to wireguard-go's "endpoint=" for a peer.
func EndpointText(t key.TunnelPublic) string { return t.String() }

// ParseEndpoint reads EndpointText's form. The peer need not be known yet. wireguard-go reads "endpoint=" with it.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	var t key.TunnelPublic
	if err := t.UnmarshalText([]byte(s)); err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	return &Endpoint{bind: b, tunnel: t}, nil
}

// Peer is whom the endpoint names.
func (e *Endpoint) Peer() key.TunnelPublic { return e.tunnel }

// current is the address of the peer's way now.
func (e *Endpoint) current() netip.AddrPort {
	if p := e.bind.table.peer(e.tunnel); p != nil {
		if w := p.way.Load(); w != nil {
			if w.kind() == directKind {
				return w.addr()
			}
		}
	}
	return nowhere
}

// outer is the source of the datagram the endpoint came with, else the present path.
func (e *Endpoint) outer() netip.AddrPort {
	if e.from.IsValid() {
		return e.from
	}
	return e.current()
}

// ClearSrc does nothing: the local address is the kernel's choice.
func (e *Endpoint) ClearSrc() {}

// SrcToString is empty.
func (e *Endpoint) SrcToString() string { return "" }

// SrcIP is the zero Addr.
func (e *Endpoint) SrcIP() netip.Addr { return netip.Addr{} }

// DstToString is the address of the peer's proved path as "ip:port", "0.0.0.0:0" when there is none.
func (e *Endpoint) DstToString() string { return e.current().String() }

// DstIP is the source of the datagram this endpoint came with; without one, the address of the proved path.
func (e *Endpoint) DstIP() netip.Addr { return e.outer().Addr() }

// DstToBytes is the binary form of the same address and its port.
func (e *Endpoint) DstToBytes() []byte {
	b, _ := e.outer().MarshalBinary() // never fails
	return b
}

// source is where a datagram of the inner bind came from, IPv4 never in its mapped form.
func source(ep conn.Endpoint) netip.AddrPort {
	type addressed interface { // conn.StdNetEndpoint
		Addr() netip.Addr
		Port() uint16
	}
	if a, ok := ep.(addressed); ok {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	a, err := netip.ParseAddrPort(ep.DstToString())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
