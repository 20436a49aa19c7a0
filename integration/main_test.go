//go:build linux

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// programs is the folder with the real binaries, built once.
var programs string

func TestMain(m *testing.M) {
	lab.Helper()
	code, err := withPrograms(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withPrograms(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "picket-bin-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/picket", "./cmd/picket-coordinator")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	programs = dir
	return m.Run(), nil
}

// patience bounds a whole test; a step that hangs fails then, with the logs.
const patience = 2 * time.Minute

// world makes an empty lab for one test; privileged ones skip with a reason where they cannot be.
func world(t *testing.T, rootless bool) (*lab.World, context.Context) {
	t.Helper()
	if !rootless {
		if why := lab.CanPrivileged(); why != nil {
			t.Skipf("needs network namespaces and TUN devices: %v", why)
		}
	}
	dir, err := os.MkdirTemp("", "pk") // short: unix sockets in it have at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	w, err := lab.New(lab.Config{Bin: programs, Dir: dir, Rootless: rootless})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(func() {
		cancel()
		w.Close()
		if t.Failed() {
			showLogs(t, dir)
		}
		os.RemoveAll(dir)
	})
	return w, ctx
}

// showLogs prints the end of every log of a failed world.
func showLogs(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*", "*.log"))
	for _, l := range logs {
		text, err := os.ReadFile(l)
		if err != nil || len(text) == 0 {
			continue
		}
		if len(text) > 4000 {
			text = text[len(text)-4000:]
		}
		t.Logf("--- %s\n%s", l, text)
	}
}

// network is a lab with a coordinator, alice's and bob's laptops, and a server tagged db.
type network struct {
	*lab.World
	t           *testing.T
	ctx         context.Context
	coordinator *lab.Coordinator
	policy      *lab.PolicyRepo
	founded     bool // the first administrator has an account
	people      map[string]*lab.Person
	nodes       map[string]*lab.Node
}

const secret = "correct horse battery staple"

// newNetwork builds one with the policy given and two flags of serve at most.
func newNetwork(t *testing.T, rootless bool, policy string, serve ...string) *network {
	t.Helper()
	w, ctx := world(t, rootless)
	n := &network{World: w, t: t, ctx: ctx, people: map[string]*lab.Person{}, nodes: map[string]*lab.Node{}}
	var err error
	n.policy, err = lab.NewPolicyRepo(ctx, filepath.Join(t.TempDir(), "policy"))
	n.must(err)
	n.commit(policy)
	n.coordinator, err = n.host("coordinator").StartCoordinator(ctx, append([]string{"--policy-repo", n.policy.Dir}, serve...)...)
	n.must(err)
	return n
}

func (n *network) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *network) host(name string) *lab.Host {
	n.t.Helper()
	h, err := n.Host(name)
	n.must(err)
	return h
}

func (n *network) commit(policy string) string {
	n.t.Helper()
	id, err := n.policy.Commit(n.ctx, policy, "change")
	n.must(err)
	return id
}

// person makes an account; the first one is the admin's.
func (n *network) person(name string) *lab.Person {
	n.t.Helper()
	if p, ok := n.people[name]; ok {
		return p
	}
	p := lab.NewPerson(name+"@example.com", secret)
	link := n.coordinator.Setup
	if n.founded {
		var err error
		link, err = n.coordinator.Invite(n.ctx, p.Login)
		n.must(err)
	}
	n.founded = true
	n.must(n.host(name).SetUp(n.ctx, p, link))
	n.people[name] = p
	return p
}

// laptop starts a node on the host called name and has that person let it in through the pages.
func (n *network) laptop(name string) *lab.Node {
	n.t.Helper()
	p := n.person(name)
	node, err := n.host(name).StartNode(n.ctx)
	n.must(err)
	n.joinByURL(node, p, name)
	n.nodes[name] = node
	return node
}

func (n *network) joinByURL(node *lab.Node, p *lab.Person, hostname string) {
	n.t.Helper()
	j, err := node.Up(n.ctx, "--coordinator", n.coordinator.Join, "--hostname", hostname)
	n.must(err)
	_, err = node.Host.Approve(n.ctx, p, j, j.Code)
	n.must(err)
	n.must(j.Wait(n.ctx))
}

// server starts a node that joins with an auth key of the tag.
func (n *network) server(name, tag string) *lab.Node {
	n.t.Helper()
	node, err := n.host(name).StartNode(n.ctx)
	n.must(err)
	n.admit(node, name, tag)
	return node
}

// admit has a node join with an auth key of the tag.
func (n *network) admit(node *lab.Node, name, tag string) {
	n.t.Helper()
	key, err := n.coordinator.AuthKey(n.ctx, "--tag", tag)
	n.must(err)
	_, err = node.CLI(n.ctx, "up", "--coordinator", n.coordinator.Join, "--auth-key", key, "--hostname", name)
	n.must(err)
	n.nodes[name] = node
}

func (n *network) address(node *lab.Node, v6 bool) string {
	n.t.Helper()
	a, err := node.Address(n.ctx, v6)
	n.must(err)
	return a
}

// operate runs an operator's command that must succeed.
func (n *network) operate(args ...string) string {
	n.t.Helper()
	out, err := n.coordinator.CLI(n.ctx, args...)
	n.must(err)
	return out
}

// inForce commits a policy and waits until every node enforces it.
func (n *network) inForce(policy string) {
	n.t.Helper()
	n.commit(policy)
	n.operate("policy", "reload", "--wait")
}
