//go:build linux

package integration

import (
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
