//go:build linux

package integration

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/integration/lab"
)

// rootlessPolicy lets alice reach the database; the ports are above 1024 because the services share this machine's loopback.
const rootlessPolicy = `{
	"groups":    {"group:dba": ["alice@example.com"]},
	"tagOwners": {"tag:db": ["alice@example.com"], "tag:web": ["alice@example.com"]},
	"grants": [
		{"src": ["group:dba"], "dst": ["tag:db"], "ip": ["tcp:25432"]},
	],
}`

// says checks that a command ended with that exit status and one sentence on standard error that holds all of words.
func says(t *testing.T, err error, status int, words ...string) {
	t.Helper()
	var exit *lab.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("the command did not fail (%v), want a refusal with %q", err, words)
		return
	}
	if exit.Code != status {
		t.Errorf("exit status %d, want %d; it said %q", exit.Code, status, exit.Stderr)
	}
	sentence(t, exit.Stderr, words...)
}

// sentence checks what a program wrote for people: one line under its name (beside the pointer to --help), short enough to read, without
// anything that is meant for programmers or that a terminal acts on.
func sentence(t *testing.T, stderr string, words ...string) {
	t.Helper()
	var lines []string
	for l := range strings.Lines(stderr) {
		if l = strings.TrimSuffix(l, "\n"); !strings.HasPrefix(l, "See '") {
			lines = append(lines, l)
		}
	}
	if len(lines) != 1 || (!strings.HasPrefix(lines[0], "picket: ") && !strings.HasPrefix(lines[0], "picket-coordinator: ")) {
		t.Errorf("not one sentence: %q", stderr)
		return
	}
	if len(lines[0]) > 400 {
		t.Errorf("a sentence of %d bytes: %q", len(lines[0]), lines[0])
	}
	for _, w := range words {
		if !strings.Contains(lines[0], w) {
			t.Errorf("it says %q, without %q", lines[0], w)
		}
	}
	for _, w := range []string{"\x1b", "%!", "goroutine", "<nil>", "sqlite:", "SQL logic"} {
		if strings.Contains(lines[0], w) {
			t.Errorf("it says %q, with %q in it", lines[0], w)
		}
	}
}

// contents is every file below dir with a digest of what is in it: what must not change by a refused start. Locks, sockets and SQLite's
// shared memory do not count.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "lock" || strings.HasSuffix(path, "-shm") {
			return err
		}
		text, err := os.ReadFile(path)
		sum := sha256.Sum256(text)
		found[path[len(dir):]] = string(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// unchanged fails when anything below dir differs from before.
func unchanged(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	if d := cmp.Diff(before, contents(t, dir)); d != "" {
		t.Errorf("files changed in %s:\n%s", dir, d)
	}
}

// working is a rootless network in which alice has a connection to the database open, which nothing here may disturb.
type working struct {
	*network
	alice, db *lab.Node
	flow      *lab.Flow
}

func newWorking(t *testing.T, serve ...string) *working {
	t.Helper()
	n := newNetwork(t, true, rootlessPolicy, serve...)
	w := &working{network: n, alice: n.laptop("alice"), db: n.server("db", "tag:db")}
	_, err := w.db.Host.Serve(n.ctx, "tcp", "127.0.0.1:25432")
	n.must(err)
	w.flow, err = w.alice.Dial(n.ctx, "tcp", net.JoinHostPort(n.address(w.db, false), "25432"))
	n.must(err)
	return w
}

// undisturbed fails unless the flow goes on, and the policy of that commit is still enforced by both nodes.
func (w *working) undisturbed(t *testing.T, commit string) {
	t.Helper()
	if !w.flow.Alive(time.Second) {
		t.Errorf("the open connection was cut: %s", w.flow.Reason())
	}
	var s struct {
		Commit           string
		Nodes, Enforcing int
	}
	w.must(w.coordinator.JSON(w.ctx, &s, "policy", "status"))
	if s.Commit != commit || s.Nodes != s.Enforcing {
		t.Errorf("policy %.12s is in force on %d of %d nodes, want %.12s on all", s.Commit, s.Enforcing, s.Nodes, commit)
	}
}

// within bounds one command: a refusal comes at once, not by running out of patience.
func (n *network) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(n.ctx, d)
	n.t.Cleanup(cancel)
	return ctx
}

