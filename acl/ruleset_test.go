package acl

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	addrA  = netip.MustParseAddr("100.64.0.1")
	addrB  = netip.MustParseAddr("100.64.0.2")
	addrB6 = netip.MustParseAddr("fd7a::2")
)

// pair is a ruleset of two nodes, a with role 1 and b with role 2, and these rules from 1 to 2.
func pair(rules ...Rule) *Ruleset {
	for i := range rules {
		r := &rules[i]
		r.Ref = Ref{Section: "grants", Index: i, Line: i + 1, Column: 1}
		if r.Src.Roles == nil {
			r.Src.Roles, r.Dst.Roles = []RoleID{1}, []RoleID{2}
		}
		if r.Ports == nil {
			r.Ports = []Ports{{TCP, 22, 22}}
		}
	}
	return &Ruleset{Rules: rules, Subjects: []Subject{
		{Node: "a", Owner: "u1", Addresses: []netip.Addr{addrA}, Roles: []RoleID{1}},
		{Node: "b", Owner: "u2", Addresses: []netip.Addr{addrB, addrB6}, Roles: []RoleID{2}},
	}}
}

var ssh = Flow{Src: addrA, Dst: addrB, Proto: TCP, Port: 22}

func TestAllowsRefuses(t *testing.T) {
	mapped := netip.MustParseAddr("::ffff:100.64.0.2")
	twice := pair(Rule{})
	twice.Subjects = append(twice.Subjects, Subject{Node: "c", Addresses: []netip.Addr{addrB}, Roles: []RoleID{2}})
	for name, c := range map[string]struct {
		rs     *Ruleset
		flow   Flow
		reason string
	}{
		"everything by the zero ruleset":           {&Ruleset{}, ssh, "no node known here has the address 100.64.0.1 or serves a route to it"},
		"everything by the zero rule":              {&Ruleset{Rules: []Rule{{}}, Subjects: pair().Subjects}, ssh, "no rule lets a reach b on tcp 22"},
		"a flow without addresses":                 {pair(Rule{}), Flow{}, "an address is not in its plain form (no zone, no IPv4 dressed as IPv6)"},
		"an address dressed as IPv6":               {pair(Rule{}), Flow{addrA, mapped, TCP, 22}, "an address is not in its plain form (no zone, no IPv4 dressed as IPv6)"},
		"an address with a zone":                   {pair(Rule{}), Flow{addrB6.WithZone("eth0"), addrB6, TCP, 22}, "an address is not in its plain form (no zone, no IPv4 dressed as IPv6)"},
		"IPv4 to IPv6":                             {pair(Rule{}), Flow{addrA, addrB6, TCP, 22}, "100.64.0.1 and fd7a::2 are of different address families"},
		"an address that two nodes claim":          {twice, ssh, "no node known here has the address 100.64.0.2 or serves a route to it"},
		"the other direction":                      {pair(Rule{}), Flow{addrB, addrA, TCP, 22}, "no rule lets b reach a on tcp 22"},
		"another port":                             {pair(Rule{}), Flow{addrA, addrB, TCP, 23}, "no rule lets a reach b on tcp 23; grants[0], line 1 allows only tcp 22"},
		"another protocol":                         {pair(Rule{}), Flow{addrA, addrB, UDP, 22}, "no rule lets a reach b on udp 22; grants[0], line 1 allows only tcp 22"},
		"a protocol without a rule":                {pair(Rule{}), Flow{Src: addrA, Dst: addrB, Proto: 47}, "no rule lets a reach b on gre; grants[0], line 1 allows only tcp 22"},
		"another owner":                            {pair(Rule{SameOwner: true}), ssh, "no rule lets a reach b on tcp 22; grants[0], line 1 allows it between nodes of one owner only"},
		"at the end of a rule":                     {pair(Rule{Until: now.UnixMilli()}), ssh, "no rule lets a reach b on tcp 22; grants[0], line 1 allowed it until 2026-11-24T12:00:00Z"},
		"a rule with a restriction nobody defined": {pair(Rule{Restrictions: []Restriction{{Kind: "moon"}}}), ssh, "no rule lets a reach b on tcp 22; grants[0], line 1 allows it under a condition that is not met: moon"},
		"a rule with an empty restriction":         {pair(Rule{Restrictions: []Restriction{{}}}), ssh, "no rule lets a reach b on tcp 22; grants[0], line 1 allows it under a condition that is not met: "},
	} {
		d := c.rs.Allows(c.flow, now)
		if want := (Decision{Reason: c.reason}); d != want {
			t.Errorf("%s: %+v, want %+v", name, d, want)
		}
	}
}

func TestSameOwnerNeverJoinsNodesWithoutOwner(t *testing.T) {
	rs := pair(Rule{SameOwner: true})
	rs.Subjects[0].Owner, rs.Subjects[1].Owner = "", ""
	if rs.Allows(ssh, now).Allow {
		t.Error("two nodes without owner have one owner")
	}
	rs.Subjects[0].Owner, rs.Subjects[1].Owner = "u1", "u1"
	if !rs.Allows(ssh, now).Allow {
		t.Error("two nodes of one owner do not reach one another")
	}
}

