package hostnet

import (
	"errors"
	"net/netip"
	"os"
	"slices"
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

// usable leaves out what the host cannot have.
func usable(prefixes []netip.Prefix) []netip.Prefix {
	if ipv6Enabled() {
		return prefixes
	}
	var out []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() {
			out = append(out, p)
		}
	}
	return out
}

// hostRule is one of our routing rules, in a form that can be compared. What leads to a table is left out of it where the kernel does not
// tell it: the priority says which kind a rule is.
type hostRule struct {
	family, priority, table int
	dst                     netip.Prefix // zero: any
	mark                    uint32       // 0: any
}

// ruleUnreachable is FR_ACT_UNREACHABLE of linux/fib_rules.h.
const ruleUnreachable = 7

func (r hostRule) netlink() *netlink.Rule {
	out := netlink.NewRule()
	out.Family, out.Priority, out.Table, out.Protocol, out.Mark = r.family, r.priority, r.table, routeProtocol, r.mark
	if r.dst.IsValid() {
		out.Dst = ipNet(r.dst)
	}
	if r.table == 0 {
		out.Type = ruleUnreachable
	}
	if r.priority == lanPriority {
		out.SuppressPrefixlen = 0
	}
	return out
}

func hostRuleOf(r netlink.Rule) hostRule {
	out := hostRule{family: r.Family, priority: r.Priority, table: r.Table, mark: r.Mark}
	if p, ok := prefixOf(r.Dst); ok {
		out.dst = p
	}
	return out
}

// wantedRules send lookups of what goes into the tunnel to our table. Where that is more than the overlay, what is marked goes by the host's
// own tables, and where these have no way for it, nowhere: never back into the tunnel.
func wantedRules(c Config) (out []hostRule) {
	for _, p := range usable(slices.Concat(c.Overlay, c.Routes)) {
		out = append(out, hostRule{family: family(p), priority: rulePriority, table: routeTable, dst: p})
	}
	if len(c.Routes) == 0 && c.Exit == NoExit {
		return out
	}
	for _, p := range usable(everything) {
		f := family(p)
		out = append(out,
			hostRule{family: f, priority: markPriority, table: unix.RT_TABLE_MAIN, mark: Mark},
			hostRule{family: f, priority: markPriority + 1, table: unix.RT_TABLE_DEFAULT, mark: Mark},
			hostRule{family: f, priority: markPriority + 2, mark: Mark})
		if c.Exit == ExitWithLAN {
			out = append(out, hostRule{family: f, priority: lanPriority, table: unix.RT_TABLE_MAIN})
		}
		if c.Exit != NoExit {
			out = append(out, hostRule{family: f, priority: exitPriority, table: routeTable})
		}
	}
	return out
}

// everything is each family whole.
var everything = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

func (h *Host) setRules(_ netlink.Link, c Config) error {
	wanted := wantedRules(c)
	if err := h.removeRules(wanted); err != nil {
		return err
	}
	for _, r := range wanted {
		if err := h.handle.RuleAdd(r.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
			return explain("adding a routing rule", err)
		}
	}
	return nil
}

// removeRules removes our rules but those to keep.
func (h *Host) removeRules(keep []hostRule) error {
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := h.handle.RuleList(f)
		if err != nil {
			return explain("listing routing rules", err)
		}
		for _, r := range rules {
			if r.Protocol != routeProtocol || r.Priority < markPriority || r.Priority > exitPriority || slices.Contains(keep, hostRuleOf(r)) {
				continue
			}
			if err := h.handle.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				return explain("removing a routing rule", err)
			}
		}
	}
	return nil
}

// setRoutes leads each overlay range, and what lies behind peers, to the TUN and, when that is gone, nowhere. The fallback goes in first.
func (h *Host) setRoutes(link netlink.Link, c Config) error {
	all := slices.Concat(c.Overlay, c.Routes)
	if c.Exit != NoExit {
		all = append(all, everything...)
	}
	wanted, served := usable(all), usable(c.subnets())
	if err := h.removeRoutes(slices.Concat(wanted, served)); err != nil {
		return err
	}
	have, err := h.ourRoutes()
	if err != nil {
		return err
	}
	for _, p := range wanted {
		for _, r := range []*netlink.Route{
			{Priority: fallbackMetric, Type: unix.RTN_UNREACHABLE},
			{Priority: tunMetric, Type: unix.RTN_UNICAST, LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK},
		} {
			if err := h.setRoute(have, r, p); err != nil {
				return err
			}
		}
	}
	// What this host serves is reached by its own routes, though it lie in a wider network of a peer's, or beyond an exit node.
	for _, p := range served {
		if err := h.setRoute(have, &netlink.Route{Priority: tunMetric, Type: unix.RTN_THROW}, p); err != nil {
			return err
		}
	}
	return nil
}

// setRoute adds the route to p unless it is there.
func (h *Host) setRoute(have []netlink.Route, r *netlink.Route, p netip.Prefix) error {
	if present(have, r, p) {
		return nil
	}
	r.Dst, r.Table, r.Protocol, r.Family = ipNet(p), routeTable, routeProtocol, family(p)
	return explain("adding the route to "+p.String(), h.handle.RouteReplace(r))
}

func present(have []netlink.Route, want *netlink.Route, p netip.Prefix) bool {
	for _, r := range have {
		if routePrefix(r) == p && r.Priority == want.Priority && r.Type == want.Type && (want.LinkIndex == 0 || r.LinkIndex == want.LinkIndex) {
			return true
		}
	}
	return false
}

// routePrefix is where a route leads; a default route may come without.
func routePrefix(r netlink.Route) netip.Prefix {
	if p, ok := prefixOf(r.Dst); ok {
		return p
	}
	if r.Family == netlink.FAMILY_V6 {
		return everything[1]
	}
	return everything[0]
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
		if kept[routePrefix(r)] {
			continue
		}
		if err := h.handle.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return explain("removing a route", err)
		}
	}
	return nil
}
