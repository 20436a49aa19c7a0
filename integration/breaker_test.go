//go:build linux

package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// breakerPolicy lets alice reach the database and bob the web server, at the ports given.
func breakerPolicy(alice, bob string) string {
	return fmt.Sprintf(`{
	"tagOwners": {"tag:db": ["alice@example.com"], "tag:web": ["alice@example.com"]},
	"grants": [
		{"src": ["alice@example.com"], "dst": ["tag:db"],  "ip": ["tcp:%s"]},
		{"src": ["bob@example.com"],   "dst": ["tag:web"], "ip": ["tcp:%s"]},
	],
}`, alice, bob)
}

// restored is how soon after an operator asked for it an earlier policy is back on every node (SECURITY.md, T10).
const restored = 2 * time.Second

// TestBreaker has 22 connections live under a policy. A commit that takes one person's half of them is taken at once; one that takes them
// all waits, over a kill of the coordinator too, and cuts none until it is confirmed. Then the first policy comes back, with the repository gone.
func TestBreaker(t *testing.T) {
	n := newNetwork(t, true, breakerPolicy("25432", "25432"))
	first := n.head()
	alice, bob, db, web := n.laptop("alice"), n.laptop("bob"), n.server("db", "tag:db"), n.server("web", "tag:web")
	for _, port := range []string{"25432", "25433"} {
		_, err := db.Host.Serve(n.ctx, "tcp", "127.0.0.1:"+port) // of both servers: they share this machine
		n.must(err)
	}
	toDB, toWeb := net.JoinHostPort(n.address(db, false), "25432"), net.JoinHostPort(n.address(web, false), "25432")
	flows := append(n.open(alice, toDB, 11), n.open(bob, toWeb, 11)...)

	n.inForce(breakerPolicy("25432", "25433")) // half of all, but bob's alone
	cut := time.Now()
	for _, f := range flows[11:] {
		_, err := f.WaitCut(n.ctx, cut)
		n.must(err)
	}
	n.inForce(breakerPolicy("25432", "25432"))
	flows = append(flows[:11], n.open(bob, toWeb, 11)...)

	bad := n.commit(breakerPolicy("25433", "25433"))
	_, err := n.coordinator.CLI(n.ctx, "policy", "reload", "--wait")
	says(t, err, 1, "the newer policy waits for confirmation", "policy confirm "+bad[:12])
	n.waiting(bad, "it would cut 22 of 22 live flows (100 %; the limit is 25 %)", "tag:db <- alice@example.com tcp 25432 (grants[0], line 4): 11 flows")
	n.coordinator.Kill()
	n.must(n.coordinator.Start(n.ctx))
	_, err = n.coordinator.CLI(n.ctx, "policy", "reload")
	says(t, err, 1, "the newer policy waits for confirmation")
	n.waiting(bad, "it would cut 22 of 22 live flows")
	for _, f := range flows {
		if !f.Alive(time.Second) {
			t.Fatalf("a flow was cut by a commit that waits: %s", f.Reason())
		}
	}
	n.eventually("the nodes are connected again", n.allOnline)

	cut = time.Now()
	n.operate("policy", "confirm", bad, "--wait")
	for _, f := range flows {
		after, err := f.WaitCut(n.ctx, cut)
		n.must(err)
		if after > cutWorst {
			t.Errorf("cut only %v after the confirmation", after)
		}
	}
	n.must(os.Rename(filepath.Join(n.policy.Dir, ".git"), filepath.Join(n.policy.Dir, "away")))
	began := time.Now()
	n.operate("policy", "rollback", first[:7], "--wait")
	back := n.open(alice, toDB, 1)
	if took := time.Since(began); took > restored {
		t.Errorf("the first policy was back only after %v", took)
	}
	t.Logf("rolled back, and a connection open, after %v", time.Since(began).Round(time.Millisecond))
	n.must(os.Rename(filepath.Join(n.policy.Dir, "away"), filepath.Join(n.policy.Dir, ".git")))
	n.pinnedUntilLifted(first, bad, back[0])
}

// pinnedUntilLifted checks that nothing newer is taken, and that lifting the pin takes the newest, an ordinary descendant of the pinned one.
func (n *network) pinnedUntilLifted(first, bad string, live *lab.Flow) {
	n.t.Helper()
	_, err := n.coordinator.CLI(n.ctx, "policy", "reload")
	says(n.t, err, 1, "not taken while the old one is pinned", "policy unpin")
	var s struct {
		Commit, Newest string
		Pinned         struct{ By string }
		Errors         []string
	}
	n.must(n.coordinator.JSON(n.ctx, &s, "policy", "status"))
	if s.Commit != first || s.Newest != bad || s.Pinned.By == "" || len(s.Errors) > 0 {
		n.t.Errorf("pinned: %+v", s)
	}
	next := n.commit(breakerPolicy("25432", "25433"))
	n.operate("policy", "unpin", "--wait")
	n.must(n.coordinator.JSON(n.ctx, &s, "policy", "status"))
	if s.Commit != next || !live.Alive(time.Second) {
		n.t.Errorf("unpinned: %+v, the connection alive: %v", s, live.Alive(time.Second))
	}
	for _, want := range []string{"policy.hold", "policy.confirm", "policy.rollback", "policy.unpin"} {
		if log := n.operate("audit", "list"); !strings.Contains(log, want) {
			n.t.Errorf("the audit log has no %s:\n%s", want, lastLines(log))
		}
	}
}

// open dials count connections that must open.
func (n *network) open(from *lab.Node, to string, count int) (flows []*lab.Flow) {
	n.t.Helper()
	for range count {
		f, err := from.Dial(n.ctx, "tcp", to)
		n.must(err)
		flows = append(flows, f)
	}
	return flows
}

// waiting checks all places that say that a commit waits, what it would do, and what to do.
func (n *network) waiting(id string, words ...string) {
	n.t.Helper()
	_, page, err := n.people["alice"].Open(n.ctx, n.coordinator.URL+"/policy")
	n.must(err)
	for where, text := range map[string]string{
		"policy status": n.operate("policy", "status"), "the page": page, "the log": n.coordinator.Output(), "the audit log": n.operate("audit", "list"),
	} {
		for _, want := range append(words, id[:12]) {
			if !strings.Contains(text, want) {
				n.t.Errorf("%s does not say %q:\n%s", where, want, lastLines(text))
			}
		}
	}
}

// allOnline is an error while a node is not connected.
func (n *network) allOnline() error {
	var nodes []struct {
		Name   string
		Online bool
	}
	if err := n.coordinator.JSON(n.ctx, &nodes, "nodes", "list"); err != nil {
		return err
	}
	for _, node := range nodes {
		if !node.Online {
			return fmt.Errorf("%s is not connected", node.Name)
		}
	}
	return nil
}