func TestSameOwnerDoesNotReachBehindRoutes(t *testing.T) {
	all := Set{Roles: []RoleID{1}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	rs := pair(Rule{Src: all, Dst: all, SameOwner: true})
	rs.Subjects[1].Owner = "u1"
	rs.Subjects[1].Routes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if rs.Allows(Flow{addrA, netip.MustParseAddr("10.1.1.1"), TCP, 22}, now).Allow {
		t.Error("what lies behind a node has its owner")
	}
}

func TestDecisionNamesTheFirstRuleAndTheLatestEnd(t *testing.T) {
	at := func(minutes int) int64 { return now.Add(time.Duration(minutes) * time.Minute).UnixMilli() }
	over, soon, later, never := Rule{Until: at(-1)}, Rule{Until: at(1)}, Rule{Until: at(9)}, Rule{}
	locked := Rule{Restrictions: []Restriction{{Kind: "moon"}}}
	for name, c := range map[string]struct {
		rules []Rule
		first int
		until time.Time
	}{
		"one that never ends":       {[]Rule{never}, 0, time.Time{}},
		"one that ends":             {[]Rule{soon}, 0, time.UnixMilli(at(1))},
		"the latest comes second":   {[]Rule{soon, later}, 0, time.UnixMilli(at(9))},
		"the latest comes first":    {[]Rule{later, soon}, 0, time.UnixMilli(at(9))},
		"one never ends, first":     {[]Rule{never, soon}, 0, time.Time{}},
		"one never ends, last":      {[]Rule{soon, later, never}, 0, time.Time{}},
		"after an unending one":     {[]Rule{soon, never, later}, 0, time.Time{}},
		"those over do not count":   {[]Rule{over, soon}, 1, time.UnixMilli(at(1))},
		"those locked do not count": {[]Rule{locked, soon}, 1, time.UnixMilli(at(1))},
	} {
		rs := pair(c.rules...)
		d := rs.Allows(ssh, now)
		if !d.Allow || d.Rule != &rs.Rules[c.first] || !d.Until.Equal(c.until) || d.Reason != "" {
			t.Errorf("%s: %+v, want rule %d until %v", name, d, c.first, c.until)
		}
	}
}

func TestSubjectOfPrefersTheOwnerAndThenTheMostSpecificRoute(t *testing.T) {
	route := netip.MustParsePrefix
	rs := &Ruleset{Subjects: []Subject{
		{Node: "wide", Routes: []netip.Prefix{route("10.0.0.0/8"), route("0.0.0.0/0")}},
		{Node: "narrow", Routes: []netip.Prefix{route("10.1.0.0/16")}},
		{Node: "again", Routes: []netip.Prefix{route("10.1.0.0/16")}},
		{Node: "host", Addresses: []netip.Addr{netip.MustParseAddr("10.1.2.3")}},
	}}
	for addr, want := range map[string]string{
		"10.1.2.3": "host", "10.1.2.4": "narrow routed", "10.2.0.1": "wide routed", "8.8.8.8": "wide routed", "fd00::1": "", "::ffff:10.1.2.3": "",
	} {
		got := ""
		if s, routed := rs.SubjectOf(netip.MustParseAddr(addr)); s != nil {
			got = string(s.Node)
			if routed {
				got += " routed"
			}
		}
		if got != want {
			t.Errorf("%s belongs to %q, want %q", addr, got, want)
		}
	}
}

// A ruleset from the wire may hold anything.
func TestOddAddressesBelongToNobody(t *testing.T) {
	mapped, zoned := netip.MustParseAddr("::ffff:100.64.0.1"), netip.MustParseAddr("fe80::1%eth0")
	rs := &Ruleset{Subjects: []Subject{{Node: "a", Addresses: []netip.Addr{mapped, zoned, {}}}}}
	for _, a := range []netip.Addr{mapped, zoned, {}} {
		if s, _ := rs.SubjectOf(a); s != nil {
			t.Errorf("%s belongs to %s", a, s.Node)
		}
	}
}

func TestPrefixesMatchANodesOwnAddressesAndNotItsOthers(t *testing.T) {
	set := Set{Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}}
	rs := pair(Rule{Src: Set{Roles: []RoleID{1}}, Dst: set})
	if !rs.Allows(ssh, now).Allow {
		t.Error("a prefix does not match an address in it")
	}
	rs.Subjects[0].Addresses = []netip.Addr{netip.MustParseAddr("fd7a::1")}
	if rs.Allows(Flow{netip.MustParseAddr("fd7a::1"), addrB6, TCP, 22}, now).Allow {
		t.Error("a prefix around a node's IPv4 address matches its IPv6 one")
	}
}

