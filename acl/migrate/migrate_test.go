package migrate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
)

// notes are an import's notes but those of what is simply carried over and of pings.
func notes(r *Result) (out []string) {
	for _, n := range r.Notes {
		if n.Kind != Carried && !strings.Contains(n.Text, "pings") {
			out = append(out, n.String())
		}
	}
	return out
}

func TestImportRefuses(t *testing.T) {
	for _, test := range []struct {
		name, text, want string
		o                Options
	}{
		{"no object", `[]`, "the policy must be an object", Options{Origin: Tailscale}},
		{"broken", `{"acls": [}`, "line 1, column 11: syntax error", Options{Origin: Tailscale}},
		{"too deep", strings.Repeat("[", 900_000), "nested too deep", Options{Origin: Tailscale}},
		{"too long", strings.Repeat(" ", 1<<20) + "{}", "at most 1048576", Options{Origin: Tailscale}},
		{"a section that is not known", "{\n\"quarantine\": [\"tag:x\"], \"acls\": []}", "line 2, column 15: unknown field `quarantine` in the policy", Options{Origin: Tailscale}},
		{"a section twice in other spelling", `{"acls": [], "ACLs": []}`, "`acls` is given twice", Options{Origin: Tailscale}},
		{"a group twice", `{"groups": {"group:a": ["a@example.com"], "group:a": []}}`, "`group:a` is given twice in `groups`", Options{Origin: Tailscale}},
		{"a user of Headscale without a domain", "{\"groups\": {\n\"group:a\": [\"alice@\"]}}", "line 2, column 13: `alice@` is a user name of Headscale, and Picket names users by their login: give the domain", Options{Origin: Headscale}},
		{"rules that are no list", `{"acls": {}}`, "`acls` must be a list", Options{Origin: Tailscale}},
		{"a default posture that is gone", `{"postures": {"posture:x": ["gibberish"]}, "defaultSrcPosture": ["posture:x"], "acls": []}`, "posture:x", Options{Origin: Tailscale}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := Import([]byte(test.text), test.o)
			if err == nil {
				t.Fatalf("imported as\n%s", r.Text)
			}
			if asErrors(err) == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v; want in it %q", err, test.want)
			}
		})
	}
}

