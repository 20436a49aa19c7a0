package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MarkSocket puts Mark on a socket, for net.Dialer.Control: no exit node, and no network behind a peer, is the way for it. It needs CAP_NET_ADMIN.
func MarkSocket(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, Mark) }); err != nil {
		return err
	}
	return failed
}

// DefaultRoutes describes the host's own default routes; it is another text when they are others.
func DefaultRoutes() string {
	var out []string
	for _, r := range defaultRoutes(netlink.FAMILY_ALL) {
		out = append(out, fmt.Sprintf("%d via %s dev %d metric %d", r.Family, r.Gw, r.LinkIndex, r.Priority))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// defaultRoutes are those of the main table: ours of an exit node are in another.
func defaultRoutes(family int) (out []netlink.Route) {
	routes, _ := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE) // none is a state like any other
	for _, r := range routes {
		if r.Gw != nil && (r.Dst == nil || isEverything(r.Dst)) {
			out = append(out, r)
		}
	}
	return out
}

func isEverything(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

// Gateway returns the IPv4 router of the host's best default route, and the address that this host has towards it.
func Gateway() (router, own netip.Addr, err error) {
	routes := defaultRoutes(netlink.FAMILY_V4)
	if len(routes) == 0 {
		return router, own, errors.New("this host has no default gateway")
	}
	best := slices.MinFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	router, _ = netip.AddrFromSlice(best.Gw)
	router = router.Unmap()
	link, err := net.InterfaceByIndex(best.LinkIndex)
	if err != nil {
		return router, own, fmt.Errorf("the gateway's interface: %w", err)
	}
	addrs, err := link.Addrs()
	if err != nil {
		return router, own, fmt.Errorf("the gateway's interface: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.Contains(best.Gw) {
			own, _ = netip.AddrFromSlice(n.IP.To4())
			return router, own, nil
		}
	}
	return router, own, errors.New("this host has no address in the network of its default gateway")
}
