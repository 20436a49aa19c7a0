//go:build linux

package integration

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// routesPolicy lets alice reach what is listed behind routers, and the internet when asked to.
func routesPolicy(ports string) string {
	return `{
	"tagOwners": {"tag:router": ["alice@example.com"], "tag:exit": ["alice@example.com"]},
	"autoApprovers": {"routes": {"10.33.0.0/16": ["tag:router"], "fd00:33::/32": ["tag:router"]}, "exitNode": ["tag:exit"]},
	"grants": [
		{"src": ["alice@example.com"], "dst": ["10.33.0.0/16", "fd00:33::/32"], "ip": [` + ports + `]},
		{"src": ["alice@example.com"], "dst": ["autogroup:internet"], "ip": ["*"]},
		{"src": ["bob@example.com"], "dst": ["10.33.0.9"], "ip": ["tcp:80"]},
		{"src": ["10.33.0.9"], "dst": ["alice@example.com"], "ip": ["tcp:9100"]},
	],
}`
}

const behindPorts = `"tcp:443", "udp:443", "icmp:*"`

// site is a network with a router's LAN and a printer on it.
type site struct {
	*network
	lan     *lab.LAN
	printer *lab.Host
	service *lab.Process // tcp 443 of the printer
}

func newSite(t *testing.T, policy string, routers ...string) *site {
	t.Helper()
	n := newNetwork(t, false, policy)
	s := &site{network: n}
	n.person("alice") // the owner of the tags
	var err error
	s.lan, err = n.LAN(33)
	n.must(err)
	s.printer, err = s.lan.Host("printer", 9)
	n.must(err)
	for _, port := range []string{"22", "80", "443"} {
		p, err := s.printer.Serve(n.ctx, "tcp", "[::]:"+port)
		n.must(err)
		s.service = p
	}
	_, err = s.printer.Serve(n.ctx, "udp", "[::]:443")
	n.must(err)
	for i, name := range routers {
		n.must(s.lan.Plug(n.host(name), i+1))
		n.server(name, "tag:router")
		n.set(n.nodes[name], "--advertise-routes", "10.33.0.0/24,fd00:33::/64")
	}
	return s
}

// set changes what a node routes.
func (n *network) set(node *lab.Node, args ...string) string {
	n.t.Helper()
	out, err := node.CLI(n.ctx, append([]string{"set"}, args...)...)
	n.must(err)
	return out
}

