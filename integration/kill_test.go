//go:build linux

package integration

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// cutWithin is how soon after the change the last byte may pass on an idle machine; worst is what a loaded one is held to.
const (
	cutWithin = 200 * time.Millisecond
	cutWorst  = time.Second
)

// cause takes alice's access to the database away, and gives it back.
type cause struct {
	name string
	take func(n *network)
	back func(n *network)
}

// causes are the ways in which a flow that was allowed may stop being so, as operators bring them about.
var causes = []cause{
	{"policy narrowed", func(n *network) { n.inForce(policyFor(`"tcp:9"`)) }, func(n *network) { n.inForce(policyFor(openPorts)) }},
	{"person taken out of the group", func(n *network) {
		n.inForce(strings.Replace(policyFor(openPorts), `["alice@example.com"]}`, `[]}`, 1))
	}, func(n *network) { n.inForce(policyFor(openPorts)) }},
	{"denied in spite of the grant", func(n *network) {
		n.inForce(strings.Replace(policyFor(openPorts), `"grants": [`, `"denies": [{"src": ["alice@example.com"], "dst": ["tag:db"], "ip": ["*"], "reason": "left"}], "grants": [`, 1))
	}, func(n *network) { n.inForce(policyFor(openPorts)) }},
	{"source quarantined", func(n *network) { n.operate("nodes", "quarantine", "alice", "--wait") },
		func(n *network) { n.operate("nodes", "quarantine", "alice", "--off", "--wait") }},
	{"destination quarantined", func(n *network) { n.operate("nodes", "quarantine", "db", "--wait") },
		func(n *network) { n.operate("nodes", "quarantine", "db", "--off", "--wait") }},
	{"source removed", func(n *network) { n.operate("nodes", "remove", "alice", "--wait") },
		func(n *network) { n.joinByURL(n.nodes["alice"], n.people["alice"], "alice") }},
	{"destination removed", func(n *network) { n.operate("nodes", "remove", "db", "--wait") },
		func(n *network) { n.rejoin("db", "tag:db") }},
	{"source logged out", func(n *network) { n.run("alice", "logout") },
		func(n *network) { n.joinByURL(n.nodes["alice"], n.people["alice"], "alice") }},
	{"destination taken down", func(n *network) { n.run("db", "down") }, func(n *network) { n.run("db", "up") }},
	{"person removed", func(n *network) { n.operate("users", "remove", "alice@example.com", "--wait") }, func(n *network) {
		delete(n.people, "alice") // the same address again is another person, who inherits nothing
		n.joinByURL(n.nodes["alice"], n.person("alice"), "alice")
	}},
}

// run runs a command of a node that must succeed.
func (n *network) run(node string, args ...string) {
	n.t.Helper()
	_, err := n.nodes[node].CLI(n.ctx, args...)
	n.must(err)
}

// rejoin has a removed server join again, with a new key of its tag.
func (n *network) rejoin(node, tag string) {
	n.t.Helper()
	key, err := n.coordinator.AuthKey(n.ctx, "--tag", tag)
	n.must(err)
	n.run(node, "up", "--auth-key", key, "--hostname", node)
}

// kind is a kind of flow: begin opens one, and returns when its last byte came back, and whether it goes on.
type kind struct {
	name  string
	begin func(n *network) probe
}

// probe watches one flow.
type probe interface {
	LastEcho() time.Time
	Kill()
}

var kinds = []kind{
	{"TCP over IPv4", dials("tcp", "5432", false)},
	{"TCP over IPv6", dials("tcp", "5432", true)},
	{"UDP over IPv4", dials("udp", "5353", false)},
	{"UDP over IPv6", dials("udp", "5353", true)},
	{"ICMP over IPv4", pings(false, 56)},
	{"ICMP over IPv6", pings(true, 56)},
	{"fragments over IPv4", pings(false, 4000)},
	{"fragments over IPv6", pings(true, 4000)},
}

func dials(proto, port string, v6 bool) func(*network) probe {
	return func(n *network) probe {
		n.t.Helper()
		f, err := n.nodes["alice"].Dial(n.ctx, proto, net.JoinHostPort(n.address(n.nodes["db"], v6), port))
		n.must(err)
		return f
	}
}

