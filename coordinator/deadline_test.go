package coordinator_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// endingPolicy lets web reach db and, once a deny has ended, log; x is a stranger to them. Both end when they are said to.
func endingPolicy(grant, deny time.Time) string {
	return fmt.Sprintf(`{"tagOwners": {"tag:web": [], "tag:db": [], "tag:log": [], "tag:x": []}, "grants": [
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"], "until": %q}, {"src": ["tag:web"], "dst": ["tag:log"], "ip": ["tcp:514"]},
		{"src": ["tag:x"], "dst": ["tag:x"], "ip": ["tcp:1"]}],
		"denies": [{"src": ["tag:web"], "dst": ["tag:log"], "ip": ["*"], "reason": "being moved", "until": %q}]}`,
		grant.UTC().Format(time.RFC3339), deny.UTC().Format(time.RFC3339))
}

// endingNet has nodes under endingPolicy, connected.
func endingNet(n *testnet, grant, deny time.Time) (web, db, x *device) {
	n.policy.set(endingPolicy(grant, deny), "c1")
	if s := n.reload(""); len(s.Errors) > 0 {
		n.t.Fatal(s.Errors)
	}
	web, db = n.device("web").joinTagged("tag:web").connect(), n.device("db").joinTagged("tag:db").connect()
	n.device("log").joinTagged("tag:log").connect()
	x = n.device("x").joinTagged("tag:x").connect()
	web.until("know db and log", func(c protocol.Content) bool { return hasPeer("db")(c) && hasPeer("log")(c) })
	return web, db, x
}

// Nodes that a grant alone made peers forget each other when it ends, by one generation made for that, and a deny that has ended is not told
// of any more.
func TestEndedGrantLeavesTheMaps(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.run()
		ends := time.Now().Add(30 * time.Minute).Truncate(time.Second)
		web, db, x := endingNet(n, ends, ends.Add(time.Hour))
		was := web.generation
		for _, d := range []*device{web, db} {
			d.until("forget the other", func(c protocol.Content) bool { return lacksPeer("db")(c) && lacksPeer("web")(c) })
			if late := time.Since(ends); late < 0 || late > time.Second {
				t.Errorf("%s hears of it %s after the end", d.admitted.Name, late)
			}
		}
		if web.generation != was+1 || len(web.content.Denies) != 1 || !hasPeer("log")(web.content) {
			t.Errorf("generation %d, was %d; %+v", web.generation, was, web.content)
		}
		web.until("hear no more of the deny", func(c protocol.Content) bool { return len(c.Denies) == 0 })
		if late := time.Since(ends.Add(time.Hour)); late < 0 || late > time.Second || web.generation != was+2 || !hasPeer("log")(web.content) {
			t.Errorf("%s after the deny's end, generation %d: %+v", late, web.generation, web.content)
		}
		for x.generation < was+2 {
			if m := x.nextMap(); len(m.Put)+len(m.Remove) > 0 {
				t.Errorf("whom it does not concern is sent %d entries", len(m.Put)+len(m.Remove))
			}
		}
		if records := n.actions(); len(slices.DeleteFunc(records, func(a string) bool { return a != "policy.ended" })) != 2 {
			t.Errorf("audit: %v", n.actions())
		}
		if err := n.CompareWithWhole(n.ctx); err != nil {
			t.Error(err)
		}
	})
}

// A policy whose grant ends soon moves the next date forward, though nothing was due for long.
func TestNearerDeadlineIsKept(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.run()
		far := time.Now().Add(24 * time.Hour)
		web, _, _ := endingNet(n, far, far)
		time.Sleep(time.Second)
		soon := time.Now().Add(3 * time.Second).Truncate(time.Second)
		n.policy.set(endingPolicy(soon, far), "c2")
		n.reload("")
		web.until("forget db", lacksPeer("db"))
		if late := time.Since(soon); late < 0 || late > 100*time.Millisecond {
			t.Errorf("it took effect %s after the end", late)
		}
	})
}

// What ended while no coordinator ran is made good at once when one does; and whatever else changes after an end narrows as well.
func TestDeadlinePassedMeanwhile(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		ends := time.Now().Add(time.Hour).Truncate(time.Second)
		web, _, _ := endingNet(n, ends, ends.Add(time.Hour))
		time.Sleep(time.Hour)
		if err := n.Change(n.ctx, func(coordinator.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		web.until("forget db", lacksPeer("db"))
		n.stop()
		time.Sleep(time.Hour)
		n.start()
		web.generation, web.entries = 0, nil
		web.connect()
		if len(web.content.Denies) != 1 || hasPeer("db")(web.content) {
			t.Errorf("one generation has two contents: %+v", web.content)
		}
		n.run()
		start := time.Now()
		web.until("hear no more of the deny", func(c protocol.Content) bool { return len(c.Denies) == 0 })
		if late := time.Since(start); late > 100*time.Millisecond {
			t.Errorf("%s after the start", late)
		}
	})
}
