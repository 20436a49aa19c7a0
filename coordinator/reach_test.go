package coordinator_test

import (
	"sync"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// crowd connects many nodes that may all reach each other, and returns when each has the newest map.
func crowd(n *testnet, many int) []*device {
	n.t.Helper()
	_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}, Reusable: true})
	if err != nil {
		n.t.Fatal(err)
	}
	devices := make([]*device, many)
	for i := range devices {
		d := n.device("node")
		a, err := d.enrol(text)
		if err != nil {
			n.t.Fatal(err)
		}
		d.admitted = *a.Admitted
		if err := d.attach(); err != nil {
			n.t.Fatal(err)
		}
		devices[i] = d
	}
	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() { d.until("know everybody", func(c protocol.Content) bool { return len(c.Peers) == many-1 }) })
	}
	wg.Wait()
	return devices
}

// Removal reaches 200 connected nodes, all peers of the victim: how long until the Next of each has returned the map without it.
// The bound is loose, for busy machines; the figure is logged.
func TestRemovalReachesAllSessions(t *testing.T) {
	n := newNet(t)
	many, bound := 200, time.Second
	if raceDetector { // which makes everything some twenty times slower
		many, bound = 40, 10*time.Second
	}
	devices := crowd(n, many)
	heard := make(chan time.Time, many)
	var waiting sync.WaitGroup
	for _, d := range devices[1:] {
		waiting.Add(1)
		go func() {
			waiting.Done()
			for {
				out, err := d.session.Next(n.ctx)
				if err != nil {
					t.Error(err)
				}
				if m, ok := out.Body.(protocol.Map); err != nil || ok && len(m.Remove) > 0 {
					heard <- time.Now()
					return
				}
			}
		}()
	}
	waiting.Wait()
	start := time.Now()
	if _, err := n.RemoveNode(n.ctx, operator, string(devices[0].node())); err != nil {
		t.Fatal(err)
	}
	committed := time.Since(start)
	var last time.Time
	for range many - 1 {
		if at := <-heard; at.After(last) {
			last = at
		}
	}
	t.Logf("in force after %s, the last of %d sessions heard after %s", committed, many-1, last.Sub(start))
	if last.Sub(start) > bound {
		t.Errorf("the last of %d sessions heard of a removal after %s", many-1, last.Sub(start))
	}
}
