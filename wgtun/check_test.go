package wgtun

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

// idle returns a tunnel that is never run.
func idle(t *testing.T) *Tunnel {
	t.Helper()
	n := nettest.New(1)
	tunnel, err := New(Config{TUN: nettest.NewTUN(DefaultMTU), Bind: n.Host(netip.MustParseAddr("192.0.2.1")).Bind(), Tunnel: key.NewTunnel(), Probe: key.NewProbe()})
	if err != nil {
		t.Fatal(err)
	}
	return tunnel
}

func newPeer(node acl.NodeID, addr string) Peer {
	return Peer{Node: node, Device: key.NewDevice().Public(), Tunnel: key.NewTunnel().Public(), Probe: key.NewProbe().Public(),
		Addresses: []netip.Addr{netip.MustParseAddr(addr)}}
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestApplyRefusesWhole feeds states that are unsound in themselves: each is refused, and what was in force stays (R11).
func TestApplyRefusesWhole(t *testing.T) {
	self := acl.Subject{Node: "me", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1")}, Routes: prefixes("192.168.7.0/24")}
	tests := []struct {
		name  string
		spoil func(own identity, s *State)
	}{
		{"two peers with one address", func(_ identity, s *State) { s.Peers[1].Addresses = s.Peers[0].Addresses }},
		{"two peers with one tunnel key", func(_ identity, s *State) { s.Peers[1].Tunnel = s.Peers[0].Tunnel }},
		{"two peers with one probe key", func(_ identity, s *State) { s.Peers[1].Probe = s.Peers[0].Probe }},
		{"two peers with one device key", func(_ identity, s *State) { s.Peers[1].Device = s.Peers[0].Device }},
		{"one node twice", func(_ identity, s *State) { s.Peers[1].Node = s.Peers[0].Node }},
		{"a peer without a node id", func(_ identity, s *State) { s.Peers[0].Node = "" }},
		{"a peer that is this node", func(_ identity, s *State) { s.Peers[0].Node = "me" }},
		{"a peer without a device key", func(_ identity, s *State) { s.Peers[0].Device = key.DevicePublic{} }},
		{"a peer without a tunnel key", func(_ identity, s *State) { s.Peers[0].Tunnel = key.TunnelPublic{} }},
		{"a peer without a probe key", func(_ identity, s *State) { s.Peers[0].Probe = key.ProbePublic{} }},
		{"a peer with our tunnel key", func(own identity, s *State) { s.Peers[0].Tunnel = own.tunnel }},
		{"a peer with our probe key", func(own identity, s *State) { s.Peers[0].Probe = own.probe }},
		{"a peer with our address", func(_ identity, s *State) { s.Peers[0].Addresses = self.Addresses }},
		{"a peer with a route over our address", func(_ identity, s *State) { s.Peers[0].Routes = prefixes("100.64.0.0/30") }},
		{"a peer with a route into ours", func(_ identity, s *State) { s.Peers[0].Routes = prefixes("192.168.7.128/25") }},
		{"a peer with a route over another's address", func(_ identity, s *State) { s.Peers[0].Routes = prefixes("100.64.0.3/32") }},
		{"two peers with one route", func(_ identity, s *State) {
			s.Peers[0].Routes, s.Peers[1].Routes = prefixes("10.0.0.0/8"), prefixes("10.0.0.0/8")
			knowPeers(s)
		}},
		{"two exit nodes at once", func(_ identity, s *State) {
			s.Peers[0].Routes, s.Peers[1].Routes = prefixes("0.0.0.0/0"), prefixes("0.0.0.0/0")
			knowPeers(s)
		}},
		{"a route around others' addresses that the rules know", func(_ identity, s *State) {
			s.Peers[0].Routes = prefixes("100.64.0.0/16")
			knowPeers(s)
		}},
		{"an exit node that the rules do not know", func(_ identity, s *State) { s.Peers[0].Routes = prefixes("0.0.0.0/0") }},
		{"a route of an exit node's that only the rules know", func(_ identity, s *State) {
			s.Peers[0].Routes = prefixes("0.0.0.0/0")
			knowPeers(s)
			s.Rules.Subjects = append(s.Rules.Subjects, acl.Subject{Node: "x", Routes: prefixes("10.1.0.0/16")})
		}},
		{"two peers with routes in each other that the rules do not know", func(_ identity, s *State) {
			s.Peers[0].Routes, s.Peers[1].Routes = prefixes("10.0.0.0/8"), prefixes("9.0.0.0/8", "10.9.0.0/16")
		}},
		{"overlapping routes of IPv6", func(_ identity, s *State) {
			s.Peers[0].Routes, s.Peers[1].Routes = prefixes("fd00::/16"), prefixes("fd00:1::/32")
		}},
		{"an address that the rules give to another node", func(_ identity, s *State) {
			s.Rules.Subjects = append(s.Rules.Subjects, acl.Subject{Node: "x", Addresses: s.Peers[0].Addresses})
		}},
		{"a route inside one that the rules give to another node", func(_ identity, s *State) {
			s.Rules.Subjects = append(s.Rules.Subjects, acl.Subject{Node: "x", Routes: prefixes("10.0.0.0/8")})
			s.Peers[0].Routes = prefixes("10.1.0.0/16")
		}},
		{"an invalid address", func(_ identity, s *State) { s.Peers[0].Addresses = []netip.Addr{{}} }},
		{"an IPv4-mapped address", func(_ identity, s *State) {
			s.Peers[0].Addresses = []netip.Addr{netip.MustParseAddr("::ffff:100.64.0.9")}
		}},
		{"an address with a zone", func(_ identity, s *State) { s.Peers[0].Addresses = []netip.Addr{netip.MustParseAddr("fd7a::1%eth0")} }},
		{"a loopback address", func(_ identity, s *State) { s.Peers[0].Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")} }},
		{"a link-local address", func(_ identity, s *State) { s.Peers[0].Addresses = []netip.Addr{netip.MustParseAddr("fe80::1")} }},
		{"a multicast address", func(_ identity, s *State) { s.Peers[0].Addresses = []netip.Addr{netip.MustParseAddr("224.0.0.5")} }},
		{"an invalid route", func(_ identity, s *State) { s.Peers[0].Routes = []netip.Prefix{{}} }},
		{"a route with host bits", func(_ identity, s *State) { s.Peers[0].Routes = prefixes("10.1.2.3/8") }},
		{"an IPv4-mapped route", func(_ identity, s *State) { s.Peers[0].Routes = prefixes("::ffff:10.0.0.0/104") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tunnel := idle(t)
			good := func(g uint64) State {
				return State{Generation: g, Self: "me", NotAfter: time.Now().Add(time.Hour),
					Peers: []Peer{newPeer("b", "100.64.0.2"), newPeer("c", "100.64.0.3")},
					Rules: &acl.Ruleset{Subjects: []acl.Subject{self}}}
			}
			if _, err := tunnel.Apply(good(1)); err != nil {
				t.Fatal(err)
			}
			policy, peers := tunnel.policy, len(tunnel.roster.peers)
			bad := good(2)
			test.spoil(tunnel.own, &bad)
			applied, err := tunnel.Apply(bad)
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("Apply: %v, want a refusal", err)
			}
			if diff := cmp.Diff(Applied{}, applied); diff != "" {
				t.Errorf("a refused state was applied in part:\n%s", diff)
			}
			if s := tunnel.Stats(); s.Generation != 1 || len(s.Peers) != peers || tunnel.policy != policy {
				t.Errorf("the old state did not stay: %+v", s)
			}
		})
	}
}

// knowPeers makes the rules know the peers as the tunnel does.
func knowPeers(s *State) {
	for _, p := range s.Peers {
		s.Rules.Subjects = append(s.Rules.Subjects, acl.Subject{Node: p.Node, Addresses: p.Addresses, Routes: p.Routes})
	}
}

// TestApplyAcceptsRoutesInEachOther: an exit node, a router, another router for a part of its network, and this node's own.
func TestApplyAcceptsRoutesInEachOther(t *testing.T) {
	s := State{Generation: 1, Self: "me", Peers: []Peer{newPeer("b", "100.64.0.2"), newPeer("c", "100.64.0.3"), newPeer("d", "100.64.0.4")},
		Rules: &acl.Ruleset{Subjects: []acl.Subject{{Node: "me", Routes: prefixes("10.1.2.0/24")}}}}
	s.Peers[0].Routes, s.Peers[1].Routes, s.Peers[2].Routes = prefixes("0.0.0.0/0", "::/0"), prefixes("10.0.0.0/8"), prefixes("10.1.0.0/16")
	knowPeers(&s)
	if _, err := idle(t).Apply(s); err != nil {
		t.Error(err)
	}
}

// TestPlanOfRoutes: who loses a part of what went to him leaves the device for a moment; who loses nothing stays.
func TestPlanOfRoutes(t *testing.T) {
	exit, router, other, stranger := newPeer("exit", "100.64.0.2"), newPeer("router", "100.64.0.3"), newPeer("other", "100.64.0.4"), newPeer("stranger", "100.64.0.9")
	exit.Routes, router.Routes = prefixes("0.0.0.0/0"), prefixes("10.0.0.0/8")
	with := func(p Peer, routes ...string) Peer { p.Routes = prefixes(routes...); return p }
	for name, test := range map[string]struct {
		want    []Peer
		removed []acl.NodeID
	}{
		"nothing changes":                   {[]Peer{exit, router, other}, nil},
		"an address beyond the exit node":   {[]Peer{exit, router, other, stranger}, nil},
		"a peer leaves":                     {[]Peer{exit, router}, []acl.NodeID{"other"}},
		"a part goes to another":            {[]Peer{exit, router, with(other, "10.1.0.0/16")}, []acl.NodeID{"router"}},
		"the whole goes to another":         {[]Peer{exit, with(router), with(other, "10.0.0.0/8")}, []acl.NodeID{"router"}},
		"what is wider goes to another":     {[]Peer{exit, with(router), with(other, "8.0.0.0/6")}, []acl.NodeID{"exit", "router"}},
		"it falls back to the exit node":    {[]Peer{exit, with(router), other}, []acl.NodeID{"router"}},
		"a route beyond the exit node":      {[]Peer{exit, router, with(other, "11.0.0.0/8")}, []acl.NodeID{"exit"}},
		"another family":                    {[]Peer{exit, router, with(other, "::/0")}, nil},
		"a route that nobody takes is gone": {[]Peer{router, other}, []acl.NodeID{"exit"}},
	} {
		overlay := prefixes("100.64.0.0/10")
		have := map[key.TunnelPublic]*member{}
		for _, p := range carve(&State{Peers: []Peer{exit, router, other}}, overlay) {
			have[p.Tunnel] = &member{installed: installed{peer: &p}}
		}
		var removed []acl.NodeID
		for _, in := range makePlan(have, carve(&State{Peers: test.want}, overlay)).remove {
			removed = append(removed, in.peer.Node)
		}
		slices.Sort(removed)
		if !slices.Equal(removed, test.removed) {
			t.Errorf("%s: %v are removed, want %v", name, removed, test.removed)
		}
	}
}

func TestApplyAcceptsNestedRoutesOfOneNode(t *testing.T) {
	tunnel := idle(t)
	p := newPeer("b", "100.64.0.2")
	p.Routes = prefixes("10.0.0.0/8", "10.1.0.0/16", "fd00::/16")
	s := State{Generation: 1, Self: "me", Peers: []Peer{p, newPeer("c", "100.64.0.3")},
		Rules: &acl.Ruleset{Subjects: []acl.Subject{{Node: "b", Addresses: p.Addresses, Routes: p.Routes}}}}
	if _, err := tunnel.Apply(s); err != nil {
		t.Error(err)
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	whole := Config{TUN: nettest.NewTUN(DefaultMTU), Bind: nettest.New(1).Host(netip.MustParseAddr("192.0.2.1")).Bind(), Tunnel: key.NewTunnel(), Probe: key.NewProbe()}
	for name, spoil := range map[string]func(*Config){
		"TUN":        func(c *Config) { c.TUN = nil },
		"tunnel key": func(c *Config) { c.Tunnel = key.TunnelPrivate{} },
		"probe key":  func(c *Config) { c.Probe = key.ProbePrivate{} },
	} {
		c := whole
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("New without a %s was accepted", name)
		}
	}
}
