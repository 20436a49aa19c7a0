package acl

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// denyWorld has alice, an exit node, a router of 203.0.113.0/24 and a web server, with ids n0 to n3.
const denyWorld = `{
	"users": [{"name": "alice@example.com"}],
	"nodes": [
		{"name": "alice", "user": "alice@example.com", "addresses": ["100.64.0.1", "fd7a::1"]},
		{"name": "exit", "tags": ["tag:exit"], "addresses": ["100.64.0.2"], "routes": ["0.0.0.0/0", "::/0"]},
		{"name": "router", "tags": ["tag:router"], "addresses": ["100.64.0.3"], "routes": ["203.0.113.0/24"]},
		{"name": "web", "tags": ["tag:web"], "addresses": ["100.64.0.4", "fd7a::4"]},
	],
}`

// underDeny compiles one grant and one deny, each "SRC -> DST PORTS".
func underDeny(t *testing.T, d *Directory, grant, deny string) *Compiled {
	t.Helper()
	rule := func(s string) string {
		f := strings.Fields(s)
		return `"src": ["` + f[0] + `"], "dst": ["` + f[2] + `"], "ip": ["` + f[3] + `"]`
	}
	return mustCompile(t, mustParse(t, `{"tagOwners": {"tag:exit": [], "tag:router": [], "tag:web": []},
		"grants": [{`+rule(grant)+`}], "denies": [{`+rule(deny)+`, "reason": "under investigation"}]}`), d)
}

// allowedBy lists who allows a TCP flow: the whole network's rules and the views of the nodes named.
func allowedBy(t *testing.T, c *Compiled, src, dst string, port uint16, views ...NodeID) (out []string) {
	t.Helper()
	f := Flow{netip.MustParseAddr(src), netip.MustParseAddr(dst), TCP, port}
	if c.Ruleset().Allows(f, now).Allow {
		out = append(out, "whole")
	}
	for _, id := range views {
		if v, ok := c.View(id); ok && v.Ruleset().Allows(f, now).Allow {
			out = append(out, string(id))
		}
	}
	return out
}

// What a deny names is refused wherever it lies: at a node, behind a router, beyond an exit node, and in the node's other address family.
func TestDenyHoldsWhereverItsSubjectLies(t *testing.T) {
	for name, c := range map[string]struct {
		grant, deny, src, dst string
	}{
		"a network beyond the exit":         {"alice@example.com -> autogroup:internet *", "alice@example.com -> 198.51.100.0/24 *", "100.64.0.1", "198.51.100.7"},
		"everything, from beyond the exit":  {"autogroup:danger-all -> tag:web *", "* -> tag:web tcp:22", "8.8.8.8", "100.64.0.4"},
		"everything, beyond the exit":       {"alice@example.com -> autogroup:internet *", "alice@example.com -> * *", "100.64.0.1", "198.51.100.7"},
		"a network behind a router":         {"alice@example.com -> 203.0.113.0/24 *", "alice@example.com -> 203.0.113.0/28 *", "100.64.0.1", "203.0.113.7"},
		"an address, by the other family's": {"alice@example.com -> tag:web *", "100.64.0.1 -> 100.64.0.4 *", "fd7a::1", "fd7a::4"},
	} {
		if got := allowedBy(t, underDeny(t, mustDirectory(t, denyWorld), c.grant, c.deny), c.src, c.dst, 22, "n0", "n1", "n2", "n3"); got != nil {
			t.Errorf("%s: allowed by %v", name, got)
		}
	}
}

// A node that is cut off must not make room: without the router, the denied network would lie beyond the exit node.
func TestDenyHoldsWhenItsRouterGoes(t *testing.T) {
	c := underDeny(t, mustDirectory(t, denyWorld), "alice@example.com -> * *", "alice@example.com -> 203.0.113.0/24 *")
	next, _ := c.Update(nil, []NodeID{"n2"})
	if got := allowedBy(t, next, "100.64.0.1", "203.0.113.7", 443, "n0", "n1"); got != nil {
		t.Errorf("allowed by %v", got)
	}
}

