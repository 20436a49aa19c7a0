package filter

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
)

// swapRules puts rules and denies in force over the test's subjects.
func (f *Filter) swapRules(rules, denies []acl.Rule, change func(*acl.Ruleset)) []Cut {
	rs := f.policyForTest()
	rs.Rules, rs.Denies = rules, denies
	if change != nil {
		change(rs)
	}
	return f.Swap(&Policy{Self: "self", Rules: rs, NotAfter: time.Now().Add(time.Hour)})
}

// A deny beats every rule that allows, for what it names and nothing else, and cuts what is under way.
func TestDenyBeatsEveryRule(t *testing.T) {
	all := acl.Rule{Src: roles(roleSelf), Dst: acl.Set{Roles: []acl.RoleID{roleAlice, roleBob}}, Ports: []acl.Ports{whole4(acl.UDP)}}
	f := newFilter(t, all)
	passes(t, "before", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	deny := acl.Rule{Ref: acl.Ref{Section: "denies"}, Src: roles(roleSelf), Dst: roles(roleAlice), Ports: []acl.Ports{udpPort(53)}}
	cuts := f.swapRules([]acl.Rule{all, outRule(udpPort(53))}, []acl.Rule{deny}, nil)
	if len(cuts) != 1 {
		t.Errorf("%d flows are cut", len(cuts))
	}
	refused(t, "the flow that was", f.Ingress(udp(at(alice4, 53), at(self4, 5000), 1)), ReasonCut)
	refused(t, "denied", f.Egress(udp(at(self4, 5001), at(alice4, 53), 1)), ReasonDenied)
	passes(t, "another port", f.Egress(udp(at(self4, 5001), at(alice4, 54), 1)))
	passes(t, "another peer", f.Egress(udp(at(self4, 5001), at(bob4, 53), 1)))

	// What this build does not understand of a deny must not make it narrower.
	deny.Restrictions, deny.Via = []acl.Restriction{{Kind: "full-moon"}}, []acl.RoleID{roleBob}
	f.swapRules([]acl.Rule{all}, []acl.Rule{deny}, nil)
	refused(t, "denied under a restriction", f.Egress(udp(at(self4, 5002), at(alice4, 53), 1)), ReasonDenied)
}

// A deny ends when it says so, and what it refused may be opened then.
func TestDenyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(udpPort(53)))
		deny := acl.Rule{Src: roles(roleSelf), Dst: roles(roleAlice), Ports: []acl.Ports{udpPort(53)}, Until: time.Now().Add(time.Minute).UnixMilli()}
		f.swapRules([]acl.Rule{outRule(udpPort(53))}, []acl.Rule{deny}, nil)
		refused(t, "at first", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), ReasonDenied)
		advance(f, time.Minute-time.Millisecond)
		refused(t, "to the last moment", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), ReasonDenied)
		advance(f, 2*time.Millisecond)
		passes(t, "afterwards", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	})
}

// Via names the routers that a flow may take, and nothing at nodes' own addresses.
func TestViaNamesTheRouter(t *testing.T) {
	rule := acl.Rule{Src: roles(roleSelf), Dst: acl.Set{Prefixes: prefixes("10.0.0.0/8", "100.64.0.0/10")}, Ports: []acl.Ports{udpPort(53)}}
	for name, tt := range map[string]struct {
		via  []acl.RoleID
		want bool
	}{"no via": {nil, true}, "bob": {[]acl.RoleID{roleBob}, true}, "alice": {[]acl.RoleID{roleAlice}, false}, "either": {[]acl.RoleID{roleAlice, roleBob}, true}} {
		rule.Via = tt.via
		f := newFilter(t, rule)
		f.swapRules([]acl.Rule{rule}, nil, func(rs *acl.Ruleset) { rs.Subjects[2].Roles = []acl.RoleID{roleBob} })
		if got := f.Egress(udp(at(self4, 5000), at(behindBob, 53), 1)); (got.Verdict == Pass) != tt.want {
			t.Errorf("%s: behind bob %+v", name, got)
		}
		if got := f.Egress(udp(at(self4, 5000), at(bob4, 53), 1)); (got.Verdict == Pass) != (tt.via == nil) {
			t.Errorf("%s: bob himself %+v", name, got)
		}
	}
}

// A posture is the source node's own: what lies behind a router has none, whatever the router is like.
func TestPostureIsTheSourceNodesOwn(t *testing.T) {
	rule := acl.Rule{Src: acl.Set{Roles: []acl.RoleID{roleAlice}, Prefixes: prefixes("10.0.0.0/8")}, SrcPosture: []acl.RoleID{roleAlice},
		Dst: roles(roleSelf), Ports: []acl.Ports{udpPort(53)}}
	f := newFilter(t, rule)
	f.swapRules([]acl.Rule{rule}, nil, func(rs *acl.Ruleset) {
		rs.Subjects[2].Roles = append([]acl.RoleID{roleAlice}, rs.Subjects[2].Roles...) // bob, the router, meets it
	})
	passes(t, "alice", f.Ingress(udp(at(alice4, 5000), at(self4, 53), 1)))
	refused(t, "behind bob", f.Ingress(udp(at(behindBob, 5000), at(self4, 53), 1)), ReasonNoRule)
}

// An address names itself: not the node's address in the other family.
func TestAddressIsLiteral(t *testing.T) {
	rule := acl.Rule{Src: roles(roleSelf), Dst: acl.Set{Prefixes: []netip.Prefix{netip.PrefixFrom(alice4, 32)}}, Ports: []acl.Ports{udpPort(53)}}
	f := newFilter(t, rule)
	passes(t, "the address", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	refused(t, "her other one", f.Egress(udp(at(self6, 5000), at(alice6, 53), 1)), ReasonNoRule)
}
