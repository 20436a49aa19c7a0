package userspace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// place is where a receiver listens.
type place struct {
	network string     // as it was asked for
	addr    netip.Addr // the zero Addr for every one
	version int        // 4 or 6, and 0 for both
	port    uint16
}

// parsePlace reads a network and an address of a transport, "tcp" or "udp".
func parsePlace(transport, network, address string) (p place, err error) {
	version, ok := map[string]int{transport: 0, transport + "4": 4, transport + "6": 6}[network]
	if !ok {
		return p, net.UnknownNetworkError(network)
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return p, errors.New("that is not HOST:PORT, such as :8080")
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return p, fmt.Errorf("%.20q is no port: write a number from 0 to 65535", text)
	}
	p = place{network: network, version: version, port: uint16(port)}
	if host == "" {
		return p, nil
	}
	addr, err := netip.ParseAddr(host)
	switch addr = addr.Unmap(); {
	case err != nil || addr.Zone() != "":
		return p, errors.New("the host is no address: leave it out, or name one of this node's overlay addresses")
	case version != 0 && addr.Is4() != (version == 4):
		return p, fmt.Errorf("that address is not of IPv%d", version)
	case !addr.IsUnspecified():
		p.addr = addr
	}
	return p, nil
}

func (p place) takes(a netip.Addr) bool {
	if p.addr.IsValid() {
		return a == p.addr
	}
	return p.version == 0 || a.Is4() == (p.version == 4)
}

// overlaps reports whether some packet is for both.
func (p place) overlaps(o place) bool {
	switch {
	case p.addr.IsValid():
		return o.takes(p.addr)
	case o.addr.IsValid():
		return p.takes(o.addr)
	}
	return p.version == 0 || o.version == 0 || p.version == o.version
}

// addrPort is the place as an address: unspecified where it is every one.
func (p place) addrPort() netip.AddrPort {
	switch {
	case p.addr.IsValid():
		return netip.AddrPortFrom(p.addr, p.port)
	case p.version == 4:
		return netip.AddrPortFrom(netip.IPv4Unspecified(), p.port)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), p.port)
}

// sendsTo reports whether a has the IP version of the place.
func (p place) sendsTo(a netip.Addr) bool {
	if p.addr.IsValid() {
		return a.Is4() == p.addr.Is4()
	}
	return p.takes(a)
}
