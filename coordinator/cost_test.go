package coordinator_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/coordinator/sqlite"
	"picket.internal/wgtun/key"
)

// teams is a coordinator of n nodes on a real store: teams of ten machines, one of them a tagged server, with a user, a group and a rule for
// each, as in the benchmarks of acl. Every node has its first map.
type teams struct {
	*coordinator.Coordinator
	t     testing.TB
	store *sqlite.Store
	spare int // nodes of the first team that were made for the benchmark
}

const teamSize = 10

func newTeams(t testing.TB, n int) *teams {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "picket.db"), testNetwork)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c := &teams{t: t, store: s}
	c.must(s.Update(t.Context(), func(tx coordinator.Tx) error { return fillTeams(tx, n/teamSize) }))
	c.Coordinator, err = coordinator.New(t.Context(), coordinator.Config{
		Store: s, Key: key.NewCoordinator(), Network: testNetwork, Salt: bytes.Repeat([]byte{7}, 32), URL: "https://picket.example",
		Overlay4: netip.MustParsePrefix("100.64.0.0/10"), Overlay6: netip.MustParsePrefix("fd7a:1:2::/48"),
	})
	c.must(err)
	var all []acl.NodeID
	for i := range n {
		all = append(all, teamID(i/teamSize, i%teamSize))
	}
	if peers := c.MakeMaps(all); peers != n/teamSize*(teamSize-1)*2 {
		t.Fatalf("%d peers in %d maps", peers, n)
	}
	return c
}

func (c *teams) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func teamUser(team int) coordinator.UserRow {
	login := fmt.Sprintf("u%d@example.com", team)
	return coordinator.UserRow{ID: acl.UserID(fmt.Sprintf("u%d", team)), Login: login, Role: coordinator.RoleMember, Active: true}
}

func teamID(team, i int) acl.NodeID { return acl.NodeID(fmt.Sprintf("n%06dx%05d", team, i)) }

// teamNode is node i of a team; the first one is its server.
func teamNode(team, i int) coordinator.NodeRow {
	id, k := string(teamID(team, i)), key.NewDevice()
	var tunnel key.TunnelPublic
	var probe key.ProbePublic
	_, _ = rand.Read(tunnel[:])
	_, _ = rand.Read(probe[:])
	n := coordinator.NodeRow{
		ID: acl.NodeID(id), Device: k.Public(), Name: id, Owner: teamUser(team).ID, Facts: protocol.Facts{Hostname: id, OS: "linux"},
		Created: time.Now(), Expires: time.Now().Add(24 * time.Hour), Certificate: key.Certificate{
			Node: id, Serial: 1, Tunnel: tunnel, Probe: probe, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		}.Sign(k),
	}
	at := uint32(team*teamSize + i + 1000)
	if i >= teamSize { // those that join the first team later
		at = 1<<20 + uint32(i)
	}
	low := [4]byte{100, 64 + byte(at>>16), byte(at >> 8), byte(at)}
	high := netip.MustParseAddr("fd7a:1:2::").As16()
	copy(high[12:], low[:])
	n.Addresses = []netip.Addr{netip.AddrFrom4(low), netip.AddrFrom16(high)}
	if i == 0 {
		n.Owner, n.Tags = "", []string{fmt.Sprintf("tag:t%d", team)}
	}
	return n
}

func fillTeams(tx coordinator.Tx, count int) error {
	var groups, tags, grants []string
	for team := range count {
		u := teamUser(team)
		if err := tx.InsertUser(u); err != nil {
			return err
		}
		for i := range teamSize {
			if err := tx.InsertNode(teamNode(team, i)); err != nil {
				return err
			}
		}
		groups = append(groups, fmt.Sprintf(`"group:g%d": [%q]`, team, u.Login))
		tags = append(tags, fmt.Sprintf(`"tag:t%d": []`, team))
		grants = append(grants, fmt.Sprintf(`{"src": ["group:g%d"], "dst": ["tag:t%d"], "ip": ["tcp:443"], "srcPosture": ["posture:linux", "posture:windows"]}`, team, team))
	}
	text := fmt.Sprintf(`{"groups": {%s}, "tagOwners": {%s}, "grants": [%s], "postures": {"posture:linux": ["node:os == 'linux'"], "posture:windows": ["node:os == 'windows'"]}}`, strings.Join(groups, ","), strings.Join(tags, ","), strings.Join(grants, ","))
	return tx.InsertPolicy(coordinator.PolicyRow{Text: []byte(text), Generation: 1})
}