// What lies beyond an exit node is another set than what lies behind a subnet router and at nodes.
func TestExitsCarryBeyondAloneAndNothingElseDoes(t *testing.T) {
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	public, inside := netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("10.1.1.1")
	for name, c := range map[string]struct {
		dst  Set
		to   netip.Addr
		want bool
	}{
		"prefixes beyond an exit":           {Set{Prefixes: everything}, public, false},
		"beyond at a node":                  {Set{Beyond: everything}, addrB, false},
		"beyond behind a subnet router":     {Set{Beyond: everything}, inside, false},
		"beyond an exit":                    {Set{Beyond: everything}, public, true},
		"prefixes behind a subnet router":   {Set{Prefixes: everything}, inside, true},
		"the exit's role beyond it":         {Set{Roles: []RoleID{2}}, public, false},
		"the router's role behind a subnet": {Set{Roles: []RoleID{2}}, inside, false},
	} {
		rs := pair(Rule{Src: Set{Roles: []RoleID{1}}, Dst: c.dst})
		rs.Subjects[1].Routes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.0.0.0/8")}
		if got := rs.Allows(Flow{addrA, c.to, TCP, 22}, now).Allow; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestBetween(t *testing.T) {
	rs := pair(
		Rule{},
		Rule{Until: now.UnixMilli()},
		Rule{Restrictions: []Restriction{{Kind: "moon"}}},
		Rule{SameOwner: true},
		Rule{Ports: anyPorts(), Until: now.UnixMilli() + 1},
		Rule{Src: Set{Roles: []RoleID{2}}, Dst: Set{Roles: []RoleID{1}}, Ports: []Ports{whole(ICMP), whole(ICMPv6)}},
	)
	show := func(src, dst NodeID) (out []string) {
		for _, a := range rs.Between()(src, dst, now) {
			out = append(out, a.Ref.String()+": "+a.String())
		}
		return out
	}
	if diff := cmp.Diff([]string{"grants[0], line 1: tcp 22", "grants[4], line 5: any"}, show("a", "b")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"grants[5], line 6: icmp"}, show("b", "a")); diff != "" {
		t.Error(diff)
	}
	if got := slices.Concat(show("a", "nobody"), show("nobody", "b")); got != nil {
		t.Errorf("nobody may %v", got)
	}
	rs.Subjects[1].Addresses = []netip.Addr{addrB6}
	if got := show("a", "b"); got != nil {
		t.Errorf("across families %v", got)
	}
}

func TestExplanationOrdersNearMisses(t *testing.T) {
	other := Set{Roles: []RoleID{9}}
	rs := pair(
		Rule{Src: other, Dst: Set{Roles: []RoleID{2}}},
		Rule{Src: Set{Roles: []RoleID{1}}, Dst: other},
		Rule{SameOwner: true},
		Rule{Ports: []Ports{{UDP, 53, 53}}},
		Rule{Restrictions: []Restriction{{Kind: "moon"}}},
		Rule{Until: 1},
		Rule{Src: other, Dst: other},
		Rule{Src: other, Dst: Set{Roles: []RoleID{2}}, Ports: []Ports{{UDP, 53, 53}}},
	)
	e := rs.Explain(ssh, now)
	var got []string
	for _, n := range e.Near {
		got = append(got, n.Rule.Ref.String()+" "+string(n.Miss))
	}
	want := []string{
		"grants[5], line 6 over", "grants[4], line 5 restriction", "grants[3], line 4 ports", "grants[2], line 3 owner",
		"grants[0], line 1 source", "grants[1], line 2 destination",
	}
	if diff := cmp.Diff(want, got); diff != "" || e.Src != "a" || e.Dst != "b" || e.Allow {
		t.Errorf("%+v\n%s", e, diff)
	}
}

func TestExplanationOfAnAllowedFlowNamesTheRule(t *testing.T) {
	names := func(id NodeID) string { return "node " + strings.ToUpper(string(id)) }
	if got := pair(Rule{}).Explain(ssh, now).Text(names); got != "grants[0], line 1 lets node A reach node B on tcp 22" {
		t.Error(got)
	}
}

func TestExplanationNamesAFewRulesOnly(t *testing.T) {
	rules := make([]Rule, 40)
	for i := range rules {
		rules[i].Ports = []Ports{{TCP, uint16(i + 100), uint16(i + 100)}}
	}
	e := pair(rules...).Explain(ssh, now)
	if got := strings.Count(e.String(), "grants["); got != maxNearWords || len(e.Near) != maxNear {
		t.Errorf("%d rules in words, %d in all: %s", got, len(e.Near), e)
	}
}

func TestRulesetOnTheWire(t *testing.T) {
	r := Rule{
		Ref: Ref{"grants", 1, 4, 3}, Src: Set{Roles: []RoleID{1 << 63}}, Dst: Set{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		Ports: []Ports{{TCP, 1, 2}}, SameOwner: true, Until: 5, Restrictions: []Restriction{{Kind: "k", Value: "v"}},
	}
	b, err := json.Marshal(r)
	want := `{"ref":{"section":"grants","index":1,"line":4,"column":3},"src":{"roles":[9223372036854775808]},"dst":{"prefixes":["10.0.0.0/8"]},` +
		`"ports":[{"proto":6,"first":1,"last":2}],"sameOwner":true,"until":5,"restrictions":[{"kind":"k","value":"v"}]}`
	if err != nil || string(b) != want {
		t.Errorf("%s\nwant %s (%v)", b, want, err)
	}
}
