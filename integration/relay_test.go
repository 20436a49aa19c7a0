//go:build linux

package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

const noUDP = "ip protocol udp"

// relayed waits until a ping goes through a relay.
func (n *network) relayed(node *lab.Node, peer string, within time.Duration) time.Duration {
	n.t.Helper()
	began := time.Now()
	var a struct{ Path, Error string }
	for time.Since(began) < within {
		a.Path, a.Error = "", ""
		_ = node.JSON(n.ctx, &a, "ping", "-c", "1", "--timeout", "1s", peer)
		if a.Path == "relay home" && a.Error == "" {
			return time.Since(began)
		}
	}
	n.t.Fatalf("%s does not reach %s through the relay within %v: path %q, %s", node.Host.Name, peer, within, a.Path, a.Error)
	return 0
}

// TestRelayWhereUDPIsBlocked: a node that gets no UDP out reaches its peer through the coordinator's relay; when UDP opens the path becomes a direct one,
// and when it is blocked again, under a TCP connection, the relay takes over before the connection notices much.
func TestRelayWhereUDPIsBlocked(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	n.person("alice")
	left, router := n.behind("left", "tag:left", 51, lab.NATConfig{}, "--port-mapping=off")
	n.must(router.Block(n.ctx, noUDP))
	right := n.server("right", "tag:right")
	_, err := right.Host.Serve(n.ctx, "tcp", "0.0.0.0:7000")
	n.must(err)
	t.Logf("through the relay after %v", n.relayed(left, "right", 15*time.Second))
	out, err := left.CLI(n.ctx, "peers")
	n.must(err)
	t.Logf("peers says:\n%s", out)
	if !strings.Contains(out, "relay home") || !strings.Contains(out, "no direct path to right") {
		t.Error("peers does not say why")
	}
	out, _ = left.CLI(n.ctx, "netcheck") // it fails, because UDP is blocked
	if !strings.Contains(out, "blocked: no reflector answers") || !strings.Contains(out, "home answers in") || !strings.Contains(out, "peers find this node there") {
		t.Errorf("netcheck says:\n%s", out)
	}
	flow, err := left.Dial(n.ctx, "tcp", n.address(right, false)+":7000")
	n.must(err)
	n.must(router.Unblock(n.ctx))
	at, took := n.direct(left, "right", 90*time.Second)
	t.Logf("direct at %s after %v", at, took)
	time.Sleep(6 * time.Second) // a direct way that has just come is not believed at once after it failed
	n.must(router.Block(n.ctx, noUDP))
	blocked := time.Now()
	n.until("the relay takes over", 15*time.Second, func() bool {
		return time.Since(blocked) > time.Second && flow.Alive(100*time.Millisecond)
	})
	n.relayed(left, "right", 10*time.Second)
	gap := flow.LongestGap()
	t.Logf("the connection's longest silence %v", gap)
	if gap > 5*time.Second { // 3 s, and TCP's own repetition
		t.Errorf("the connection stood still for %v", gap)
	}
}

// TestOnlyThroughAProxy: nothing gets out but through an HTTP proxy that asks for a password.
func TestOnlyThroughAProxy(t *testing.T) {
	if err := lab.CanProxy(); err != nil {
		t.Skipf("needs an HTTP proxy: %v", err)
	}
	n := newNetwork(t, false, reachPolicy)
	n.person("alice")
	right := n.server("right", "tag:right")
	_, err := right.Host.Serve(n.ctx, "tcp", "0.0.0.0:7000")
	n.must(err)
	lan, router, err := n.NAT(52, lab.NATConfig{})
	n.must(err)
	n.must(router.Block(n.ctx, "ip daddr 0.0.0.0/0"))
	proxy, err := lan.Proxy(n.ctx, router, "alice", "sesame")
	n.must(err)
	h, err := lan.Behind("left", 2)
	n.must(err)
	n.must(os.Setenv("HTTPS_PROXY", strings.Replace(proxy, "http://", "http://alice:sesame@", 1))) // of the node alone
	t.Cleanup(func() { os.Unsetenv("HTTPS_PROXY") })
	left, err := h.StartNode(n.ctx, "--port-mapping=off")
	n.must(os.Unsetenv("HTTPS_PROXY"))
	n.must(err)
	n.admit(left, "left", "tag:left")
	t.Logf("through proxy and relay after %v", n.relayed(left, "right", 20*time.Second))
	flow, err := left.Dial(n.ctx, "tcp", n.address(right, false)+":7000")
	n.must(err)
	time.Sleep(3 * time.Second)
	if !flow.Alive(time.Second) {
		t.Error("the connection does not go on")
	}
	if strings.Contains(left.Process.Output(), "sesame") {
		t.Error("the proxy's password is in the log")
	}
}
