package acl

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sshText(rules string) string { return fmt.Sprintf(sshPolicy, rules) }

func samePrefix(a, b netip.Prefix) bool { return a == b }

const sshDirectory = `{
	"users": [{"name": "alice@example.com"}, {"name": "bob@example.com"}, {"name": "eve@example.org"}],
	"nodes": [
		{"name": "laptop", "user": "alice@example.com", "addresses": ["100.64.0.1"]},
		{"name": "tablet", "user": "alice@example.com", "addresses": ["100.64.0.2"]},
		{"name": "desk", "user": "bob@example.com", "addresses": ["100.64.0.3"]},
		{"name": "web1", "tags": ["tag:web"], "addresses": ["100.64.0.4"]},
		{"name": "web2", "tags": ["tag:web", "tag:prod"], "addresses": ["100.64.0.5"]},
		{"name": "runner", "tags": ["tag:ci"], "addresses": ["100.64.0.6"]},
	],
}`

// Each is a test against the rules, and the failures that it must have.
var sshVerdicts = []struct{ rules, test, want string }{
	// failures first
	{``, `{"src": "alice@example.com", "dst": ["tag:web"], "accept": ["root"]}`,
		"sshTests[0]: alice@example.com -> tag:web as root (to web1) is refused, but the test accepts it: no rule allows it"},
	{``, `{"src": "alice@example.com", "dst": ["tag:web"], "check": ["root"]}`,
		"sshTests[0]: alice@example.com -> tag:web as root (to web1) is refused, but the test checks it: no rule allows it"},
	{`{"action": "accept", "src": ["group:eng"], "dst": ["tag:web"], "users": ["root"]}`,
		`{"src": "bob@example.com", "dst": ["tag:web"], "deny": ["root", "ubuntu"]}`,
		"sshTests[0]: bob@example.com -> tag:web as root (to web1) is allowed by ssh[0], line 6, but the test denies it"},
	{`{"action": "accept", "src": ["group:eng"], "dst": ["tag:web"], "users": ["root"]}`,
		`{"src": "bob@example.com", "dst": ["tag:web"], "check": ["root"]}`,
		"sshTests[0]: bob@example.com -> tag:web as root (to web1) is allowed without a check by ssh[0], line 6, but the test checks it"},
	{`{"action": "accept", "src": ["alice@example.com"], "dst": ["tag:web"], "users": ["root"]}`,
		`{"src": "group:eng", "dst": ["tag:web"], "accept": ["root"]}`,
		"sshTests[0]: group:eng -> tag:web as root (from bob@example.com to web1) is refused, but the test accepts it: no rule allows it"},
	{`{"action": "accept", "src": ["group:eng"], "dst": ["tag:prod"], "users": ["root"]}`,
		`{"src": "bob@example.com", "dst": ["tag:prod", "tag:web"], "accept": ["root"]}`,
		"sshTests[0]: bob@example.com -> tag:web as root (to web1) is refused, but the test accepts it: no rule allows it"},
	{`{"action": "accept", "src": ["group:eng"], "dst": ["tag:prod"], "users": ["root"]}`,
		`{"src": "bob@example.com", "dst": ["tag:web"], "deny": ["root"]}`,
		"sshTests[0]: bob@example.com -> tag:web as root (to web2) is allowed by ssh[0], line 6, but the test denies it"},
	{`{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["autogroup:nonroot"]}`,
		`{"src": "eve@example.org", "dst": ["tag:web"], "accept": ["ubuntu", "root"]}`,
		"sshTests[0]: eve@example.org -> tag:web as root (to web1) is refused, but the test accepts it: no rule allows it"},
	{`{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["localpart:*@example.com"]}`,
		`{"src": "eve@example.org", "dst": ["tag:web"], "accept": ["eve"]}`,
		"sshTests[0]: eve@example.org -> tag:web as eve (to web1) is refused, but the test accepts it: no rule allows it"},
	{`{"action": "accept", "src": ["alice@example.com"], "dst": ["autogroup:self"], "users": ["root"]}`,
		`{"src": "bob@example.com", "dst": ["autogroup:self"], "accept": ["root"]}`,
		"sshTests[0]: bob@example.com -> autogroup:self as root is refused, but the test accepts it: no rule allows it"},
	{`{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}`,
		`{"src": "bob@example.com", "dst": ["alice@example.com"], "accept": ["root"]}`,
		"sshTests[0]: bob@example.com -> alice@example.com as root is refused, but the test accepts it: no rule allows it"},
	{`{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["root"]}`,
		`{"src": "100.64.0.99", "dst": ["tag:web"], "accept": ["root"]}`,
		"sshTests[0]: 100.64.0.99 -> tag:web as root (to web1) is refused, but the test accepts it: no rule allows it"},
	// a machine of which the policy knows nothing is nobody's: neither autogroup:self nor a user may name it
	{`{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}`,
		`{"src": "100.64.0.98", "dst": ["100.64.0.99"], "accept": ["root"]}`,
		"sshTests[0]: 100.64.0.98 -> 100.64.0.99 as root is refused, but the test accepts it: no rule allows it"},

	{`{"action": "check", "src": ["group:eng"], "dst": ["tag:web"], "users": ["root", "ubuntu"]}`,
		`{"src": "group:eng", "dst": ["tag:web"], "check": ["root"], "accept": ["ubuntu"], "deny": ["postgres"]}`, ""},
	// check goes before accept, whichever stands first
	{`{"action": "accept", "src": ["group:eng"], "dst": ["tag:web"], "users": ["root"]}, {"action": "check", "src": ["bob@example.com"], "dst": ["tag:web"], "users": ["root"]}`,
		`{"src": "bob@example.com", "dst": ["tag:web"], "check": ["root"]}`, ""},
	{`{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root", "localpart:*@example.com"]}`,
		`{"src": "alice@example.com", "dst": ["autogroup:self", "100.64.0.2", "alice@example.com"], "accept": ["root", "alice"], "deny": ["bob"]}`, ""},
	{`{"action": "accept", "src": ["tag:ci"], "dst": ["autogroup:tagged"], "users": ["root"]}`,
		`{"src": "100.64.0.6", "dst": ["tag:web", "autogroup:tagged"], "accept": ["root"]}`, ""},
	{`{"action": "accept", "src": ["tag:ci"], "dst": ["autogroup:tagged"], "users": ["root"]}`,
		`{"src": "tag:ci", "dst": ["autogroup:member"], "deny": ["root"]}`, ""},
	// who has no node yet is stood in for
	{`{"action": "accept", "src": ["group:none", "tag:new"], "dst": ["tag:new"], "users": ["root"]}`,
		`{"src": "group:none", "dst": ["tag:new"], "accept": ["root"]}`, ""},
	{`{"action": "accept", "src": ["tag:new"], "dst": ["tag:new"], "users": ["root"]}`, `{"src": "tag:new", "dst": ["tag:new"], "accept": ["root"]}`, ""},
	// only the SSH rules are asked: network access is another matter
	{``, `{"src": "bob@example.com", "dst": ["tag:prod"], "deny": ["root"]}`, ""},
}