// A deny and its reason are for those whom it is about (R30).
func TestDenyIsToldToNobodyElse(t *testing.T) {
	c := underDeny(t, mustDirectory(t, denyWorld), "* -> * *", "alice@example.com -> tag:web tcp:22")
	for id, want := range map[NodeID]int{"n0": 1, "n1": 0, "n2": 0, "n3": 1} {
		if v, _ := c.View(id); len(v.Denies) != want {
			t.Errorf("%s is told of the denies %v, want %d", id, v.Denies, want)
		}
	}
}

// Of two people with one login a rule names neither; a deny names both.
func TestDenyNamesBothOfOneLogin(t *testing.T) {
	d := mustDirectory(t, denyWorld)
	d.Users = append(d.Users, User{ID: "u9", Login: "Alice@example.com"})
	if got := allowedBy(t, underDeny(t, d, "* -> * *", "alice@example.com -> tag:web *"), "100.64.0.1", "100.64.0.4", 443, "n0", "n3"); got != nil {
		t.Errorf("allowed by %v", got)
	}
}

// An address that a deny names may become a node's own. Whose view changes is told, and it stays denied.
func TestDeniedAddressBecomesANodes(t *testing.T) {
	d := mustDirectory(t, denyWorld)
	d.Nodes[2].Routes = []netip.Prefix{netip.MustParsePrefix("100.0.0.0/8")}
	c := underDeny(t, d, "alice@example.com -> 100.0.0.0/8 *", "alice@example.com -> 100.64.0.9 *")
	next, touched := c.Update([]Node{{ID: "new", Name: "new", Tags: []string{"tag:web"}, Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.9")}}}, nil)
	was, _ := c.View("n0")
	is, _ := next.View("n0")
	if !slices.Contains(touched, "n0") && !cmp.Equal(was, is, comparable...) {
		t.Error("alice's view changed, and she is not told")
	}
	if got := allowedBy(t, next, "100.64.0.1", "100.64.0.9", 443, "n0", "n2", "new"); got != nil {
		t.Errorf("allowed by %v", got)
	}
}

// No route leads into the overlay, and no exit node is a way to it, whichever ranges it has.
func TestNothingButNodesLiesInTheOverlay(t *testing.T) {
	d := mustDirectory(t, denyWorld)
	d.Overlay = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")}
	d.Nodes[2].Routes = []netip.Prefix{netip.MustParsePrefix("198.0.0.0/8"), netip.MustParsePrefix("198.18.5.0/24")}
	for _, grant := range []string{"alice@example.com -> autogroup:internet *", "alice@example.com -> * *", "alice@example.com -> 198.18.0.0/15 *"} {
		if got := allowedBy(t, underDeny(t, d, grant, "tag:web -> tag:web *"), "100.64.0.1", "198.18.5.7", 443, "n0", "n1", "n2"); got != nil {
			t.Errorf("%s: allowed by %v", grant, got)
		}
	}
}

// What stands among a node's tags and is none must not pass for another selector.
func TestOddTagsAreNoOtherSelectors(t *testing.T) {
	d := mustDirectory(t, denyWorld)
	d.Nodes[3].Tags = []string{"group:eng", "alice@example.com", "autogroup:member", "!autogroup:member"}
	c := mustCompile(t, mustParse(t, `{"groups": {"group:eng": ["alice@example.com"]}, "grants": [
		{"src": ["group:eng", "alice@example.com", "autogroup:member"], "dst": ["100.64.0.1"], "ip": ["*"]}]}`), d)
	if got := allowedBy(t, c, "100.64.0.4", "100.64.0.1", 22, "n0", "n3"); got != nil {
		t.Errorf("allowed by %v", got)
	}
}
