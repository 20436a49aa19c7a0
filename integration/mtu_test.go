//go:build linux

package integration

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// pingWhole has a node ping another with packets of so many bytes that nobody may cut, until one is answered or, with refused, until one is refused.
func (n *network) pingWhole(from, to string, size int, refused bool) string {
	n.t.Helper()
	args := []string{"ping", "-n", "-M", "do", "-c", "1", "-W", "1", "-s", strconv.Itoa(size - 28), n.address(n.nodes[to], false)}
	var out string
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var err error
		out, err = n.nodes[from].Host.Run(n.ctx, args...)
		if err != nil {
			out += err.Error()
		}
		if refused == strings.Contains(out, "mtu") && (refused || err == nil) {
			return out
		}
	}
	n.t.Fatalf("packets of %d bytes from %s to %s (refused: %v):\n%s", size, from, to, refused, out)
	return out
}

// wholeEither is the longest packet that goes over Ethernet whole by IPv6 as by IPv4: either path may be taken.
const wholeEither = 1408

// TestPathIsMeasured has two nodes of the usual 1500 bytes and one behind a link that takes less, and drops what is longer without a word.
func TestPathIsMeasured(t *testing.T) {
	n := newNetwork(t, false, `{
		"tagOwners": {"tag:db": []},
		"grants": [{"src": ["*"], "dst": ["*"], "ip": ["icmp:*", "tcp:5432"]}],
	}`)
	for _, name := range []string{"web", "db", "narrow"} {
		h := n.host(name)
		if name == "narrow" {
			_, err := h.Run(n.ctx, "ip", "link", "set", "eth0", "mtu", "1400")
			n.must(err)
		}
		node, err := h.StartNode(n.ctx, "--mtu", "auto")
		n.must(err)
		key, err := n.coordinator.AuthKey(n.ctx, "--tag", "tag:db")
		n.must(err)
		_, err = node.CLI(n.ctx, "up", "--coordinator", n.coordinator.Join, "--auth-key", key, "--hostname", name)
		n.must(err)
		n.nodes[name] = node
	}
	n.pingWhole("web", "db", wholeEither, false)
	n.pingWhole("web", "narrow", 1280, false)
	out := n.pingWhole("web", "narrow", 1300, true) // it passes as long as more is believed
	if !strings.Contains(out, "1280") {
		t.Errorf("the answer to a packet too long names another length than 1280:\n%s", out)
	}
	n.pingWhole("web", "db", wholeEither, false)
	_, err := n.nodes["narrow"].Host.Serve(n.ctx, "tcp", "[::]:5432")
	n.must(err)
	f, err := n.nodes["web"].Dial(n.ctx, "tcp", n.address(n.nodes["narrow"], false)+":5432")
	n.must(err)
	defer f.Kill()
}
