//go:build linux

package integration

import (
	"testing"
	"time"

	"picket.internal/integration/lab"
)

const (
	// pause is how long a flow may be silent when an agent is started anew, on an idle machine; pauseWorst what a loaded one is held to. TCP itself
	// repeats what was lost after 200 ms, 400 ms and 800 ms.
	pause      = time.Second
	pauseWorst = 5 * time.Second
)

// TestFlowsSurviveARestart restarts the agent at each end, as an upgrade does, under open connections. No rule lets them be opened from the other end, so
// that only what the agent hands over can carry them on.
func TestFlowsSurviveARestart(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts))
	n.laptop("alice")
	db := n.server("db", "tag:db")
	_, err := db.Host.Serve(n.ctx, "tcp", "[::]:5432")
	n.must(err)
	_, err = db.Host.Serve(n.ctx, "udp", "[::]:5353")
	n.must(err)
	flows := map[string]*lab.Flow{}
	for name, at := range map[string]string{"tcp": ":5432", "udp": ":5353"} {
		flows[name], err = n.nodes["alice"].Dial(n.ctx, name, n.address(db, false)+at)
		n.must(err)
	}
	for _, who := range []string{"db", "alice"} {
		before := time.Now()
		n.must(n.nodes[who].Stop(5 * time.Second))
		n.must(n.nodes[who].Start(n.ctx))
		for name, f := range flows {
			n.resumes(name, who, f, before)
		}
	}
	n.inForce(policyFor(`"tcp:9"`)) // they are still what the policy says
	if _, err := flows["tcp"].WaitCut(n.ctx, time.Now()); err != nil {
		t.Error(err)
	}
}

// resumes waits until a flow's echoes come again for a while.
func (n *network) resumes(name, who string, f *lab.Flow, before time.Time) {
	n.t.Helper()
	for end := time.Now().Add(2 * pauseWorst); ; time.Sleep(10 * time.Millisecond) {
		last := f.LastEcho()
		if last.Sub(before) > 0 && time.Since(last) < 100*time.Millisecond && time.Since(before) > 700*time.Millisecond {
			break
		}
		if time.Now().After(end) {
			n.t.Fatalf("%s: silent since %v after %s was started anew (%s)", name, time.Since(last), who, f.Reason())
		}
	}
	gap := f.LongestGap()
	n.t.Logf("%s: longest silence %v when %s was started anew", name, gap, who)
	if gap > pauseWorst {
		n.t.Errorf("%s: silent for %v", name, gap)
	} else if gap > pause {
		n.t.Logf("over the %v of an idle machine", pause)
	}
}