func TestSSHTests(t *testing.T) {
	d := mustDirectory(t, sshDirectory)
	for _, v := range sshVerdicts {
		p := mustParse(t, fmt.Sprintf(`{
	"groups": {"group:eng": ["alice@example.com", "bob@example.com"], "group:none": []},
	"tagOwners": {"tag:web": [], "tag:prod": [], "tag:ci": [], "tag:new": []},
	"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22"]}],
	"ssh": [
		%s
	],
	"sshTests": [%s],
}`, v.rules, v.test))
		var got []string
		for _, f := range p.sshFailures(d) {
			if f.Line != 8 || f.Column < 15 {
				t.Errorf("%s: failure at line %d, column %d", v.test, f.Line, f.Column)
			}
			got = append(got, f.Message)
		}
		if diff := cmp.Diff(v.want, strings.Join(got, "\n")); diff != "" {
			t.Errorf("%s\n%s\n%s", v.rules, v.test, diff)
		}
	}
}

// A login that two people have names neither: the machines of both are nobody's.
func TestSSHTestsGuessNoOwner(t *testing.T) {
	d := mustDirectory(t, `{"users": [{"name": "alice@example.com"}, {"name": "ALICE@example.com"}], "nodes": [
		{"name": "laptop", "user": "alice@example.com", "addresses": ["100.64.0.1"]},
	]}`)
	p := mustParse(t, `{
		"ssh": [{"action": "accept", "src": ["alice@example.com"], "dst": ["alice@example.com"], "users": ["root"]}],
		"sshTests": [{"src": "100.64.0.1", "dst": ["100.64.0.1"], "deny": ["root"]}],
	}`)
	if got := p.sshFailures(d); len(got) != 0 {
		t.Errorf("the machine of one of two is named: %v", got)
	}
}

func TestSSHTestsOfNobodyYet(t *testing.T) {
	p := mustParse(t, `{
		"tagOwners": {"tag:a": []},
		"ssh": [{"action": "accept", "src": ["autogroup:admin"], "dst": ["autogroup:tagged"], "users": ["root"]}],
		"sshTests": [
			{"src": "alice@example.com", "dst": ["tag:a", "autogroup:tagged"], "accept": ["root"]},
			{"src": "alice@example.com", "dst": ["autogroup:member"], "accept": ["root"]},
			{"src": "bob@example.com", "dst": ["autogroup:tagged"], "deny": ["root"], "accept": ["root"]},
		],
	}`)
	d := &Directory{Users: []User{{ID: "u1", Login: "alice@example.com", Role: "admin"}, {ID: "u2", Login: "bob@example.com", Role: "auditor"}}}
	var got []string
	for _, f := range p.sshFailures(d) {
		got = append(got, f.String())
	}
	want := []string{
		"line 6, column 73: sshTests[1]: alice@example.com -> autogroup:member as root is refused, but the test accepts it: no rule allows it",
		"line 7, column 89: sshTests[2]: bob@example.com -> autogroup:tagged as root is refused, but the test accepts it: no rule allows it",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Tests, groups and rules multiply: what cannot be asked in time fails, and does not pass.
func TestSSHTestsAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"tagOwners": {"tag:a": []}, "groups": {"group:all": [`)
	for i := range 4000 {
		fmt.Fprintf(&b, `"u%d@example.com",`, i)
	}
	b.WriteString(`]}, "ssh": [`)
	for range 2000 {
		b.WriteString(`{"action":"accept","src":["group:all"],"dst":["tag:a"],"users":["root"]},`)
	}
	b.WriteString(`], "sshTests": [`)
	for range 2000 {
		b.WriteString(`{"src": "group:all", "dst": ["tag:a"], "accept": ["root"]},`)
	}
	b.WriteString(`]}`)
	got := mustParse(t, b.String()).sshFailures(&Directory{})
	if len(got) != 1 || !strings.Contains(got[0].Message, "not run, nor any after it: the tests come to more than 10000000 comparisons") {
		t.Errorf("got %d failures, %.200v", len(got), got)
	}
}