// until waits for something to become true.
func (n *network) until(what string, within time.Duration, ok func() bool) time.Duration {
	n.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			n.t.Fatalf("%s: not after %v", what, within)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// uses waits until a node uses a route of a peer.
func (n *network) uses(node *lab.Node, route, peer string, within time.Duration) time.Duration {
	n.t.Helper()
	return n.until(fmt.Sprintf("%s uses %s by %s", node.Host.Name, route, peer), within, func() bool {
		var s struct {
			Routing struct {
				Offers []struct {
					Route, Peer string
					Used        bool
				}
			}
		}
		if node.JSON(n.ctx, &s, "status") != nil {
			return false
		}
		for _, o := range s.Routing.Offers {
			if o.Route == route && o.Peer == peer && o.Used {
				return true
			}
		}
		return false
	})
}

// passes opens a flow that must open, and ends it.
func (n *network) passes(from *lab.Node, proto, addr string) {
	n.t.Helper()
	f, err := from.Dial(n.ctx, proto, addr)
	if err != nil {
		n.t.Errorf("%s to %s over %s: %v", from.Host.Name, addr, proto, err)
		return
	}
	f.Kill()
}

// refused opens a flow that must be refused at once.
func (n *network) refused(from *lab.Node, proto, addr string) {
	n.t.Helper()
	f, err := from.Dial(n.ctx, proto, addr)
	if err == nil {
		f.Kill()
		n.t.Errorf("%s to %s over %s passes", from.Host.Name, addr, proto)
		return
	}
	var r *lab.Refusal
	if errors.As(err, &r) && r.After > time.Second {
		n.t.Errorf("%s to %s: the refusal took %v", from.Host.Name, addr, r.After)
	}
}

// TestSubnetRouter: behind a router, identities reach what the policy names, in both families, and nothing else.
func TestSubnetRouter(t *testing.T) {
	s := newSite(t, routesPolicy(behindPorts), "r1")
	alice, bob := s.laptop("alice"), s.laptop("bob")
	at := func(port string) []string {
		return []string{net.JoinHostPort(s.lan.Address(9), port), net.JoinHostPort(s.lan.Address6(9), port)}
	}
	if out, _ := alice.CLI(s.ctx, "status"); !strings.Contains(out, "10.33.0.0/24 by r1, fd00:33::/64 by r1: use --accept-routes") {
		t.Errorf("alice is not told what is offered:\n%s", out)
	}
	for _, addr := range at("443") {
		if f, err := alice.Dial(s.ctx, "tcp", addr); err == nil {
			f.Kill()
			t.Errorf("%s is reached without --accept-routes", addr)
		}
	}
	s.set(alice, "--accept-routes")
	s.set(bob, "--accept-routes")
	for i, addr := range at("443") {
		s.passes(alice, "tcp", addr)
		s.passes(alice, "udp", addr)
		if i == 0 { // of the other family bob knows no route
			s.refused(bob, "tcp", addr)
		}
		s.refused(alice, "tcp", at("22")[i])
		s.refused(alice, "tcp", at("80")[i])
	}
	s.passes(bob, "tcp", at("80")[0])
	s.refused(bob, "tcp", at("80")[1]) // the grant names the IPv4 address
	s.ping(alice, s.lan.Address(9), true)
	s.ping(alice, s.lan.Address6(9), true)
	s.ping(bob, s.lan.Address(9), false)
	s.ping(alice, s.lan.Address(1), true) // the router's own address there
	if accepted := s.service.Output(); !strings.Contains(accepted, "accepted "+s.lan.Address(1)+":") {
		t.Errorf("the printer does not see the router's address:\n%s", accepted)
	}
	var why struct{ Allow bool }
	s.must(alice.JSON(s.ctx, &why, "why", at("443")[0]))
	if !why.Allow {
		t.Error("picket why says no to what passes")
	}
	_ = alice.JSON(s.ctx, &why, "why", at("22")[0])
	if why.Allow {
		t.Error("picket why says yes to what is refused")
	}

	for dst, want := range map[string]string{"443": "allowed", "22": "refused"} {
		if out, _ := s.coordinator.CLI(s.ctx, "policy", "why", "alice", s.lan.Address(9)+":"+dst); !strings.Contains(out, want) {
			t.Errorf("the operator is told of port %s:\n%s", dst, out)
		}
	}

	s.set(s.nodes["r1"], "--snat-subnet-routes=false")
	if f, err := alice.Dial(s.ctx, "tcp", at("443")[0]); err == nil {
		f.Kill()
		t.Error("without SNAT the printer answers although it has no route back")
	}
	s.must(s.printer.AddRoute("100.64.0.0/10", s.lan.Address(1)))
	s.passes(alice, "tcp", at("443")[0])
	if accepted := s.service.Output(); !strings.Contains(accepted, "accepted "+s.address(alice, false)+":") {
		t.Errorf("without SNAT the printer does not see alice's address:\n%s", accepted)
	}
	s.ontoTheOverlay(alice)
}

// ontoTheOverlay has the printer open flows, as far as a rule lets it.
func (s *site) ontoTheOverlay(alice *lab.Node) {
	s.t.Helper()
	for _, port := range []string{"9100", "9101"} {
		_, err := alice.Host.Serve(s.ctx, "tcp", "0.0.0.0:"+port)
		s.must(err)
	}
	f, err := s.printer.Connect(s.ctx, "tcp", net.JoinHostPort(s.address(alice, false), "9100"))
	if err != nil {
		s.t.Errorf("the printer does not reach what a rule opens to it: %v", err)
	} else {
		f.Kill()
	}
	if f, err := s.printer.Connect(s.ctx, "tcp", net.JoinHostPort(s.address(alice, false), "9101")); err == nil {
		f.Kill()
		s.t.Error("the printer reaches what no rule opens to it")
	}
}

// TestPolicyCutsRoutedFlows: both ends behind the router's address translation hear of it at once, and its kernel forgets the flow.
func TestPolicyCutsRoutedFlows(t *testing.T) {
	s := newSite(t, routesPolicy(behindPorts), "r1")
	alice := s.laptop("alice")
	s.set(alice, "--accept-routes")
	at := net.JoinHostPort(s.lan.Address(9), "443")
	tcp, err := alice.Dial(s.ctx, "tcp", at)
	s.must(err)
	udp, err := alice.Dial(s.ctx, "udp", at)
	s.must(err)
	r1 := s.host("r1")
	tracked, err := r1.Tracked(443)
	s.must(err)
	if len(tracked) != 2 {
		t.Fatalf("connection tracking knows %v", tracked)
	}
	id := s.commit(routesPolicy(`"tcp:22"`))
	s.operate("policy", "reload", "--wait")
	began := time.Now()
	if after, err := tcp.WaitCut(s.ctx, began); err != nil || after > time.Second {
		t.Errorf("%s: the flow ended after %v: %v", id, after, err)
	}
	s.until("the printer hears of it", time.Second, func() bool { return strings.Contains(s.service.Output(), "ended at") })
	s.until("connection tracking forgets", time.Second, func() bool {
		tracked, err := r1.Tracked(443)
		return err == nil && len(tracked) == 0
	})
	if udp.Alive(500 * time.Millisecond) {
		t.Error("the UDP flow goes on")
	}
	s.passes(alice, "tcp", net.JoinHostPort(s.lan.Address(9), "22"))
}

// TestRouterFailover: a second router takes over when the first is gone, and keeps it.
func TestRouterFailover(t *testing.T) {
	s := newSite(t, routesPolicy(behindPorts), "r1", "r2")
	alice := s.laptop("alice")
	s.set(alice, "--accept-routes")
	s.uses(alice, "10.33.0.0/24", "r1", 5*time.Second)
	flow, err := alice.Dial(s.ctx, "udp", net.JoinHostPort(s.lan.Address(9), "443"))
	s.must(err)
	s.nodes["r1"].Kill()
	took := s.uses(alice, "10.33.0.0/24", "r2", 25*time.Second)
	s.until("the flow goes on", 5*time.Second, func() bool { return flow.Process != nil && time.Since(flow.LastEcho()) < 100*time.Millisecond })
	t.Logf("the second router served after %v; the longest gap between two echoes was %v", took.Round(time.Millisecond), flow.LongestGap().Round(time.Millisecond))
	if gap := flow.LongestGap(); gap > 22*time.Second {
		t.Errorf("nothing was heard for %v", gap)
	}
	s.must(s.nodes["r1"].Start(s.ctx))
	s.until("r1 is back", 20*time.Second, func() bool {
		var st struct{ Connected bool }
		return s.nodes["r1"].JSON(s.ctx, &st, "status") == nil && st.Connected
	})
	before := flow.LongestGap()
	time.Sleep(5 * time.Second)
	s.uses(alice, "10.33.0.0/24", "r2", time.Second)
	if gap := flow.LongestGap(); gap > before {
		t.Errorf("the router that came back made a gap of %v", gap)
	}
	s.operate("nodes", "remove", "r2", "--wait")
	if took := s.uses(alice, "10.33.0.0/24", "r1", 5*time.Second); took > 2*time.Second {
		t.Errorf("after its removal, the other served after %v", took)
	}
	if out := s.operate("nodes", "routes", "list"); !strings.Contains(out, "10.33.0.0/24") {
		t.Errorf("nodes routes list:\n%s", out)
	}
}

// TestRouterOnItsHost: what a router does to its host is mended when others take it away, touches nothing of theirs, and goes.
func TestRouterOnItsHost(t *testing.T) {
	n := newNetwork(t, false, routesPolicy(behindPorts))
	n.person("alice")
	lan, err := n.LAN(33)
	n.must(err)
	host := n.host("r1")
	n.must(lan.Plug(host, 1))
	n.must(host.OwnTable("theirs"))
	before := n.firewall(host)
	r1 := n.server("r1", "tag:router")
	n.set(r1, "--advertise-routes", "10.33.0.0/24")
	n.until("it forwards", 5*time.Second, func() bool { on, err := host.Forwards(); return err == nil && on })
	serving := n.firewall(host)
	if !slices.Contains(serving, before[0]) || len(serving) < 6 {
		t.Errorf("serving, the host has %v", serving)
	}
	n.must(host.FlushRules())
	n.must(host.OwnTable("theirs"))
	took := n.until("the rules are back", 6*time.Second, func() bool { return slices.Equal(n.firewall(host), serving) })
	t.Logf("the rules were back after %v", took.Round(time.Millisecond))

	r1.Kill()
	if on, _ := host.Forwards(); !on {
		t.Error("a killed agent is said to have turned forwarding off")
	}
	n.must(r1.Start(n.ctx))
	n.until("it is connected", 20*time.Second, func() bool {
		var st struct{ Connected bool }
		return r1.JSON(n.ctx, &st, "status") == nil && st.Connected
	})
	_, err = r1.CLI(n.ctx, "down")
	n.must(err)
	if after := n.firewall(host); !slices.Equal(after, before) {
		t.Errorf("after down the host has %v, before %v", after, before)
	}
	if on, _ := host.Forwards(); on {
		t.Error("after down the host forwards")
	}
	if rules, err := host.RoutingRules(); err != nil || len(rules) != 0 {
		t.Errorf("after down there are %v, %v", rules, err)
	}
}

func (n *network) firewall(h *lab.Host) []string {
	n.t.Helper()
	out, err := h.Firewall()
	n.must(err)
	return out
}

// TestExitNode: the internet through another node, and not at all without it.
func TestExitNode(t *testing.T) {
	n := newNetwork(t, false, routesPolicy(behindPorts))
	alice, bob := n.laptop("alice"), n.laptop("bob")
	lan, err := n.LAN(44)
	n.must(err)
	private, err := lan.Host("private", 9)
	n.must(err)
	_, err = private.Serve(n.ctx, "tcp", "0.0.0.0:80")
	n.must(err)
	vps := n.host("vps")
	n.must(lan.Plug(vps, 1))
	exit := n.server("vps", "tag:exit")
	n.set(exit, "--advertise-exit-node")
	site := n.host("site") // somewhere on the internet
	web, err := site.Serve(n.ctx, "tcp", "[::]:80")
	n.must(err)
	at := net.JoinHostPort(site.IP.String(), "80")
	n.until("alice may use it", 5*time.Second, func() bool { _, err := alice.CLI(n.ctx, "set", "--exit-node", "vps"); return err == nil })
	if _, err := bob.CLI(n.ctx, "set", "--exit-node", "vps"); err == nil || !strings.Contains(err.Error(), "no exit node for this node") {
		t.Errorf("bob, whom the policy grants no internet, is answered %v", err)
	}
	if _, err := exit.CLI(n.ctx, "set", "--exit-node", "vps"); err == nil {
		t.Error("an exit node uses itself")
	}
	n.passes(alice, "tcp", at)
	if !strings.Contains(web.Output(), "accepted "+vps.IP.String()+":") {
		t.Errorf("the site did not see the exit node's address:\n%s", web.Output())
	}
	n.refused(alice, "tcp", net.JoinHostPort(lan.Address(9), "80")) // the exit node's own network
	var st struct{ Connected bool }
	n.must(alice.JSON(n.ctx, &st, "status"))
	if !st.Connected {
		t.Error("with the exit node alice lost the coordinator")
	}

	direct := "accepted " + alice.Host.IP.String() + ":"
	n.set(alice, "--exit-node-allow-lan-access")
	n.passes(alice, "tcp", at) // the site is on alice's own network here
	if !strings.Contains(web.Output(), direct) {
		t.Errorf("with LAN access the site did not see alice's own address:\n%s", web.Output())
	}
	n.set(alice, "--exit-node-allow-lan-access=false")
	n.leaksNothing(alice, exit, at, web, direct)
}

// leaksNothing ends first the exit node and then alice's own agent.
func (n *network) leaksNothing(alice, exit *lab.Node, at string, web *lab.Process, direct string) {
	n.t.Helper()
	seen := strings.Count(web.Output(), direct)
	exit.Kill()
	blocked := func(when string) {
		n.t.Helper()
		if f, err := alice.Host.Connect(n.ctx, "tcp", at); err == nil {
			f.Kill()
			n.t.Errorf("%s the internet is reached", when)
		}
		if strings.Count(web.Output(), direct) != seen {
			n.t.Errorf("%s alice's packets left in clear", when)
		}
	}
	blocked("with the exit node dead")
	if out, _ := alice.CLI(n.ctx, "status"); !strings.Contains(out, "the exit node vps is not connected") {
		n.t.Errorf("alice is not told:\n%s", out)
	}
	alice.Kill()
	blocked("with alice's agent killed")
	n.must(alice.Start(n.ctx))
	blocked("after it was started again")
	n.set(alice, "--exit-node=")
	n.passes(alice, "tcp", at)
	if _, err := exec.LookPath("ping"); err == nil {
		n.ping(alice, n.coordinator.Host.IP.String(), true)
	}
}
