package main

import (
	"net/netip"
	"slices"
	"testing"

	"picket.internal/node/localapi"
)

func TestRoutingFields(t *testing.T) {
	p := netip.MustParsePrefix
	got := routingFields(localapi.Routing{
		Serves:     []localapi.Served{{Route: p("10.33.0.0/16"), Approved: true}, {Route: p("10.34.0.0/16")}, {Route: p("::/0")}},
		KeepSource: true,
		Offers: []localapi.Offer{
			{Route: p("0.0.0.0/0"), Peer: "vps", Used: true}, {Route: p("0.0.0.0/0"), Peer: "other"}, {Route: p("10.40.0.0/16"), Peer: "r1", Used: true},
			{Route: p("10.50.0.0/16"), Peer: "r2"}, {Route: p("::/0"), Peer: "vps", Used: true},
		},
		Exit: "vps", ExitLAN: true,
	})
	want := []string{
		"Serves", "10.33.0.0/16 (without SNAT)",
		"Not approved", "10.34.0.0/16, the internet (IPv6): picket-coordinator nodes routes approve, or the policy's autoApprovers",
		"Routes used", "10.40.0.0/16 by r1",
		"Not used", "10.50.0.0/16 by r2: use --accept-routes (picket set)",
		"Exit node", "vps for IPv4 and IPv6, own networks directly",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	if got := routingFields(localapi.Routing{Exit: "vps"}); !slices.Equal(got, []string{"Exit node", "vps for nothing now"}) {
		t.Errorf("an exit node that is gone: %q", got)
	}
	if got := routingFields(localapi.Routing{}); len(got) != 0 {
		t.Errorf("nothing routed: %q", got)
	}
}
