package acl

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

// changes are what happens to one node of network's first team.
var changes = []struct {
	name string
	put  func(d *Directory) []Node
	gone []NodeID
}{
	{"join", func(d *Directory) []Node {
		n := d.Nodes[11]
		n.ID = "new"
		n.Addresses = []netip.Addr{netip.MustParseAddr("100.100.1.1"), netip.MustParseAddr("fd7a::ffff")}
		return []Node{n}
	}, nil},
	{"leave", func(*Directory) []Node { return nil }, []NodeID{"n1x3"}},
	{"tag", func(d *Directory) []Node {
		n := d.Nodes[13]
		n.Owner, n.Tags = "", []string{"tag:t1"}
		return []Node{n}
	}, nil},
	{"posture", func(d *Directory) []Node {
		n := d.Nodes[13]
		n.Attributes = map[string]string{"node:os": "linux"}
		return []Node{n}
	}, nil},
}

// apply brings a network up to date and makes the views of whom that concerns.
func apply(c *Compiled, put []Node, gone []NodeID) []NodeID {
	next, touched := c.Update(put, gone)
	for _, id := range touched {
		next.View(id)
	}
	return touched
}

// One node's change costs by its peers: with ten times the network around it, not half as much again.
func TestUpdateDoesNotCostByTheNetwork(t *testing.T) {
	for _, change := range changes {
		cost := func(n int) (allocations, bytes float64) {
			text, d := network(n)
			c, put := mustCompile(t, mustParse(t, text), d), change.put(d)
			if touched := apply(c, put, change.gone); len(touched) > 11 {
				t.Fatalf("%s touches %d nodes", change.name, len(touched))
			}
			const runs = 50
			before := allocated()
			allocations = testing.AllocsPerRun(runs, func() { apply(c, put, change.gone) })
			return allocations, float64(allocated()-before) / (runs + 1) // it runs once to warm up
		}
		smallAllocs, smallBytes := cost(1000)
		largeAllocs, largeBytes := cost(10000)
		t.Logf("%s: %.0f and %.0f allocations, %.0f and %.0f bytes with 1,000 and 10,000 nodes", change.name, smallAllocs, largeAllocs, smallBytes, largeBytes)
		if largeAllocs > smallAllocs*1.5 || largeBytes > smallBytes*1.4 {
			t.Errorf("%s: %.0f allocations and %.0f bytes in a small network, %.0f and %.0f in one ten times larger",
				change.name, smallAllocs, smallBytes, largeAllocs, largeBytes)
		}
	}
}

// The compiled form grows with nodes plus rules: ten times of both is about ten times the memory, not a hundred.
func TestCompiledGrowsWithNodesPlusRules(t *testing.T) {
	bytes := func(n int) float64 {
		text, d := network(n)
		p := mustParse(t, text)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		c := mustCompile(t, p, d)
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(c)
		return float64(after.HeapAlloc) - float64(before.HeapAlloc)
	}
	small, large := bytes(1000), bytes(10000)
	t.Logf("%.0f bytes a node with 1,000 nodes and 100 rules, %.0f with 10,000 and 1,000", small/1000, large/10000)
	if large > 15*small {
		t.Errorf("%.0f bytes for a network, %.0f for one of ten times the nodes and rules", small, large)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, change := range changes {
		for _, n := range []int{1000, 10000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", change.name, n), func(b *testing.B) {
				text, d := network(n)
				c, put := mustCompile(b, mustParse(b, text), d), change.put(d)
				b.ReportAllocs()
				start := cpuTime()
				for b.Loop() {
					apply(c, put, change.gone)
				}
				b.ReportMetric(float64(cpuTime()-start)/float64(b.N), "cpu-ns/op") // whatever else the machine does
			})
		}
	}
}