// pings has the system's ping send an echo every 10 ms and print when each answer came.
func pings(v6 bool, size int) func(*network) probe {
	return func(n *network) probe {
		n.t.Helper()
		p, err := lab.StartPing(n.ctx, n.nodes["alice"].Host, n.address(n.nodes["db"], v6), size)
		n.must(err)
		return p
	}
}

// TestKillPath is the matrix: every cause cuts every kind of flow in time, and each works again at once when access is restored.
func TestKillPath(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts))
	n.person("carol") // the first administrator stays when alice goes
	n.laptop("alice")
	db := n.server("db", "tag:db")
	_, err := db.Host.Serve(n.ctx, "tcp", "[::]:5432")
	n.must(err)
	_, err = db.Host.Serve(n.ctx, "udp", "[::]:5353")
	n.must(err)
	var all []time.Duration
	for _, c := range causes {
		t.Run(c.name, func(t *testing.T) { all = append(all, n.killAll(t, c)...) })
	}
	if len(all) == 0 {
		t.Fatal("nothing was measured")
	}
	slices.Sort(all)
	median := all[len(all)/2]
	t.Logf("%d flows cut: median %v, slowest %v after the change was asked for", len(all), median, all[len(all)-1])
	if median > cutWithin {
		t.Errorf("half of the flows passed something more than %v after the change (median %v)", cutWithin, median)
	}
}

// killAll opens one flow of each kind, brings the cause about, and returns how long after it was asked for each passed its last byte.
func (n *network) killAll(t *testing.T, c cause) []time.Duration {
	n.t = t
	probes := make([]probe, len(kinds))
	for i, k := range kinds {
		probes[i] = k.begin(n)
		defer probes[i].Kill()
	}
	time.Sleep(100 * time.Millisecond) // let every flow pass for a while
	asked := time.Now()
	c.take(n)
	time.Sleep(400 * time.Millisecond) // whatever still passes shows itself
	cut := make([]time.Duration, len(kinds))
	for i, p := range probes {
		last := p.LastEcho()
		if last.IsZero() || last.Before(asked.Add(-time.Second)) {
			t.Errorf("%s was not passing before the change", kinds[i].name)
		}
		cut[i] = max(0, last.Sub(asked))
		if cut[i] > cutWorst {
			t.Errorf("%s still passed %v after the change", kinds[i].name, cut[i])
		}
	}
	c.back(n)
	for i, k := range kinds {
		again := time.Now()
		p := k.begin(n)
		if took := time.Since(again); took > 3*time.Second {
			t.Errorf("%s took %v to work again", kinds[i].name, took)
		}
		p.Kill()
	}
	t.Log(summary(cut))
	return cut
}

func summary(cut []time.Duration) string {
	var parts []string
	for i, k := range kinds {
		parts = append(parts, fmt.Sprintf("%s %d ms", k.name, cut[i].Milliseconds()))
	}
	return strings.Join(parts, ", ")
}

// TestLeaseEnds stops the coordinator for longer than the lease: flows go on within it, stop with it, and come back by themselves.
func TestLeaseEnds(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts), "--lease", "10s")
	alice, db := n.laptop("alice"), n.server("db", "tag:db")
	_, err := db.Host.Serve(n.ctx, "tcp", "[::]:5432")
	n.must(err)
	f, err := alice.Dial(n.ctx, "tcp", net.JoinHostPort(n.address(db, false), "5432"))
	n.must(err)
	n.coordinator.Kill()
	killed := time.Now()
	after, err := f.WaitCut(n.ctx, killed)
	n.must(err)
	if after < 6*time.Second || after > 11*time.Second {
		t.Errorf("the flow ended %v after the coordinator; a lease of 10 s, renewed each sixth of it, allows 6 to 11 s", after)
	}
	var st struct{ State, Problem string }
	n.must(alice.JSON(n.ctx, &st, "status"))
	if st.State != "lapsed" || st.Problem == "" {
		t.Errorf("status is %+v, want lapsed with a sentence", st)
	}
	n.must(n.coordinator.Start(n.ctx))
	n.eventually("flows come back by themselves", func() error {
		f, err := alice.Dial(n.ctx, "tcp", net.JoinHostPort(n.address(db, false), "5432"))
		if err == nil {
			f.Kill()
		}
		return err
	})
}

// eventually repeats try until it succeeds, at most 30 s: what after a fault must heal without anybody's hand.
func (n *network) eventually(what string, try func() error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx, 30*time.Second)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			n.t.Fatalf("%s: not within 30 s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