func TestImport(t *testing.T) {
	for _, test := range []struct {
		name, text, want string
		notes            []string
		o                Options
	}{
		{
			"comments stay, former names and blanks go",
			`{
	// Who we are.
	"Groups": {"group:eng": ["alice@example.com"]}, // all of us
	"TagOwners": {"tag:web": []},
	"ACLs": [
		// The web.
		{"Action": "accept", "Users": ["group:eng "], "Ports": ["tag:web:080,443"], "Proto": "TCP"},
	],
	"Tests": [{"User": "alice@example.com", "Allow": ["tag:web:80"]}],
}
`,
			`// Imported from a policy of Tailscale.
{
	// Who we are.
	"groups": {"group:eng": ["alice@example.com"]}, // all of us
	"tagOwners": {"tag:web": []},
	"acls": [
		// The web.
		{"action": "accept", "src": ["group:eng"], "dst": ["tag:web:80,443"], "proto": "tcp"},
	],
	"tests": [{"src": "alice@example.com", "accept": ["tag:web:80"]}],
}
`,
			[]string{
				"rewritten, line 3: `Groups` is written `groups`", "rewritten, line 4: `TagOwners` is written `tagOwners`", "rewritten, line 5: `ACLs` is written `acls`",
				"rewritten, line 7: `Action` is written `action`", "rewritten, line 7: `Ports` is written `dst`", "rewritten, line 7: `Proto` is written `proto`",
				"rewritten, line 7: `Users` is written `src`", "rewritten, line 7: `group:eng ` is written `group:eng`",
				"rewritten, line 7: `tag:web:080,443` is written `tag:web:80,443`", "rewritten, line 7: protocol `TCP` is written `tcp`",
				"rewritten, line 9: `Allow` is written `accept`", "rewritten, line 9: `Tests` is written `tests`", "rewritten, line 9: `User` is written `src`",
			},
			Options{Origin: Tailscale},
		},
		{
			"rules that cannot be, with a comment in their place",
			`{
	"hosts": {"bad name": "10.0.0.1", "office": "10.1.2.3/16"},
	"acls": [
		// everywhere
		{"action": "accept", "src": ["*"], "dst": ["0.0.0.0/0:*", "100.64.0.1:22"]},
		{"action": "accept", "src": ["*"], "dst": ["office:*"]},
		{"action": "accept", "src": ["group:gone"], "dst": ["*:*"]},
		{"action": "accept", "src": ["*"], "dst": ["100.64.0.2:22"], "timeOfDay": "night"}
	]
}
`,
			`// Imported from a policy of Tailscale.
{
	"hosts": {
// left out on import: hosts ` + "`bad name`: `bad name` is not the name of a host: ` ` may not stand in it" + `
// left out on import: hosts ` + "`office`: `10.1.2.3/16` has bits set behind its mask" + `
},
	"acls": [
		// everywhere
		{"action": "accept", "src": ["*"], "dst": ["100.64.0.1:22"]}
		// left out on import: acls[1]: unknown host ` + "`office`" + `
		// left out on import: acls[2]: unknown group ` + "`group:gone`" + `
		// left out on import: acls[3]: unknown field ` + "`timeOfDay` in acls[3]" + `
	]
}
`,
			nil, Options{Origin: Tailscale},
		},
		{
			"Headscale's users and nested groups",
			`{
	"groups": {"group:eng": ["alice", "bob@"], "group:all": ["group:eng", "eve@example.org", "group:all"]},
	"hosts": {"db": "100.64.0.9"},
	"tagOwners": {"tag:web": ["alice", "group:eng"]},
	"acls": [{"action": "accept", "src": ["bob", "db", "alice@"], "dst": ["bob:22", "alice@:*", "tag:web:*"], "srcPosture": null}],
	"grants": [{"src": ["group:all"], "dst": ["tag:web"], "ip": ["tcp:80,443"]}],
}`,
			`// Imported from a policy of Headscale.
{
	"groups": {"group:eng": ["alice@corp.example", "bob@corp.example"], "group:all": ["alice@corp.example", "bob@corp.example", "eve@example.org"]},
	"hosts": {"db": "100.64.0.9"},
	"tagOwners": {"tag:web": ["alice@corp.example", "group:eng"]},
	"acls": [{"action": "accept", "src": ["bob@corp.example", "db", "alice@corp.example"], "dst": ["bob@corp.example:22", "alice@corp.example:*", "tag:web:*"]}],
	"grants": [{"src": ["group:all"], "dst": ["tag:web"], "ip": ["tcp:80", "tcp:443"]}],
}`,
			nil, Options{Origin: Headscale, Domain: "corp.example"},
		},
		{
			"no rules", "{}", "// Imported from a policy of Tailscale.\n{}",
			[]string{"differs: THE FILE HAS NO RULES, so there everybody may reach everything. Here it ALLOWS NOTHING; --keep-allow-all writes out the rule"},
			Options{Origin: Tailscale},
		},
		{
			"no rules, kept so", "{\"hosts\": {}}", "// Imported from a policy of Tailscale.\n{\"hosts\": {},\n\t\"grants\": [{\"src\": [\"*\"], \"dst\": [\"*\"], \"ip\": [\"*\"]}]\n}",
			[]string{"differs: grants[0] is open to everyone: it lets every node reach every other on every port: name who needs it", "rewritten: THE FILE HAS NO RULES, so there everybody may reach everything. The rule that says so is written out"},
			Options{Origin: Tailscale, KeepAllowAll: true},
		},
		{
			"empty rules allow nothing in Tailscale", `{"grants": []}`, "// Imported from a policy of Tailscale.\n{\"grants\": []}", nil, Options{Origin: Tailscale, KeepAllowAll: true},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := Import([]byte(test.text), test.o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(r.Text)); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			if _, err := acl.Parse(r.Text); err != nil {
				t.Errorf("does not parse: %v", err)
			}
			if diff := cmp.Diff(test.notes, notes(r)); test.notes != nil && diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}
