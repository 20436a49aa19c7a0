//go:build linux

package integration

import (
	"errors"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// reachPolicy lets two servers ping each other and talk over TCP.
const reachPolicy = `{
	"tagOwners": {"tag:left": ["alice@example.com"], "tag:right": ["alice@example.com"]},
	"grants": [
		{"src": ["tag:left"], "dst": ["tag:right"], "ip": ["icmp:*", "tcp:7000"]},
		{"src": ["tag:right"], "dst": ["tag:left"], "ip": ["icmp:*"]},
	],
}`

// behind starts a node at place 2 of network number i, behind a router.
func (n *network) behind(name, tag string, i int, c lab.NATConfig, args ...string) (*lab.Node, *lab.Host) {
	n.t.Helper()
	lan, router, err := n.NAT(i, c)
	n.must(err)
	h, err := lan.Behind(name, 2)
	n.must(err)
	node, err := h.StartNode(n.ctx, args...)
	n.must(err)
	n.admit(node, name, tag)
	return node, router
}

// direct waits for a direct path from a node to a peer, pinging meanwhile, and returns its address and how long that took.
func (n *network) direct(node *lab.Node, peer string, within time.Duration) (string, time.Duration) {
	n.t.Helper()
	began := time.Now()
	var last string
	for time.Since(began) < within {
		var a struct{ Path, Error string }
		_ = node.JSON(n.ctx, &a, "ping", "-c", "1", "--timeout", "1s", peer)
		if at, ok := strings.CutPrefix(a.Path, "direct "); ok && a.Error == "" {
			return at, time.Since(began)
		}
		last = a.Error
	}
	n.t.Fatalf("%s has no direct path to %s after %v: %s", node.Host.Name, peer, within, last)
	return "", 0
}

// TestTwoNATs: each of two nodes behind another router sees the other by the address that the coordinator's reflector told that one. Both routers
// let in only what answers, so it takes pings of both at once.
func TestTwoNATs(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	n.person("alice")
	left, leftRouter := n.behind("left", "tag:left", 11, lab.NATConfig{})
	_, rightRouter := n.behind("right", "tag:right", 12, lab.NATConfig{})
	at, took := n.direct(left, "right", 20*time.Second)
	t.Logf("direct at %s after %v", at, took)
	if !strings.HasPrefix(at, rightRouter.IP.String()+":") {
		t.Errorf("the path leads to %s, not to the router's %s", at, rightRouter.IP)
	}
	if at, _ := n.direct(n.nodes["right"], "left", 10*time.Second); !strings.HasPrefix(at, leftRouter.IP.String()+":") {
		t.Errorf("the path back leads to %s, not to the router's %s", at, leftRouter.IP)
	}
}

// TestNATPairs: where one of the routers lends each destination another port, the addresses told are of no use, and only what is open on the other side
// helps: a port that its gateway maps.
func TestNATPairs(t *testing.T) {
	if err := lab.CanMapPorts(); err != nil {
		t.Skipf("needs a router that maps ports: %v", err)
	}
	for _, protocol := range []string{"pcp", "upnp"} {
		t.Run(protocol, func(t *testing.T) {
			n := newNetwork(t, false, reachPolicy, "--relay=off")
			n.person("alice")
			left, _ := n.behind("left", "tag:left", 21, lab.NATConfig{Mapping: lab.MapByPort}, "--port-mapping=off")
			lan, router, err := n.NAT(22, lab.NATConfig{Mapping: lab.MapByPort})
			n.must(err)
			h, err := lan.Behind("right", 2)
			n.must(err)
			right, err := h.StartNode(n.ctx)
			n.must(err)
			n.admit(right, "right", "tag:right")
			var a struct{ Error string }
			if err := left.JSON(n.ctx, &a, "ping", "-c", "1", "--timeout", "3s", "right"); err == nil && a.Error == "" {
				t.Fatal("a path between two symmetric NATs: the lab's routers do not do what they are to")
			}
			igd, err := lan.MapPorts(n.ctx, router, protocol)
			n.must(err)
			n.must(right.Process.Stop(10 * time.Second))
			n.must(right.Start(n.ctx))
			for _, node := range []*lab.Node{left, right} {
				var out string
				n.until("netcheck knows the reflectors", 15*time.Second, func() bool { // not yet, where the agent has just been started
					var err error
					out, err = node.CLI(n.ctx, "netcheck")
					return err == nil
				})
				t.Logf("netcheck at %s:\n%s", node.Host.Name, out)
			}
			at, took := n.direct(left, "right", 30*time.Second)
			t.Logf("direct at %s after %v", at, took)
			if !strings.HasPrefix(at, router.Routable()+":") {
				t.Errorf("the path leads to %s, not to where the router maps a port", at)
			}
			n.must(right.Process.Stop(10 * time.Second))
			if leases := router.Leases(); leases != "" {
				t.Errorf("the mapping was not given back: %q\n%s", leases, igd.Output())
			}
		})
	}
}

// TestMoveToAnotherNetwork: a laptop is carried from one home to another while a TCP connection runs, to a server that is open and to one behind a NAT.
func TestMoveToAnotherNetwork(t *testing.T) {
	for _, open := range []bool{true, false} {
		t.Run(map[bool]string{true: "open", false: "behind"}[open], func(t *testing.T) { moveWhileConnected(t, open) })
	}
}

func moveWhileConnected(t *testing.T, open bool) {
	n := newNetwork(t, false, reachPolicy)
	n.person("alice")
	left, _ := n.behind("left", "tag:left", 31, lab.NATConfig{}, "--port-mapping=off")
	var right *lab.Node
	if open {
		right = n.server("right", "tag:right")
	} else {
		right, _ = n.behind("right", "tag:right", 33, lab.NATConfig{}, "--port-mapping=off")
		n.direct(left, "right", 20*time.Second)
	}
	_, err := right.Host.Serve(n.ctx, "tcp", "0.0.0.0:7000")
	n.must(err)
	flow, err := left.Dial(n.ctx, "tcp", n.address(right, false)+":7000")
	n.must(err)
	other, router, err := n.NAT(32, lab.NATConfig{})
	n.must(err)
	n.must(other.Move(left.Host, 2))
	moved := time.Now()
	n.until("the peer uses the new address", 20*time.Second, func() bool {
		at, _ := n.direct(right, "left", 20*time.Second)
		return strings.HasPrefix(at, router.IP.String()+":")
	})
	t.Logf("the peer uses the new address after %v", time.Since(moved))
	n.until("the flow goes on", 10*time.Second, func() bool { return flow.Alive(100 * time.Millisecond) })
	gap := flow.LongestGap()
	t.Logf("longest gap %v", gap)
	if gap > 3*time.Second {
		t.Errorf("the flow stood still for %v", gap)
	}
	n.until("the coordinator is connected from the new address", 15*time.Second, func() bool {
		var s struct{ Connected bool }
		return left.JSON(n.ctx, &s, "status") == nil && s.Connected
	})
}

// TestNoUDP: where no UDP gets out and nobody relays, netcheck and peers say so.
func TestNoUDP(t *testing.T) {
	n := newNetwork(t, false, reachPolicy, "--relay=off")
	n.person("alice")
	left, _ := n.behind("left", "tag:left", 41, lab.NATConfig{NoUDP: true}, "--port-mapping=off")
	n.server("right", "tag:right")
	var a struct{ Error string }
	_ = left.JSON(n.ctx, &a, "ping", "-c", "1", "--timeout", "2s", "right")
	if a.Error == "" {
		t.Error("a ping came through though no UDP gets out")
	}
	var e *lab.ExitError
	out, err := left.CLI(n.ctx, "netcheck")
	if !errors.As(err, &e) || e.Code != 1 || !strings.Contains(out, "blocked: no reflector answers") || !strings.Contains(out, "does not answer") {
		t.Errorf("netcheck says, with %v:\n%s", err, out)
	}
	out, err = left.CLI(n.ctx, "peers")
	if err != nil || !strings.Contains(out, "! no direct path to right: 2 of its 2 addresses were asked and none answers") {
		t.Errorf("peers says, with %v:\n%s", err, out)
	}
}

// TestHostFirewalls: two machines on the internet itself, each behind a firewall of its own that lets in nothing but what answers, find a direct path over
// either IP version.
func TestHostFirewalls(t *testing.T) {
	for _, c := range []struct{ name, closed string }{{"IPv4", "ip6 nexthdr udp drop"}, {"IPv6", "ip protocol udp drop"}} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t, false, reachPolicy)
			n.person("alice")
			left, right := n.server("left", "tag:left"), n.server("right", "tag:right")
			for _, node := range []*lab.Node{left, right} {
				_, err := node.Host.Run(n.ctx, "nft", `add table inet hostfw
					add chain inet hostfw in { type filter hook input priority 0; }
					add chain inet hostfw out { type filter hook output priority 0; }
					add rule inet hostfw in iifname "eth0" ct state new meta l4proto udp drop
					add rule inet hostfw out oifname "eth0" `+c.closed)
				n.must(err)
			}
			at, took := n.direct(left, "right", 20*time.Second)
			t.Logf("direct at %s after %v", at, took)
			if strings.Contains(at, "[") != (c.name == "IPv6") {
				t.Errorf("the path is at %s", at)
			}
			if at, took = n.direct(right, "left", 10*time.Second); took > 5*time.Second {
				t.Errorf("back: direct at %s only after %v", at, took)
			}
		})
	}
}
