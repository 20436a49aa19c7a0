package coordinator_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"picket.internal/coordinator/protocol"
)

// nextSought returns the sought messages that come within d.
func (d *device) nextSought(within time.Duration) (out []protocol.Sought) {
	d.n.t.Helper()
	ctx, cancel := context.WithTimeout(d.n.ctx, within)
	defer cancel()
	for {
		o, err := d.session.Next(ctx)
		if err != nil {
			return out
		}
		if s, ok := o.Body.(protocol.Sought); ok {
			out = append(out, s)
		}
	}
}

// TestSeekReachesPeersAlone: whom a node seeks is told where that node is, if each is in the other's map, and not too often; strangers, nodes that
// do not exist and nodes in quarantine are silence.
func TestSeekReachesPeersAlone(t *testing.T) {
	n := newNet(t)
	n.policy.set(`{"tagOwners": {"tag:db": ["autogroup:member"], "tag:web": ["autogroup:member"]},
		"grants": [{"src": ["tag:web"], "dst": ["tag:web"], "ip": ["*"]}]}`, "c1")
	n.reload("")
	a := n.device("a").joinTagged("tag:web").connect()
	b := n.device("b").joinTagged("tag:web").connect()
	c := n.device("c").joinTagged("tag:db").connect()
	b.until("know a", hasPeer("a"))
	a.until("know b", hasPeer("b"))
	r := a.report()
	r.Endpoints = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.77:1")}
	if err := a.session.Report(n.ctx, r); err != nil {
		t.Fatal(err)
	}
	for _, seek := range []protocol.Seek{{Node: b.node()}, {Node: c.node()}, {Node: a.node()}, {Node: "nobody"}} {
		if err := a.session.Seek(seek); err != nil {
			t.Errorf("seek %s: %v: who is told apart is told of", seek.Node, err)
		}
	}
	if err := c.session.Seek(protocol.Seek{Node: b.node()}); err != nil {
		t.Error(err)
	}
	got := b.nextSought(300 * time.Millisecond)
	if len(got) != 1 || got[0].Node != a.node() || len(got[0].Endpoints) != 1 || got[0].Endpoints[0] != r.Endpoints[0] {
		t.Errorf("b was told %+v", got)
	}
	if got := append(c.nextSought(200*time.Millisecond), a.nextSought(200*time.Millisecond)...); len(got) != 0 {
		t.Errorf("others were told %+v", got)
	}
	told := 0
	for range 500 {
		if err := a.session.Seek(protocol.Seek{Node: b.node()}); err != nil {
			t.Fatal(err)
		}
		told += len(b.nextSought(time.Millisecond))
	}
	if told < 1 || told > 70 {
		t.Errorf("told %d times of 500 at once", told)
	}
	if _, err := n.QuarantineNode(n.ctx, operator, string(a.node()), true); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // some of the rate comes back
	_ = a.session.Seek(protocol.Seek{Node: b.node()})
	if got := b.nextSought(200 * time.Millisecond); len(got) != 0 {
		t.Errorf("a node in quarantine has others ping: %+v", got)
	}
}

// TestReflectorsReachNodesThatHoldAMap: what a restart changes of the network's entry is another generation, or nodes would refuse the map as another
// content of the one they hold.
func TestReflectorsReachNodesThatHoldAMap(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:web").connect()
	before := a.header.Generation
	n.stop()
	n.config.Reflectors = []protocol.Reflector{{Port: 3478}, {Host: "stun.example", Port: 3479}}
	n.start()
	if err := a.attach(); err != nil {
		t.Fatal(err)
	}
	a.until("know the reflectors", func(c protocol.Content) bool { return len(c.Network.Reflectors) == 2 })
	if a.header.Generation <= before {
		t.Errorf("generation %d after %d", a.header.Generation, before)
	}
	same := a.header.Generation
	n.stop()
	n.start()
	if err := a.attach(); err != nil {
		t.Fatal(err)
	}
	a.nextMap()
	if a.header.Generation != same {
		t.Errorf("generation %d after %d, though nothing changed", a.header.Generation, same)
	}
}
