package hostnet

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newClient is a host on the wire 192.0.2.0/24 with a default route and a TUN.
func newClient(t *testing.T) *Host {
	t.Helper()
	newNamespace(t)
	addTUN(t, "picket0")
	addWire(t, "eth0")
	eth := link(t, "eth0")
	must(t, netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.1/24"))}))
	must(t, netlink.LinkSetUp(eth))
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 254)}))
	return newHost(t)
}

// way is the interface by which packets to dst leave, marked or not: "unreachable" when by none.
func way(t *testing.T, dst string, mark uint32) string {
	t.Helper()
	routes, err := netlink.RouteGetWithOptions(net.ParseIP(dst), &netlink.RouteGetOptions{Mark: mark})
	if err != nil {
		return "unreachable"
	}
	l, err := netlink.LinkByIndex(routes[0].LinkIndex)
	must(t, err)
	return l.Attrs().Name
}

func wantWays(t *testing.T, want map[string]string) {
	t.Helper()
	for dst, by := range want {
		if got := way(t, dst, 0); got != by {
			t.Errorf("%s leaves by %s, want %s", dst, got, by)
		}
	}
}

func TestRoutesOfPeersLeadIntoTheTunnel(t *testing.T) {
	h := newClient(t)
	c := testConfig()
	c.Routes = prefixes("10.33.0.0/16", "192.0.2.128/25", "fd00:33::/32")
	for range 2 {
		must(t, h.Configure(c))
	}
	// A more specific network of a peer's may lie in the host's own: who answers there by DHCP must not be able to keep us out of it.
	wantWays(t, map[string]string{"10.33.7.7": "picket0", "192.0.2.200": "picket0", "fd00:33::7": "picket0", "192.0.2.7": "eth0", "198.51.100.1": "eth0"})
	if got := way(t, "192.0.2.200", Mark); got != "eth0" {
		t.Errorf("the tunnel's own datagrams to a peer's network leave by %s", got)
	}
	must(t, netlink.RouteDel(&netlink.Route{Gw: net.IPv4(192, 0, 2, 254)}))
	if got := way(t, "10.33.7.7", Mark); got != "unreachable" {
		t.Errorf("without a way out, the tunnel's own datagrams leave by %s", got)
	}
	must(t, netlink.LinkDel(link(t, "picket0")))
	wantWays(t, map[string]string{"10.33.7.7": "unreachable", "192.0.2.200": "unreachable", "fd00:33::7": "unreachable", "192.0.2.7": "eth0"})
	addTUN(t, "picket0")
	must(t, h.Configure(testConfig()))
	wantSnapshot(t, h, append([]string{"addr 100.64.0.1/32", "addr 192.0.2.1/24"}, configured[1:]...))
}

func TestExitNode(t *testing.T) {
	for exit, lan := range map[Exit]string{ExitNotLAN: "picket0", ExitWithLAN: "eth0"} {
		h := newClient(t)
		c := testConfig()
		c.Exit, c.Routes = exit, prefixes("192.0.2.128/25")
		must(t, h.Configure(c))
		wantWays(t, map[string]string{"198.51.100.1": "picket0", "2001:db8::1": "picket0", "192.0.2.7": lan, "192.0.2.200": "picket0", "127.0.0.1": "lo", "192.0.2.1": "lo"})
		if got := way(t, "198.51.100.1", Mark); got != "eth0" {
			t.Errorf("the tunnel's own datagrams leave by %s", got)
		}
		before := snapshot(t, h)
		must(t, h.Configure(c))
		if got := snapshot(t, h); !slices.Equal(got, before) {
			t.Errorf("configured twice, the host has %v, before %v", got, before)
		}
		// Whatever ends the agent takes its interface along: nothing leaves in clear.
		must(t, netlink.LinkDel(link(t, "picket0")))
		gone := "unreachable"
		if exit == ExitWithLAN {
			gone = "eth0"
		}
		wantWays(t, map[string]string{"198.51.100.1": "unreachable", "2001:db8::1": "unreachable", "192.0.2.7": gone})
		must(t, newHost(t).Remove())
		wantWays(t, map[string]string{"198.51.100.1": "eth0", "192.0.2.7": "eth0"})
		wantSnapshot(t, h, []string{"addr 192.0.2.1/24"})
	}
}

// TestServedNetworksAreReachedByTheHostItself: a site's router that uses others' networks, around its own, and an exit node.
func TestServedNetworksAreReachedByTheHostItself(t *testing.T) {
	h := newClient(t)
	c := testConfig()
	c.Routes, c.Served, c.Exit = prefixes("192.0.0.0/8", "192.0.2.128/25"), prefixes("192.0.2.0/24"), ExitNotLAN
	for range 2 {
		must(t, h.Configure(c))
	}
	wantWays(t, map[string]string{"192.0.2.7": "eth0", "192.0.2.200": "picket0", "192.0.7.7": "picket0", "198.51.100.1": "picket0"})
	c.Served = nil
	must(t, h.Configure(c))
	wantWays(t, map[string]string{"192.0.2.7": "picket0"})
}

// TestRulesOfOthersStay: other programs' rules at the same priorities, or with our mark, are theirs.
func TestRulesOfOthersStay(t *testing.T) {
	h := newClient(t)
	foreign := netlink.NewRule()
	foreign.Family, foreign.Priority, foreign.Table, foreign.Dst = netlink.FAMILY_V4, rulePriority, unix.RT_TABLE_MAIN, ipNet(netip.MustParsePrefix("203.0.113.0/24"))
	must(t, netlink.RuleAdd(foreign))
	c := testConfig()
	c.Exit = ExitNotLAN
	must(t, h.Configure(c))
	must(t, h.Configure(testConfig()))
	must(t, h.Remove())
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	must(t, err)
	if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Priority == rulePriority && r.Dst.String() == "203.0.113.0/24" }) {
		t.Error("another program's rule was removed")
	}
}
