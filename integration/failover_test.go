//go:build linux

package integration

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// apart makes two nodes that reach each other through relays alone, and a TCP connection between them.
func (n *network) apart(i int) (left, right *lab.Node, flow *lab.Flow) {
	n.t.Helper()
	left, _ = n.behind("left", "tag:left", i, lab.NATConfig{NoUDP: true}, "--port-mapping=off")
	right, _ = n.behind("right", "tag:right", i+1, lab.NATConfig{NoUDP: true}, "--port-mapping=off")
	_, err := right.Host.Serve(n.ctx, "tcp", "0.0.0.0:7000")
	n.must(err)
	n.until("the two meet at a relay", 20*time.Second, func() bool {
		var a struct{ Error string }
		return left.JSON(n.ctx, &a, "ping", "-c", "1", "--timeout", "1s", "right") == nil && a.Error == ""
	})
	flow, err = left.Dial(n.ctx, "tcp", n.address(right, false)+":7000")
	n.must(err)
	return left, right, flow
}

// relayAt starts a relay on a host of its name.
func (n *network) relayAt(name string, args ...string) (*lab.Host, *lab.Process) {
	n.t.Helper()
	h := n.host(name)
	p, err := h.StartRelay(n.ctx, n.coordinator, name, args...)
	n.must(err)
	return h, p
}

// moveTo waits until both nodes have the home, and checks how long that took since the former one died; it is 5 s at most where there is processor time.
func (n *network) moveTo(home string, died time.Time, nodes ...*lab.Node) {
	n.t.Helper()
	for _, node := range nodes {
		var since time.Time
		n.until(node.Host.Name+" has the home "+home, 20*time.Second, func() bool {
			var name string
			name, since = node.HomeRelay()
			return name == home
		})
		n.t.Logf("%s moved to %s after %v", node.Host.Name, home, since.Sub(died).Round(time.Millisecond))
		if took := since.Sub(died); took > 8*time.Second {
			n.t.Errorf("%s moved only after %v", node.Host.Name, took)
		}
	}
}

// survives waits until a connection goes on after its relay died.
func (n *network) survives(flow *lab.Flow, died time.Time) {
	n.t.Helper()
	n.until("the connection goes on", 20*time.Second, func() bool {
		return time.Since(died) > time.Second && flow.Alive(200*time.Millisecond)
	})
	gap := flow.LongestGap()
	n.t.Logf("the connection's longest silence %v", gap.Round(time.Millisecond))
	if gap > 15*time.Second {
		n.t.Errorf("the connection stood still for %v", gap)
	}
}

// TestRelayDies: the home of two nodes that have no direct path dies, by kill -9 and by its host's cable. Both move to the other relay, and the
// connection between them goes on there.
func TestRelayDies(t *testing.T) {
	n := newNetwork(t, false, reachPolicy, "--relay=off")
	n.person("alice")
	_, fra := n.relayAt("fra")
	left, right, flow := n.apart(61)
	n.moveTo("fra", time.Now(), left, right)
	ams, _ := n.relayAt("ams") // as near, and so in reserve
	n.until("both know the other relay", 30*time.Second, func() bool { return n.inReserve(left, "ams") && n.inReserve(right, "ams") })
	died := time.Now()
	fra.Kill()
	n.moveTo("ams", died, left, right)
	n.survives(flow, died)

	n.must(n.coordinator.Process.Stop(10 * time.Second)) // the next relay is its own
	n.must(n.coordinator.StartWith(n.ctx, "--relay=on"))
	n.until("both know the coordinator's relay", 30*time.Second, func() bool {
		return n.inReserve(left, "home") && n.inReserve(right, "home")
	})
	flow, err := left.Dial(n.ctx, "tcp", n.address(right, false)+":7000")
	n.must(err)
	died = time.Now()
	n.must(ams.SetLink(false))
	n.moveTo("home", died, left, right)
	n.survives(flow, died)
}

// TestCoordinatorDiesWithItsRelay: nobody is left to say where the nodes went; they meet at the second relay all the same, as long as their passes hold.
func TestCoordinatorDiesWithItsRelay(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	n.person("alice")
	left, right, flow := n.apart(63)
	n.moveTo("home", time.Now(), left, right)
	n.relayAt("fra")
	n.until("both know the other relay", 30*time.Second, func() bool { return n.inReserve(left, "fra") && n.inReserve(right, "fra") })
	died := time.Now()
	n.must(n.coordinator.Host.SetLink(false))
	n.moveTo("fra", died, left, right)
	n.survives(flow, died)
}