// concerned are the nodes of the first team.
func concerned() (ids []acl.NodeID) {
	for i := range teamSize {
		ids = append(ids, teamID(0, i))
	}
	return ids
}

// join adds a node to the first team and returns it; its own map and those of its peers are made.
func (c *teams) join() coordinator.NodeRow {
	n := teamNode(0, teamSize+c.spare)
	c.spare++
	c.must(c.Change(c.t.Context(), func(tx coordinator.Tx) error { return tx.InsertNode(n) }))
	c.MakeMaps(append(concerned(), n.ID))
	return n
}

func (c *teams) leave(n coordinator.NodeRow) {
	_, err := c.RemoveNode(c.t.Context(), operator, n.Name)
	c.must(err)
	c.MakeMaps(concerned())
}

// rewrite commits other things about the node of the first team that is its fourth.
func (c *teams) rewrite(change func(n *coordinator.NodeRow)) {
	c.must(c.Change(c.t.Context(), func(tx coordinator.Tx) error {
		n, err := tx.NodeByID(teamID(0, 3))
		if err != nil {
			return err
		}
		change(&n)
		return tx.UpdateNode(n)
	}))
	c.MakeMaps(concerned())
}

// costs are what may happen to one node. start makes what is needed, and returns what is to be measured and what puts things back.
var costs = []struct {
	name  string
	start func(c *teams, i int) (do, undo func())
}{
	{"join", func(c *teams, _ int) (do, undo func()) {
		var n coordinator.NodeRow
		return func() { n = c.join() }, func() { c.leave(n) }
	}},
	{"leave", func(c *teams, _ int) (do, undo func()) {
		n := c.join()
		return func() { c.leave(n) }, func() {}
	}},
	{"tag", func(c *teams, _ int) (do, undo func()) {
		tagged := func(n *coordinator.NodeRow) { n.Owner, n.Tags = "", []string{"tag:t0"} }
		owned := func(n *coordinator.NodeRow) { n.Owner, n.Tags = teamUser(0).ID, nil }
		return func() { c.rewrite(tagged) }, func() { c.rewrite(owned) }
	}},
	{"posture", func(c *teams, _ int) (do, undo func()) {
		windows := func(n *coordinator.NodeRow) { n.Facts.OS = "windows" }
		linux := func(n *coordinator.NodeRow) { n.Facts.OS = "linux" }
		return func() { c.rewrite(windows) }, func() { c.rewrite(linux) }
	}},
	{"fact", func(c *teams, i int) (do, undo func()) {
		return func() { c.rewrite(func(n *coordinator.NodeRow) { n.Facts.OS = fmt.Sprint("linux ", i) }) }, func() {}
	}},
}

// What happens to one node allocates by the nodes it concerns: with ten times the network around it, not half as much again.
func TestChangeDoesNotCostByTheNetwork(t *testing.T) {
	cost := func(c *teams, start func(c *teams, i int) (do, undo func())) float64 {
		const runs = 5
		var total uint64
		var before, after runtime.MemStats
		for i := range runs {
			do, undo := start(c, i)
			runtime.ReadMemStats(&before)
			do()
			runtime.ReadMemStats(&after)
			total += after.TotalAlloc - before.TotalAlloc
			undo()
		}
		return float64(total) / runs
	}
	small, large := newTeams(t, 300), newTeams(t, 3000)
	for _, change := range costs {
		few, many := cost(small, change.start), cost(large, change.start)
		t.Logf("%s: %.0f bytes with 300 nodes, %.0f with 3,000", change.name, few, many)
		if many > few*1.5 {
			t.Errorf("%s: %.0f bytes in a small network, %.0f in one ten times larger", change.name, few, many)
		}
	}
	if err := large.CompareWithWhole(t.Context()); err != nil {
		t.Error(err)
	}
}

// BenchmarkChange is one change from the call until the new maps of all whom it concerns are made: transaction, audit record, reading back,
// compiling.
func BenchmarkChange(b *testing.B) {
	for _, size := range []int{1000, 10000} {
		c := newTeams(b, size)
		for _, change := range costs {
			b.Run(fmt.Sprintf("%s/nodes=%d", change.name, size), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					do, undo := change.start(c, i)
					b.StartTimer()
					do()
					b.StopTimer()
					undo()
					b.StartTimer()
				}
			})
		}
	}
}
