//go:build linux

package integration

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
	"picket.internal/node/localapi"
)

// TestNetcheckBeforeJoining: who has not joined, and has no privilege on his machine, learns whether he could: the coordinator proves its key, the relay's
// stream opens, and reflectors say where he is seen from. It leaves nothing at the coordinator.
func TestNetcheckBeforeJoining(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	lan, router, err := n.NAT(54, lab.NATConfig{})
	n.must(err)
	inside, err := lan.Behind("inside", 2)
	n.must(err)
	run := func(h *lab.Host, more ...string) string {
		words := []string{"setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", programs + "/picket", "netcheck", "--coordinator"}
		out, err := h.Run(n.ctx, append(words, more...)...)
		if err != nil {
			t.Logf("it ends with: %v", err) // its status says no where something is blocked
		}
		return out
	}
	check := func(h *lab.Host, coordinator string) (c localapi.Netcheck) {
		t.Helper()
		out := run(h, coordinator, "--json")
		if err := json.Unmarshal([]byte(out), &c); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return c
	}
	join := n.coordinator.Join
	c := check(n.host("open"), join)
	if c.Coordinator == nil || c.Coordinator.Problem != "" || !c.UDP || c.IPv4.Mapping != localapi.MappingNone || len(c.Relays) != 1 || !c.Relays[0].Connected {
		t.Errorf("%+v", c)
	}
	c = check(inside, join)
	if !c.UDP || c.IPv4.Mapping != localapi.MappingSame || c.IPv4.Seen[0].Addr().String() != router.IP.String() {
		t.Errorf("%+v", c)
	}
	n.must(router.Block(n.ctx, noUDP))
	if out := run(inside, join); !strings.Contains(out, "proves its key") || !strings.Contains(out, "blocked") || !strings.Contains(out, "Joining works") {
		t.Errorf("%s", out)
	}
	// Another coordinator than the one that is meant is not taken for it.
	fingerprint := join[strings.LastIndex(join, "#")+1:]
	other := strings.Replace(join, fingerprint, strings.Repeat("B", len(fingerprint)-1)+"A", 1)
	if c = check(n.host("open"), other); c.Coordinator.Problem == "" || len(c.Relays) != 0 {
		t.Errorf("%+v", c)
	}
	var nodes []struct{ Name string }
	n.must(n.coordinator.JSON(n.ctx, &nodes, "nodes", "list"))
	if len(nodes) != 0 {
		t.Errorf("a check left %v", nodes)
	}
	// An agent that has not joined tells of it.
	node, err := n.host("open").StartNode(n.ctx)
	n.must(err)
	if _, err := node.CLI(n.ctx, "netcheck"); err == nil || !strings.Contains(err.Error(), "netcheck --coordinator JOIN") {
		t.Errorf("%v", err)
	}
	n.must(node.Stop(5 * time.Second))
}