// inReserve reports whether a node is connected to a relay that is not its home.
func (n *network) inReserve(node *lab.Node, relay string) bool {
	var check struct {
		Relays []struct {
			Name            string
			Home, Connected bool
		}
	}
	_ = node.JSON(n.ctx, &check, "netcheck")
	for _, r := range check.Relays {
		if r.Name == relay && r.Connected && !r.Home {
			return true
		}
	}
	return false
}

// TestNetcheckTellsMappings: with a relay's reflectors, which have another address than the coordinator's, netcheck tells the three mappings of RFC 4787 apart.
func TestNetcheckTellsMappings(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	n.person("alice")
	n.relayAt("fra")
	for i, c := range []struct {
		mapping lab.Mapping
		says    []string
	}{
		{lab.MapSame, []string{"lends the same port for all destinations", "Direct paths: with every peer whose NAT lends the same port for all destinations, and with open ones.\n"}},
		{lab.MapByAddress, []string{"lends another port for each address (address-dependent mapping)", "or whose NAT lets in whoever it has sent to, from any port"}},
		{lab.MapByPort, []string{"lends each destination another port"}},
	} {
		left, _ := n.behind(fmt.Sprintf("left%d", i), "tag:left", 71+i, lab.NATConfig{Mapping: c.mapping}, "--port-mapping=off")
		var out string
		n.until("netcheck has all answers", 20*time.Second, func() bool {
			var err error
			out, err = left.CLI(n.ctx, "netcheck")
			return err == nil && strings.Count(out, " of the relay fra answers") == 2 && !strings.Contains(out, "does not answer")
		})
		for _, want := range c.says {
			if !strings.Contains(out, want) {
				t.Errorf("%v: netcheck does not say %q:\n%s", c.mapping, want, out)
			}
		}
	}
}

// TestClusterNoticesRelays: coordinator and relays hear of each other; the list says which relay is alive, and which was killed or fell silent. A relay with another
// key is not heard.
func TestClusterNoticesRelays(t *testing.T) {
	keys := t.TempDir()
	n := newNetwork(t, false, reachPolicy)
	picket := filepath.Join(programs, "picket-coordinator")
	for _, name := range []string{"key", "wrong"} {
		_, err := n.coordinator.Host.Run(n.ctx, picket, "cluster", "key", filepath.Join(keys, name))
		n.must(err)
	}
	at := func(h *lab.Host, key string) []string {
		return []string{"--cluster-listen", h.IP.String() + ":7946", "--cluster-public", "--cluster-key", filepath.Join(keys, key)}
	}
	n.must(n.coordinator.Process.Stop(10 * time.Second))
	n.must(n.coordinator.StartWith(n.ctx, at(n.coordinator.Host, "key")...))
	join := []string{"--cluster-join", n.coordinator.Host.IP.String() + ":7946"}
	_, ams := n.relayAt("ams", append(at(n.host("ams"), "key"), join...)...)
	fra, _ := n.relayAt("fra", append(at(n.host("fra"), "key"), join...)...)
	n.relayAt("zrh", append(at(n.host("zrh"), "wrong"), join...)...)
	states := func() string {
		var list []struct {
			Name     string
			Presence struct{ Heard, Alive bool }
		}
		n.must(n.coordinator.JSON(n.ctx, &list, "relays", "list"))
		var out []string
		for _, r := range list {
			out = append(out, r.Name+map[[2]bool]string{{false, false}: "?", {true, true}: "+", {true, false}: "-"}[[2]bool{r.Presence.Heard, r.Presence.Alive}])
		}
		return strings.Join(out, " ")
	}
	n.until("all are heard", 20*time.Second, func() bool { return states() == "home+ ams+ fra+ zrh?" })
	ams.Kill()
	died := time.Now()
	n.until("the killed one is noticed", 40*time.Second, func() bool { return states() == "home+ ams- fra+ zrh?" })
	t.Logf("killed, and noticed after %v", time.Since(died))
	n.must(fra.SetLink(false))
	died = time.Now()
	n.until("the silent one is noticed", 40*time.Second, func() bool { return states() == "home+ ams- fra- zrh?" })
	t.Logf("silent, and noticed after %v", time.Since(died))
	out := n.operate("relays", "list")
	if !regexp.MustCompile(`(?m)^ams +gone, \d+s ago +- `).MatchString(out) || !regexp.MustCompile(`(?m)^zrh +not heard `).MatchString(out) {
		t.Errorf("the list says:\n%s", out)
	}
	n.must(fra.SetLink(true))
	n.until("one that is back is noticed", 30*time.Second, func() bool { return states() == "home+ ams- fra+ zrh?" })
	began := time.Now()
	n.must(n.coordinator.Process.Stop(10 * time.Second))
	t.Logf("the coordinator stopped within %v", time.Since(began))
}
