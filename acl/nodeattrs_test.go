package acl

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNodeAttrsAreReadIntoTheirForm(t *testing.T) {
	p := mustParse(t, `{
	"tagOwners": {"tag:server": []},
	"nodeAttrs": [
		{"target": ["alice@example.com", "tag:server", "*", "*", "192.0.2.7", "autogroup:admin"], "attr": ["nextdns:abc123", "funnel", "https://example.com/cap/x?a=b"]},
		{"target": []}, // names nobody; Tailscale takes it (recorded 2026-05-07)
		{"target": ["autogroup:tagged"], "ipPool": ["100.81.0.0/16", "100.64.0.0/10", "100.99.0.7"],
			"app": {"tailscale.com/app-connectors": [{"name": "x", "connectors": ["tag:server"]}]}},
	],
}`)
	pfx := netip.MustParsePrefix
	want := []nodeAttr{
		{
			target: []selector{
				{kind: kindUser, text: "alice@example.com"}, {kind: kindTag, text: "tag:server"}, {kind: kindAny, text: "*"},
				{kind: kindPrefix, text: "192.0.2.7", prefix: pfx("192.0.2.7/32")}, {kind: kindRole, text: "autogroup:admin"},
			},
			attrs: []string{"nextdns:abc123", "funnel", "https://example.com/cap/x?a=b"},
		},
		{},
		{
			target: []selector{{kind: kindTagged, text: "autogroup:tagged"}},
			pools:  []netip.Prefix{pfx("100.81.0.0/16"), pfx("100.64.0.0/10"), pfx("100.99.0.7/32")},
			app:    map[string][]string{"tailscale.com/app-connectors": {`{"connectors":["tag:server"],"name":"x"}`}},
		},
	}
	if diff := cmp.Diff(want, p.nodeAttrs, cmp.AllowUnexported(nodeAttr{}, selector{}), cmp.Comparer(samePrefix)); diff != "" {
		t.Error(diff)
	}
	if w := p.Warnings(); len(w) != 1 || w[0].Line != 3 || w[0].Message != "`nodeAttrs` has no effect: Picket knows no attributes yet" {
		t.Errorf("warnings %v", w)
	}
}
