package wgtun

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/nettest"
)

func TestCarve(t *testing.T) {
	overlay := prefixes("100.64.0.0/10", "fd7a::/48")
	exit, wide, narrow := newPeer("exit", "100.64.0.2"), newPeer("wide", "100.64.0.3"), newPeer("narrow", "100.64.0.4")
	exit.Routes, wide.Routes, narrow.Routes = prefixes("0.0.0.0/0", "::/0"), prefixes("10.0.0.0/14", "10.1.7.0/24", "10.200.0.0/16"), prefixes("10.1.0.0/16", "fd00:33::/32")
	plain := newPeer("plain", "100.64.0.5")
	plain.Routes = prefixes("172.16.0.0/12")
	given := []Peer{exit, wide, narrow, plain}
	peers := carve(&State{Peers: given}, overlay)
	if got, want := peers[1].carved, prefixes("10.0.0.0/16", "10.2.0.0/15", "10.1.7.0/24", "10.200.0.0/16"); !slices.Equal(got, want) {
		t.Errorf("of the wide routes the device is told %v, want %v", got, want)
	}
	if peers[3].carved != nil || given[0].carved != nil {
		t.Error("a peer with routes of its own alone, or the caller's, was changed")
	}
	for text, holder := range map[string]acl.NodeID{
		"10.1.2.3": "narrow", "10.1.7.9": "wide", "10.0.9.9": "wide", "10.3.255.255": "wide", "10.4.0.1": "exit", "100.64.0.9": "", "100.128.0.1": "exit",
		"172.16.0.1": "plain", "8.8.8.8": "exit", "fd00:33::9": "narrow", "fd00:34::9": "exit", "fd7a::77": "", "2001:db8::1": "exit", "255.255.255.255": "exit",
	} {
		a := netip.MustParseAddr(text)
		var has []acl.NodeID
		for _, p := range peers {
			in := installed{peer: &p}
			if slices.ContainsFunc(in.prefixes()[len(p.Addresses):], func(q netip.Prefix) bool { return q.Contains(a) }) {
				has = append(has, p.Node)
			}
		}
		if want := slices.DeleteFunc([]acl.NodeID{holder}, func(n acl.NodeID) bool { return n == "" }); !slices.Equal(has, want) {
			t.Errorf("the device takes %s for that of %v, want %v", a, has, want)
		}
	}
}

// TestCarveOfNothing: all of a route is others', and nothing of it must be the device's.
func TestCarveOfNothing(t *testing.T) {
	wide, one, two := newPeer("wide", "100.64.0.2"), newPeer("one", "100.64.0.3"), newPeer("two", "100.64.0.4")
	wide.Routes, one.Routes, two.Routes = prefixes("10.0.0.0/15"), prefixes("10.0.0.0/16"), prefixes("10.1.0.0/16")
	in := installed{peer: &carve(&State{Peers: []Peer{wide, one, two}}, nil)[0]}
	if got := in.prefixes(); len(got) != 1 {
		t.Errorf("the device is told %v", got)
	}
}

// TestExitNodePassesForNobodyAsleep has an exit node without a filter send from addresses of peers that the device does not have just now.
func TestExitNodePassesForNobodyAsleep(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.nodes[0], w.nodes[1]
		c := w.newNode("c")
		c.startHostile()
		w.apply(append(both(a, b), both(b, c)...)...)
		s := w.state(b, testLease, append(both(a, b), both(b, c)...)...)
		s.Generation++
		route := func(n *node, routes ...string) {
			for i := range s.Peers {
				if s.Peers[i].Node == n.id {
					s.Peers[i].Routes = prefixes(routes...)
				}
			}
			for i := range s.Rules.Subjects {
				if s.Rules.Subjects[i].Node == n.id {
					s.Rules.Subjects[i].Routes = prefixes(routes...)
				}
			}
		}
		route(a, "10.1.0.0/16")
		route(c, "0.0.0.0/0", "::/0", "10.0.0.0/8")
		s.Rules.Rules = append(s.Rules.Rules, acl.Rule{Src: acl.Set{Prefixes: prefixes("10.1.0.0/16")}, Dst: acl.Set{Roles: []acl.RoleID{b.role}},
			Ports: []acl.Ports{{Proto: acl.UDP, First: 80, Last: 80}}})
		if _, err := b.tunnel.Apply(s); err != nil {
			t.Fatal(err)
		}
		if err := converse(b, c, flowKinds[1].make(b.addrs[0], c.addrs[0], 0), 0, 1, time.Second); err != nil {
			t.Fatal(err) // there is a session
		}
		to := []netip.AddrPort{netip.AddrPortFrom(b.addrs[0], 80), netip.AddrPortFrom(b.addrs[1], 80)}
		for name, p := range map[string][]byte{
			"a sleeping peer's address":      udpPacket(netip.AddrPortFrom(a.addrs[0], 9), to[0], nil),
			"its IPv6 address":               udpPacket(netip.AddrPortFrom(a.addrs[1], 9), to[1], nil),
			"behind a sleeping peer's route": udpPacket(netip.MustParseAddrPort("10.1.2.3:9"), to[0], nil),
		} {
			c.tun.Send(p)
			time.Sleep(time.Millisecond)
			if got := b.received(); len(got) != 0 {
				t.Errorf("%s was taken from the exit node: % x", name, got)
			}
		}
	})
}
