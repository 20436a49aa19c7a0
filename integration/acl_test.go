//go:build linux

package integration

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// ci is a machine that is no node, with a token in a file: it asks about policies over the network alone.
type ci struct {
	*network
	host  *lab.Host
	join  string
	token string // file
}

// aclToken makes a token, and returns its id and text.
func (n *network) aclToken(flags ...string) (id, text string) {
	n.t.Helper()
	var made struct{ ID, Token string }
	n.must(n.coordinator.JSON(n.ctx, &made, append([]string{"tokens", "create", "--for", "policy:read"}, flags...)...))
	return made.ID, made.Token
}

func (n *network) ci(token string) *ci {
	n.t.Helper()
	h := n.host("ci")
	c := &ci{n, h, n.coordinator.Join, filepath.Join(h.Dir, "token")}
	c.write("token", token+"\n")
	return c
}

// write makes a file on the machine, and returns its path.
func (c *ci) write(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.host.Dir, name)
	c.must(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// acl runs an acl command that asks the coordinator, and holds it to its exit status.
func (c *ci) acl(status int, args ...string) string {
	c.t.Helper()
	out, err := c.ask(args...)
	got := 0
	var exit *lab.ExitError
	if errors.As(err, &exit) {
		got = exit.Code
	}
	if got != status {
		c.t.Errorf("acl %v ended with status %d, want %d: %v\n%s", args, got, status, err, out)
	}
	return out
}

func (c *ci) ask(args ...string) (string, error) {
	return c.host.Run(c.ctx, append(append([]string{filepath.Join(programs, "picket"), "acl"}, args...), "--coordinator", c.join, "--token-file", c.token)...)
}

func (c *ci) says(out string, words ...string) {
	c.t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			c.t.Errorf("it does not say %q:\n%s", w, out)
		}
	}
}

// TestAclAsksTheCoordinator has a machine that is no node ask, over TLS and with a token, what a change of policy would do to connections
// that are live, who and what exists, and which policy is in force; and then with every token that is not taken.
func TestAclAsksTheCoordinator(t *testing.T) {
	n := newNetwork(t, true, breakerPolicy("25442", "25442"))
	alice, db := n.laptop("alice"), n.server("db", "tag:db")
	_, err := db.Host.Serve(n.ctx, "tcp", "127.0.0.1:25442")
	n.must(err)
	flows := n.open(alice, net.JoinHostPort(n.address(db, false), "25442"), 3)
	id, text := n.aclToken("--note", "CI")
	c := n.ci(text)
	commit := n.head()

	narrower, wider := c.write("narrower.hujson", breakerPolicy("25443", "25442")), c.write("wider.hujson", strings.Replace(breakerPolicy("25442", "25442"), "tcp:25442", "tcp:25442-25443", 1))
	other := c.write("narrowest.hujson", "{}")
	c.says(c.acl(3, "diff", narrower), "Access widens: 1 gained, 1 lost", "(compared with the policy in force, commit "+commit[:12]+", generation ", "over the 2 nodes of 1 user in the directory)",
		"\n3 of the 3 live flows would be cut.\n", "alice@example.com -> tag:db tcp 25442 (was grants[0], line 4): 3 flows\n", "one end of each is node db")
	c.says(c.acl(3, "diff", wider), "Access widens: 1 gained", "None of the 3 live flows would be cut.")
	c.says(c.acl(0, "diff", other), "No access widens: 1 lost, 4 other changes", "3 of the 3 live flows would be cut.")
	c.says(c.acl(0, "diff", narrower, other, "--format", "markdown"), "### Policy review", "**No access widens**", "**3 of the 3 live flows would be cut**.", "```diff\n- alice@example.com -> tag:db tcp 25442")
	c.says(c.acl(0, "diff", wider, "--exit-zero", "--format", "json"), `"widens": true`, `"flows": 3`, `"cut": 0`)
	for _, f := range flows {
		if !f.Alive(time.Second) {
			t.Fatalf("asking cut a flow: %s", f.Reason())
		}
	}
	c.others(alice, db)
	c.refused(id, text)
}

