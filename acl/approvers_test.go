package acl

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const approversPolicy = `{
	"groups": {"group:eng": ["bob@example.com", "carol@example.com"], "group:net": ["carol@example.com"]},
	"tagOwners": {"tag:router": [], "tag:exit": []},
	"autoApprovers": {
		"routes": {
			"10.0.0.0/8": ["tag:router", "alice@example.com"], "10.20.0.0/16": ["group:eng"], "fd00:1::/32": ["autogroup:tagged"],
			"192.168.0.0/16": ["autogroup:member"], "172.16.0.0/12": [], "0.0.0.0/0": ["tag:exit"],
		},
		"exitNode": ["tag:exit", "alice@example.com", "autogroup:network-admin"],
		"services": {"svc:web": ["tag:router"], "tag:exit": []},
	},
}`

func TestApprovesRoute(t *testing.T) {
	p := mustParse(t, approversPolicy)
	// Of each route those who need no approval: users by name, tags by their own.
	for route, want := range map[string]string{
		"0.0.0.0/0": "tag:exit alice", "::/0": "tag:exit alice", // exitNode only: 0.0.0.0/0 under routes does not count
		"10.0.0.0/8": "tag:router tag:exit alice", "10.1.2.3/32": "tag:router tag:exit alice",
		"10.20.0.0/16": "tag:router tag:exit alice bob carol", "10.20.30.0/24": "tag:router tag:exit alice bob carol", "10.20.0.0/15": "tag:router tag:exit alice",
		"0.0.0.0/1": "tag:exit", "8.0.0.0/6": "tag:exit", "1.1.1.1/32": "tag:exit", "172.16.0.0/12": "tag:exit",
		"192.168.7.0/24": "tag:exit alice bob carol zoe", "fd00:1:2::/48": "tag:router tag:exit", "fd00::/16": "", "2001:db8::/32": "",
	} {
		var got []string
		for _, who := range strings.Fields("tag:router tag:exit alice bob carol zoe") {
			n, owner := &Node{}, User{ID: "u", Login: strings.ToUpper(who) + "@example.com"}
			if strings.HasPrefix(who, "tag:") {
				n.Tags, owner = []string{"tag:unknown", who}, User{}
			}
			if p.ApprovesRoute(n, owner, netip.MustParsePrefix(route)) {
				got = append(got, who)
			}
		}
		if diff := cmp.Diff(strings.Fields(want), append([]string{}, got...)); diff != "" {
			t.Errorf("%s: %s", route, diff)
		}
	}
}

func TestApprovesRouteOnlyForWhoIsNamed(t *testing.T) {
	p := mustParse(t, approversPolicy)
	alice := User{ID: "u", Login: "alice@example.com"}
	for name, v := range map[string]struct {
		n     Node
		owner User
		route netip.Prefix
	}{
		"a tagged node has no owner":      {Node{Tags: []string{"tag:other"}}, alice, netip.MustParsePrefix("10.0.0.0/8")},
		"nobody":                          {Node{}, User{}, netip.MustParsePrefix("192.168.0.0/16")},
		"a stranger with the Kelvin sign": {Node{}, User{Login: "alice@example.com\u212a"}, netip.MustParsePrefix("10.0.0.0/8")},
		"bits behind the mask":            {Node{}, alice, netip.MustParsePrefix("10.1.2.3/8")},
		"an IPv4 address dressed as IPv6": {Node{}, alice, netip.MustParsePrefix("::ffff:10.0.0.0/104")},
		"no prefix":                       {Node{}, alice, netip.Prefix{}},
		"an exit node by routes alone":    {Node{}, User{Login: "bob@example.com"}, netip.MustParsePrefix("0.0.0.0/0")},
		"a role that is not named":        {Node{}, User{Login: "x@example.com", Role: "admin"}, netip.MustParsePrefix("10.0.0.0/8")},
	} {
		if p.ApprovesRoute(&v.n, v.owner, v.route) {
			t.Errorf("%s: approved", name)
		}
	}
	if !p.ApprovesRoute(&Node{}, User{Login: "x@example.org", Role: "network-admin"}, netip.MustParsePrefix("::/0")) {
		t.Error("a role that is named is refused")
	}
	if Deny().ApprovesRoute(&Node{}, alice, netip.MustParsePrefix("10.0.0.0/8")) || mustParse(t, "{}").ApprovesRoute(&Node{}, alice, netip.MustParsePrefix("::/0")) {
		t.Error("no policy approves")
	}
}

func TestIdentity(t *testing.T) {
	p := mustParse(t, approversPolicy)
	person, machine := p.identify(nil, "Carol@Example.com", "admin"), p.identify([]string{"tag:exit"}, "carol@example.com", "admin")
	odd := p.identify(nil, "x@y.org", "shared")
	for _, v := range []struct {
		s     selector
		names string
	}{
		{selector{kind: kindRole, text: "autogroup:owner"}, ""},
		{selector{kind: kindDomain, text: "user:*@example.org"}, ""},
		{selector{kind: kindDomain, text: "user:*@"}, ""},
		{selector{kind: kindSelf, text: "autogroup:self"}, ""},
		{selector{kind: kindShared, text: "autogroup:shared"}, ""},
		{selector{kind: kindAny, text: "*"}, ""},
		{selector{kind: kindPrefix, text: "carol@example.com"}, ""},
		{selector{kind: kindUser, text: "carol@example.com"}, "person"},
		{selector{kind: kindGroup, text: "group:net"}, "person"},
		{selector{kind: kindDomain, text: "user:*@example.com"}, "person"},
		{selector{kind: kindMember, text: "autogroup:member"}, "person odd"},
		{selector{kind: kindRole, text: "autogroup:admin"}, "person"},
		{selector{kind: kindTag, text: "tag:exit"}, "machine"},
		{selector{kind: kindTagged, text: "autogroup:tagged"}, "machine"},
	} {
		var got []string
		for name, w := range map[string]identity{"person": person, "machine": machine, "odd": odd, "nobody": p.identify(nil, "", "admin"), "zero": {}} {
			if w.is(v.s) {
				got = append(got, name)
			}
		}
		slices.SortFunc(got, func(a, b string) int { return strings.Compare(b, a) })
		if strings.Join(got, " ") != v.names {
			t.Errorf("%s names %v, want %s", v.s.text, got, v.names)
		}
	}
}

func TestApproverWarnings(t *testing.T) {
	var got []string
	for _, w := range mustParse(t, approversPolicy).Warnings() {
		got = append(got, w.String())
	}
	want := []string{
		"line 7, column 65: warning: `0.0.0.0/0` approves every route of its family, but no exit node: exit nodes are approved by `exitNode`",
		"line 10, column 15: warning: `services` has no effect: Picket has no services to approve",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
