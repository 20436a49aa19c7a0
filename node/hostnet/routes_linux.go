package hostnet

import (
	"errors"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// ipv6Enabled reports whether the host speaks IPv6 at all.
func ipv6Enabled() bool {
	text, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err == nil && strings.TrimSpace(string(text)) == "0"
}

// overlayFamilies leaves out what the host cannot have.
func overlayFamilies(overlay []netip.Prefix) []netip.Prefix {
	if ipv6Enabled() {
		return overlay
	}
	var out []netip.Prefix
	for _, p := range overlay {
		if p.Addr().Is4() {
			out = append(out, p)
		}
	}
	return out
}

// setRules sends lookups of overlay destinations to our table.
func (h *Host) setRules(_ netlink.Link, c Config) error {
	wanted := overlayFamilies(c.Overlay)
	if err := h.removeRules(wanted); err != nil {
		return err
	}
	for _, p := range wanted {
		rule := netlink.NewRule()
		rule.Family, rule.Dst, rule.Table, rule.Priority, rule.Protocol = family(p), ipNet(p), routeTable, rulePriority, routeProtocol
		if err := h.handle.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return explain("adding a routing rule", err)
		}
	}
	return nil
}

// removeRules removes our rules but those to keep.
func (h *Host) removeRules(keep []netip.Prefix) error {
	rules, err := h.handle.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return explain("listing routing rules", err)
	}
	kept := make(map[netip.Prefix]bool)
	for _, p := range keep {
		kept[p] = true
	}
	for _, r := range rules {
		if r.Table != routeTable || r.Protocol != routeProtocol {
			continue
		}
		if r.Dst != nil {
			p, ok := prefixOf(r.Dst)
			if ok && kept[p] {
				continue
			}
			r.Family = family(p)
		}
		if err := h.handle.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			return explain("removing a routing rule", err)
		}
	}
	return nil
}

// setRoutes leads each overlay range to the TUN and, when that is gone, nowhere. The fallback goes in first.
func (h *Host) setRoutes(link netlink.Link, c Config) error {
	wanted := overlayFamilies(c.Overlay)
	if err := h.removeRoutes(wanted); err != nil {
		return err
	}
	have, err := h.ourRoutes()
	if err != nil {
		return err
	}
	for _, p := range wanted {
		for _, r := range []*netlink.Route{
			{Dst: ipNet(p), Table: routeTable, Protocol: routeProtocol, Priority: fallbackMetric, Type: unix.RTN_UNREACHABLE, Family: family(p)},
			{Dst: ipNet(p), Table: routeTable, Protocol: routeProtocol, Priority: tunMetric, Type: unix.RTN_UNICAST, Family: family(p),
				LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK},
		} {
			if present(have, r, p) {
				continue
			}
			if err := h.handle.RouteReplace(r); err != nil {
				return explain("adding the route to "+p.String(), err)
			}
		}
	}
	return nil
}

func present(have []netlink.Route, want *netlink.Route, p netip.Prefix) bool {
	for _, r := range have {
		q, ok := prefixOf(r.Dst)
		if ok && q == p && r.Priority == want.Priority && r.Type == want.Type && (want.LinkIndex == 0 || r.LinkIndex == want.LinkIndex) {
			return true
		}
	}
	return false
}

// ourRoutes lists what is in our table under our tag.
func (h *Host) ourRoutes() ([]netlink.Route, error) {
	filter := &netlink.Route{Table: routeTable, Protocol: routeProtocol}
	routes, err := h.handle.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, explain("listing routes", err)
	}
	return routes, nil
}

// removeRoutes removes our routes but those to the prefixes to keep.
func (h *Host) removeRoutes(keep []netip.Prefix) error {
	routes, err := h.ourRoutes()
	if err != nil {
		return err
	}
	kept := make(map[netip.Prefix]bool)
	for _, p := range keep {
		kept[p] = true
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && kept[p] {
			continue
		}
		if err := h.handle.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return explain("removing a route", err)
		}
	}
	return nil
}