// others checks the commands beside diff.
func (c *ci) others(alice, db *lab.Node) {
	c.t.Helper()
	c.says(c.acl(0, "explain", "alice", "db:25442"), "allowed: alice (alice@example.com, ", "grants[0], line 4 allows it")
	c.says(c.acl(1, "explain", "db", "alice:25442"), "refused: db (tag:db, ")
	c.says(c.acl(1, "explain", "--policy", c.write("nothing.hujson", "{}"), "alice", "db:25442"), "refused: ")
	c.says(c.acl(0, "who", "--can-reach", "db:25442"), "alice@example.com  alice", "Over the 2 nodes of 1 user in the directory")
	tests := strings.Replace(breakerPolicy("25442", "25442"), `"grants"`, `"tests": [{"src": "alice@example.com", "accept": ["tag:db:25442"], "deny": ["tag:web:25442"]}], "grants"`, 1)
	c.says(c.acl(0, "test", c.write("tested.hujson", tests)), "2 tests hold")
	c.says(c.acl(0, "check", c.write("checked.hujson", tests)), "warning: grants[1].dst names no node", "no errors, ")
	question := `{"src":"` + c.address(alice, false) + `","dst":"` + c.address(db, false) + `","proto":"tcp","port":25442}`
	out, err := c.host.Run(c.ctx, "sh", "-c", `"$0" acl eval --coordinator "$1" --token-file "$2" <"$3"`, filepath.Join(programs, "picket"), c.join, c.token, c.write("questions", question))
	c.must(err)
	c.says(out, `{"allow":true,"rule":"grants[0]","line":4}`)

	printed := c.acl(0, "directory")
	path := filepath.Join(c.host.Dir, "directory.json")
	for range 2 { // made, and then replaced
		c.says(c.acl(0, "directory", "--output", path), "directory.json: 2 nodes of 1 user")
	}
	written, err := os.ReadFile(path)
	c.must(err)
	if local := c.operate("policy", "directory"); string(written) != printed || local != printed {
		c.t.Errorf("printed\n%s\nwritten\n%s\nby the operator\n%s", printed, written, local)
	}
	out, err = c.host.Run(c.ctx, filepath.Join(programs, "picket"), "acl", "explain", "--policy", filepath.Join(c.host.Dir, "tested.hujson"), "--directory", path, "alice", "db:25442")
	c.must(err)
	c.says(out, "allowed: ")
	c.says(c.operate("policy", "diff", filepath.Join(c.host.Dir, "narrowest.hujson")), "3 of the 3 live flows would be cut.")
}

// refused tries every token that is not taken, and every coordinator that is not the one meant, and that no token is written anywhere.
func (c *ci) refused(id, good string) {
	c.t.Helper()
	const untaken = "no valid token came with the request: it is missing, mistyped, expired or revoked"
	policy := filepath.Join(c.host.Dir, "narrowest.hujson")
	try := func(words ...string) {
		c.t.Helper()
		out, err := c.ask("diff", policy)
		says(c.t, err, 2, words...)
		if out != "" {
			c.t.Errorf("it printed %q", out)
		}
	}
	whole := c.join
	at, _, _ := strings.Cut(whole, "#")
	c.join = at
	try("not trusted by this system", "#FINGERPRINT")
	c.join = at + "#" + strings.Repeat("A", 42) + "E"
	try("has key", "the join string says")
	if log := c.operate("audit", "list"); strings.Contains(log, "token.refused") {
		c.t.Errorf("a token was shown to a coordinator that is not the one meant:\n%s", lastLines(log))
	}
	c.join = whole
	_, ended := c.aclToken("--expires", "1ns")
	mistyped := good[:len(good)-1] + map[bool]string{true: "b", false: "a"}[strings.HasSuffix(good, "a")]
	for _, token := range []string{ended, mistyped} {
		c.write("token", token)
		try(untaken)
	}
	c.write("token", good)
	c.acl(0, "diff", policy)
	c.operate("tokens", "revoke", id)
	try(untaken)

	log := c.operate("audit", "list", "--json")
	c.says(log, `"token.create"`, `"token.revoke"`, `"token.refused"`, `"detail": "expired"`, `"detail": "revoked"`, `"detail": "unknown"`, `"an unknown token"`)
	list := c.operate("tokens", "list")
	c.says(list, id+"  revoked  policy:read", "CI")
	if strings.Contains(list, "never  operator") && !strings.Contains(list, " ago ") && !strings.Contains(list, " now ") {
		c.t.Errorf("no use of a token is shown:\n%s", list)
	}
	for where, text := range map[string]string{"the audit log": log, "the list": list, "the log": c.coordinator.Output()} {
		for _, token := range []string{good, ended, mistyped} {
			if strings.Contains(text, token[len(token)-50:]) {
				c.t.Errorf("%s holds a token", where)
			}
		}
	}
}
