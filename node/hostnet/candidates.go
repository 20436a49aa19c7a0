package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"picket.internal/coordinator/protocol"
)

// Local says which of the host's addresses may be told to others.
type Local struct {
	TUN      string         // name of our own interface, left out
	Overlay  []netip.Prefix // addresses in these are left out
	Loopback bool           // tell loopback addresses, too; they are told anyway when there is nothing else
}

// Candidates lists where the host's UDP port may be reached: at most protocol.MaxEndpoints, IPv4 first, in a stable order.
func Candidates(port uint16, local Local) ([]netip.AddrPort, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the host's interfaces: %w", err)
	}
	var addrs []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Name == local.TUN {
			continue
		}
		found, err := i.Addrs()
		if err != nil {
			continue // it went away since
		}
		for _, a := range found {
			if n, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(n.IP); ok {
					addrs = append(addrs, addr.Unmap())
				}
			}
		}
	}
	return choose(addrs, port, local), nil
}

// LongestDatagram is the longest UDP payload over IPv4, in bytes, that a link of this host takes uncut, apart from our own and the loopback one; 0 when
// there is none.
func LongestDatagram(tun string) int {
	const headers = 20 + 8
	interfaces, err := net.Interfaces()
	if err != nil {
		return 0
	}
	longest := 0
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 && i.Name != tun {
			longest = max(longest, i.MTU-headers)
		}
	}
	return longest
}

func choose(addrs []netip.Addr, port uint16, local Local) []netip.AddrPort {
	var routable, loopback []netip.AddrPort
	for _, a := range addrs {
		inOverlay := slices.ContainsFunc(local.Overlay, func(p netip.Prefix) bool { return p.Contains(a) })
		switch {
		case a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || inOverlay:
		case a.IsLoopback():
			loopback = append(loopback, netip.AddrPortFrom(a, port))
		default:
			routable = append(routable, netip.AddrPortFrom(a, port))
		}
	}
	if local.Loopback || len(routable) == 0 {
		routable = append(routable, loopback...)
	}
	slices.SortFunc(routable, netip.AddrPort.Compare)
	routable = slices.Compact(routable)
	return routable[:min(len(routable), protocol.MaxEndpoints)]
}

// OnlyLoopback reports a host that nobody else can reach: others of its kind may only be on it.
func OnlyLoopback() bool {
	found, err := Candidates(1, Local{})
	for _, at := range found {
		if !at.Addr().IsLoopback() {
			return false
		}
	}
	return err == nil
}