// TestMisuse calls the operator's and the user's programs as hurried people do. Script tests beside each program hold the rest.
func TestMisuse(t *testing.T) {
	n := newNetwork(t, true, rootlessPolicy)
	node, err := n.host("laptop").StartNode(n.ctx)
	n.must(err)
	before := n.operate("nodes", "list", "--json") + n.operate("users", "list", "--json") + n.operate("keys", "list", "--json")
	operator := func(args ...string) error { _, err := n.coordinator.CLI(n.ctx, args...); return err }
	user := func(args ...string) error { _, err := node.CLI(n.ctx, args...); return err }
	for _, c := range []struct {
		name   string
		err    error
		status int
		words  []string
	}{
		{"unknown command", operator("nodse"), 2, []string{`unknown command "nodse"`, "did you mean nodes?"}},
		{"unknown subcommand", operator("nodes", "lst"), 2, []string{`unknown command "lst"`, "did you mean list?"}},
		{"unknown flag", operator("nodes", "list", "--jsom"), 2, []string{`unknown flag "--jsom"`, "did you mean --json?"}},
		{"unknown flag after an argument", operator("nodes", "show", "db", "--jsom"), 2, []string{"did you mean --json?"}},
		{"missing argument", operator("nodes", "rename", "db"), 2, []string{"takes a node and its new name"}},
		{"argument too many", operator("nodes", "list", "db"), 2, []string{"takes no arguments"}},
		{"key without a tag", operator("keys", "create"), 2, []string{"--tag", "belongs to no person"}},
		{"key with a life that is no duration", operator("keys", "create", "--tag", "tag:db", "--life", "forever"), 2, []string{`--life cannot be "forever"`}},
		{"key that lives too long", operator("keys", "create", "--tag", "tag:db", "--life", "10000h"), 1, []string{"at most 90 days"}},
		{"key with an unknown tag", operator("keys", "create", "--tag", "tag:dbb"), 1, []string{"no tag:dbb in its tagOwners", "add it there first"}},
		{"key that is not there", operator("keys", "revoke", "abcdefgh"), 1, []string{"no auth key abcdefgh"}},
		{"node that is not there", operator("nodes", "remove", "nobody"), 1, []string{`no such node as "nobody"`, "picket-coordinator nodes list"}},
		{"node named by escape sequences", operator("nodes", "show", "\x1b[31mred\n"), 1, []string{"there is no such node"}},
		{"person that is no address", operator("users", "add", "bob"), 1, []string{"bob", "e-mail address"}},
		{"person with escape sequences", operator("users", "add", "bob\x1b[2J@example.com"), 1, nil},
		{"person that is not there", operator("users", "remove", "nobody@example.com"), 1, []string{"nobody@example.com"}},
		{"commit not named in full", operator("policy", "reload", "--accept", "4f1c2d9"), 2, []string{"the whole id of a commit"}},
		{"question without a port", operator("policy", "why", "a", "b"), 1, nil},
		{"another directory", n.operateIn(t.TempDir(), "nodes", "list"), 1, []string{"no coordinator", "--dir"}},
		{"serve: bad port", n.operateIn(t.TempDir(), "serve", "--listen", "8443"), 2, []string{"is no ADDRESS:PORT"}},
		{"serve: bad range", n.operateIn(t.TempDir(), "serve", "--addresses4", "100.64.0.1/10"), 2, []string{"did you mean 100.64.0.0/10?"}},
		{"serve: two sources", n.operateIn(t.TempDir(), "serve", "--policy-repo", "/a", "--policy-file", "/b"), 2, []string{"exclude each other"}},
		{"serve: words", n.operateIn(t.TempDir(), "serve", "now"), 2, []string{"takes no arguments"}},
		{"picket: flag after an argument", user("ping", "db", "--cuont", "3"), 2, []string{`unknown flag "--cuont"`, "did you mean --count?"}},
		{"picket: up before a coordinator is known", user("up"), 1, []string{"knows no coordinator yet", "--coordinator https://host:port#FINGERPRINT"}},
		{"picket: logout before joining", user("logout"), 1, []string{"nothing to log out of"}},
		{"picket: ping before joining", user("ping", "db"), 1, []string{"picket up"}},
	} {
		t.Run(c.name, func(t *testing.T) { says(t, c.err, c.status, c.words...) })
	}
	if after := n.operate("nodes", "list", "--json") + n.operate("users", "list", "--json") + n.operate("keys", "list", "--json"); after != before {
		t.Errorf("something was changed:\n%s\nwas\n%s", after, before)
	}
}

// operateIn runs the operator's program on another directory, where nobody serves.
func (n *network) operateIn(dir string, args ...string) error {
	_, err := n.host("coordinator").Run(n.ctx, append(append([]string{filepath.Join(programs, "picket-coordinator")}, args...), "--dir", filepath.Join(dir, "d"))...)
	return err
}
