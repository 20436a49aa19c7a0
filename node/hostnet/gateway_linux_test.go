package hostnet

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestGateway: the host's own default router, whatever an exit node has put before it, and a description that changes with it alone.
func TestGateway(t *testing.T) {
	h := newClient(t)
	want := func(when, router string) {
		t.Helper()
		got, own, err := Gateway()
		if err != nil || got != netip.MustParseAddr(router) || own != netip.MustParseAddr("192.0.2.1") {
			t.Errorf("%s: %v from %v, %v", when, got, own, err)
		}
	}
	want("at first", "192.0.2.254")
	before := DefaultRoutes()
	c := testConfig()
	c.Exit = ExitNotLAN
	must(t, h.Configure(c))
	want("with an exit node", "192.0.2.254")
	if now := DefaultRoutes(); now != before {
		t.Errorf("an exit node counts as a move: %q, was %q", now, before)
	}
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 253), Priority: 7, LinkIndex: link(t, "eth0").Attrs().Index}))
	want("beside a worse one", "192.0.2.254")
	if now := DefaultRoutes(); now == before {
		t.Error("another default route is no change")
	}
	must(t, netlink.RouteDel(&netlink.Route{Gw: net.IPv4(192, 0, 2, 254)}))
	want("with the worse one alone", "192.0.2.253")
	must(t, netlink.RouteDel(&netlink.Route{Gw: net.IPv4(192, 0, 2, 253), Priority: 7, LinkIndex: link(t, "eth0").Attrs().Index}))
	if router, _, err := Gateway(); err == nil {
		t.Errorf("without a default route: %v", router)
	}
}
