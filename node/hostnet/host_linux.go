package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routeTable holds the overlay's routes and nothing else.
	routeTable = 0x7069
	// routeProtocol marks routes and rules as ours (rtnetlink(7); 112 is not taken in iproute2's rt_protos).
	routeProtocol = 112
	// The priorities of our rules come after the table "local" (0) and before "main" (32766): marked packets by the host's own routes, or
	// nowhere; overlay and networks behind peers by our table; with an exit node, the host's own networks where they are wanted, then all.
	markPriority = 5080
	rulePriority = 5100
	lanPriority  = 5110
	exitPriority = 5120
	// fallbackMetric is worse than the TUN's route, which has tunMetric.
	fallbackMetric = 4096
	tunMetric      = 64
	// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
	addrGenNone = 1
)

// Host fits a TUN into this host. Its methods must not be called concurrently.
type Host struct {
	handle *netlink.Handle
	nft    *nftables.Conn
	logger *slog.Logger
	last   Config // in force, as far as we set it

	forwarding forwarding
}

// New opens netlink in the network namespace of the calling thread; it changes nothing.
func New(logger *slog.Logger) (*Host, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	nft, err := nftables.New()
	if err != nil {
		h.Close()
		return nil, &GuardError{err}
	}
	return &Host{handle: h, nft: nft, logger: logger}, nil
}

// Clean takes back what a Host left that was not removed.
func Clean(logger *slog.Logger) {
	h, err := New(logger)
	if err == nil {
		defer h.Close()
		err = h.Remove()
	}
	if err != nil {
		logger.Warn("something was left on the host", "reason", err)
	}
}

// Close ends the use of netlink; what was configured stays.
func (h *Host) Close() { h.handle.Close() }

// Check looks, before anything is touched, for an interface other than tun, or a route not of our making, that holds part of the
// overlay; it returns a *ConflictError. Wider routes do not count: ours are asked first.
func (h *Host) Check(overlay []netip.Prefix, tun string) error {
	links, err := h.handle.LinkList()
	if err != nil {
		return fmt.Errorf("list the host's interfaces: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := h.handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if err := conflict(names[a.LinkIndex], tun, a.IPNet, overlay); err != nil {
			return err
		}
	}
	routes, err := h.handle.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		if r.Table == routeTable && r.Protocol == routeProtocol {
			continue
		}
		if err := conflict(names[r.LinkIndex], tun, r.Dst, overlay); err != nil {
			return err
		}
	}
	return nil
}

func conflict(name, tun string, held *net.IPNet, overlay []netip.Prefix) error {
	if name != "" && name == tun {
		return nil
	}
	p, ok := prefixOf(held)
	if !ok {
		return nil
	}
	for _, o := range overlay {
		if o.Contains(p.Addr()) && p.Bits() >= o.Bits() {
			return &ConflictError{Interface: name, Held: p, Overlay: o}
		}
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	if a.Is4() && bits == 128 {
		ones -= 96
	}
	return netip.PrefixFrom(a, ones), ones >= 0
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Configure makes the host have exactly c: the guard first, then forwarding, addresses, routes and the rules that lead to them. What is
// right already is not touched, so it may be called again at any time to mend what others took away. On an error the host may have part of
// it; Remove takes that back. A *ForwardingError means that all but that is in place.
func (h *Host) Configure(c Config) error {
	link, err := h.handle.LinkByName(c.Interface)
	if err != nil {
		return fmt.Errorf("find the interface %q: %w", c.Interface, err)
	}
	was := h.noteForwarding(c)
	if err := h.setGuard(c); err != nil {
		return err
	}
	forwards := h.setForwarding(was)
	for _, step := range []func(netlink.Link, Config) error{h.setLink, h.setAddresses, h.setRoutes, h.setRules} {
		if err := step(link, c); err != nil {
			return err
		}
	}
	h.last = c
	if forwards != nil {
		return &ForwardingError{forwards}
	}
	return nil
}

// Remove takes back all that Configure, of this process or of one that was killed, left on the host; doing so twice is no error.
// The addresses go with the interface.
func (h *Host) Remove() error {
	h.last = Config{}
	was := h.noteForwarding(Config{})
	return errors.Join(h.removeRules(nil), h.removeRoutes(nil), h.setForwarding(was), h.removeGuard())
}

func (h *Host) setLink(link netlink.Link, c Config) error {
	if link.Attrs().MTU != c.MTU {
		if err := h.handle.LinkSetMTU(link, c.MTU); err != nil {
			return explain("setting the MTU", err)
		}
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	// Without a link-local address the kernel sends no router solicitations into the tunnel, where they would only be refused.
	if err := h.handle.LinkSetIP6AddrGenMode(link, addrGenNone); err != nil {
		h.logger.Debug("no IPv6 on the interface", "reason", err)
	}
	return explain("bringing the interface up", h.handle.LinkSetUp(link))
}

func (h *Host) setAddresses(link netlink.Link, c Config) error {
	have, err := h.handle.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return explain("listing addresses", err)
	}
	wanted := make(map[netip.Prefix]bool)
	for _, a := range c.Addresses {
		wanted[netip.PrefixFrom(a, a.BitLen())] = true
	}
	for _, a := range have {
		p, ok := prefixOf(a.IPNet)
		if wanted[p] {
			delete(wanted, p)
			continue
		}
		if !ok || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := h.handle.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return explain("removing an address", err)
		}
	}
	for p := range wanted {
		err := h.handle.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE})
		if err != nil && p.Addr().Is6() && !ipv6Enabled() {
			h.logger.Warn("IPv6 is off on this host: its overlay address is not used", "address", p.Addr())
			continue
		}
		if err != nil {
			return explain("adding the address "+p.Addr().String(), err)
		}
	}
	return nil
}

func explain(doing string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return &PrivilegeError{doing}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
