package review

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// names begin every policy of these tests.
const names = `
	"groups": {"group:eng": ["alice@example.com", "bob@example.com"], "group:ops": ["bob@example.com"]},
	"hosts": {"db": "100.64.0.9", "office": "10.20.0.0/16", "web-1": "100.64.0.6"},
	"tagOwners": {"tag:web": ["group:ops"], "tag:db": [], "tag:r1": [], "tag:r2": []},
	"postures": {"posture:managed": ["custom:managed == true"], "posture:strict": ["custom:managed == true", "node:os == 'linux'"]},
`

const directory = `{
	"users": [{"name": "alice@example.com"}, {"name": "bob@example.com", "role": "admin"}, {"name": "eve@example.com"}],
	"nodes": [
		{"name": "alice-1", "user": "alice@example.com", "addresses": ["100.64.0.1", "fd7a::1"]},
		{"name": "alice-2", "user": "alice@example.com", "addresses": ["100.64.0.2", "fd7a::2"]},
		{"name": "bob-1", "user": "bob@example.com", "addresses": ["100.64.0.3", "fd7a::3"]},
		{"name": "eve-1", "user": "eve@example.com", "addresses": ["100.64.0.4"]},
		{"name": "web-1", "tags": ["tag:web"], "addresses": ["100.64.0.5", "fd7a::5"]},
		{"name": "web-2", "tags": ["tag:web"], "addresses": ["100.64.0.6", "fd7a::6"]},
		{"name": "db-1", "tags": ["tag:db"], "addresses": ["100.64.0.9", "fd7a::9"]},
		{"name": "r1", "tags": ["tag:r1"], "addresses": ["100.64.0.20"], "routes": ["10.20.0.0/16"]},
		{"name": "x1", "tags": ["tag:r2"], "addresses": ["100.64.0.21"], "routes": ["0.0.0.0/0", "::/0"]}
	]
}`

func mustRead(t testing.TB, text string) *Source {
	t.Helper()
	s, err := Read([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return s
}

func mustDirectory(t testing.TB, text string) *acl.Directory {
	t.Helper()
	d, err := acl.ParseDirectory([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func rules(text string) string { return "{" + names + text + "}" }

// flat is the lines of a report without its heading and titles.
func flat(c *Changes) (out []string) {
	for _, s := range c.report() {
		out = append(out, s.lines...)
	}
	return out
}

func TestDiff(t *testing.T) {
	d := mustDirectory(t, directory)
	for _, test := range []struct {
		name     string
		old, new string
		widens   bool
		want     []string
	}{
		{"nothing, when only words change", `"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443"]}]`,
			`"acls": [{"action": "accept", "proto": "tcp", "users": ["alice@example.com", "group:eng"], "ports": ["tag:web:443"]}] /* same */`, false, nil},
		{"a rule gained", ``, `"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:8443"]}]`, true,
			[]string{"+ group:eng -> tag:web tcp 8443 (grants[0], line 6): 3 nodes to 2"}},
		{"a rule lost", `"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"]}]`, ``, false,
			[]string{"- group:eng -> db tcp 5432 (was grants[0], line 6): 3 nodes to 1"}},
		{"a person in place of a group", `"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"]}]`,
			`"grants": [{"src": ["alice@example.com"], "dst": ["db"], "ip": ["tcp:5432"]}]`, false,
			[]string{"- bob@example.com -> db tcp 5432 (was grants[0], line 6): 1 node to 1"}},
		{"a port range widened", `"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:80-90"]}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:80-100"]}]`, true,
			[]string{"+ group:eng -> tag:web tcp 91-100 (grants[0], line 6): 3 nodes to 2"}},
		{"a denial gained", `"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["*"]}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["*"]}],
			"denies": [{"src": ["group:ops"], "dst": ["*"], "ip": ["tcp:22"], "reason": "incident 7"}]`, false,
			[]string{"- group:ops -> tag:web tcp 22 (was grants[0], line 6): now refused by denies[0], line 7: incident 7; 1 node to 2"}},
		{"a denial lost", `"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:22"]}],
			"denies": [{"src": ["group:ops"], "dst": ["*"], "ip": ["tcp:22"], "reason": "incident 7"}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:22"]}]`, true,
			[]string{"+ group:ops -> tag:web tcp 22 (grants[0], line 6): no longer refused by denies[0], line 7: incident 7; 1 node to 2"}},
		{"a denial that ends", `"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:22"]}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:22"]}],
			"denies": [{"src": ["group:eng"], "dst": ["*"], "ip": ["*"], "reason": "freeze", "until": "2026-12-01T00:00Z"}]`, false,
			[]string{"- group:eng -> tag:web tcp 22 (was grants[0], line 6): is under from 2026-12-01T00:00:00Z; now refused by denies[0], line 7: freeze; 3 nodes to 2"}},
		{"a denial that is over", ``, `"denies": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "reason": "r", "until": "2026-11-01T00:00Z"}]`, false, nil},
		{"a condition dropped", `"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"], "mfa": "15m", "risk": "low"}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"], "mfa": "15m"}]`, true,
			[]string{"+ group:eng -> db tcp 5432 under mfa 15m (grants[0], line 6): was under mfa 15m, risk low; 3 nodes to 1"}},
		{"a condition added", `"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"]}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"], "until": "2026-12-31T18:00Z"}]`, false,
			[]string{"- group:eng -> db tcp 5432 (was grants[0], line 6): is under until 2026-12-31T18:00:00Z; 3 nodes to 1"}},
		{"a stricter mfa", `"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"], "mfa": "15m"}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"], "mfa": "5m"}]`, false,
			[]string{"- group:eng -> db tcp 5432 under mfa 15m (was grants[0], line 6): is under mfa 5m; 3 nodes to 1"}},
		{"other hours, which nobody can call stricter", `"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"], "hours": {"days": ["mon-fri"], "from": "09:00", "to": "17:00", "tz": "UTC"}}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["tcp:5432"], "hours": {"days": ["mon"], "from": "09:00", "to": "17:00", "tz": "UTC"}}]`, true,
			[]string{
				"+ group:eng -> db tcp 5432 under hours mon 09:00-17:00 UTC (grants[0], line 6): was under hours mon,tue,wed,thu,fri 09:00-17:00 UTC; 3 nodes to 1",
				"- group:eng -> db tcp 5432 under hours mon,tue,wed,thu,fri 09:00-17:00 UTC (was grants[0], line 6): is under hours mon 09:00-17:00 UTC; 3 nodes to 1",
			}},
		{"a posture that asserts more", `"acls": [{"action": "accept", "src": ["group:eng"], "dst": ["db:22"], "proto": "tcp", "srcPosture": ["posture:managed"]}]`,
			`"acls": [{"action": "accept", "src": ["group:eng"], "dst": ["db:22"], "proto": "tcp", "srcPosture": ["posture:strict"]}]`, false,
			[]string{"- group:eng -> db tcp 22 under posture:managed (was acls[0], line 6): is under posture:strict; 3 nodes to 1"}},
		{"another router", `"grants": [{"src": ["group:eng"], "dst": ["office"], "ip": ["tcp:22"], "via": ["tag:r2"]}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["office"], "ip": ["tcp:22"], "via": ["tag:r1"]}]`, true,
			[]string{"+ group:eng -> office tcp 22 (grants[0], line 6): from 3 nodes"}},
		{"part of a routed network", `"grants": [{"src": ["group:eng"], "dst": ["10.20.1.0/24"], "ip": ["tcp:22"]}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["office"], "ip": ["tcp:22"]}]`, true,
			[]string{"+ group:eng -> the rest of 10.20.0.0/16 tcp 22 (grants[0], line 6): from 3 nodes"}},
		{"the internet", ``, `"grants": [{"src": ["group:eng"], "dst": ["autogroup:internet"], "ip": ["tcp:443"]}]`, true,
			[]string{"+ group:eng -> autogroup:internet tcp 443 (grants[0], line 6): from 3 nodes"}},
		{"one's own machines; who has one has no way to go", ``, `"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["tcp:22"]}]`, true,
			[]string{"+ alice@example.com -> autogroup:self tcp 22 (grants[0], line 6): 2 nodes to 2"}},
		{"tests removed", `"tests": [{"src": "alice@example.com", "deny": ["tag:db:22", "tag:db:23"]}]`,
			`"tests": [{"src": "alice@example.com", "deny": ["tag:db:23"]}]`, true,
			[]string{"- tests: alice@example.com -> tag:db:22 is refused (removed from line 6: no longer tested)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			old, new := mustRead(t, rules(test.old)), mustRead(t, rules(test.new))
			c, err := Diff(old, new, d, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, flat(c)); diff != "" || c.Widens() != test.widens {
				t.Errorf("widens %v, want %v; lines (-want +got):\n%s", c.Widens(), test.widens, diff)
			}
			back, err := Diff(new, old, d, now)
			if err != nil {
				t.Fatal(err)
			}
			if len(back.Lines) != len(c.Lines) {
				t.Errorf("%d lines there, %d back: %q", len(c.Lines), len(back.Lines), flat(back))
			}
		})
	}
}

func TestDiffOfNames(t *testing.T) {
	old := mustRead(t, `{
		"groups": {"group:eng": ["alice@example.com"]},
		"tagOwners": {"tag:web": []},
		"autoApprovers": {"routes": {"10.0.0.0/8": ["group:eng"]}},
		"ssh": [{"action": "check", "src": ["group:eng"], "dst": ["tag:web"], "users": ["root"]}],
		"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443"]}],
	}`)
	new := mustRead(t, `{
		"groups": {"group:eng": ["alice@example.com", "eve@example.com"]},
		"tagOwners": {"tag:web": ["eve@example.com"], "tag:new": ["eve@example.com"]},
		"autoApprovers": {"exitNode": ["group:eng"]},
		"ssh": [{"action": "accept", "src": ["group:eng"], "dst": ["tag:web"], "users": ["root"]}],
		"grants": [
			{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443"]},
			{"src": ["group:eng"], "dst": ["tag:web"], "app": {"example.com/cap/edit": [{"all": true}]}},
		],
	}`)
	c, err := Diff(old, new, mustDirectory(t, directory), now)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"+ eve@example.com -> tag:web tcp 443 (grants[0], line 7): 1 node to 2",
		"+ tagOwners: tag:web: eve@example.com (line 3)",
		"+ autoApprovers: exit nodes of group:eng are approved (line 4)",
		"+ ssh: accept group:eng -> tag:web as root (line 5)",
		`+ app: group:eng -> tag:web: example.com/cap/edit [{"all":true}] (line 8)`,
		"+ tagOwners: tag:new is defined (line 3)",
		"+ tagOwners: tag:new: eve@example.com (line 3)",
		"- autoApprovers: 10.0.0.0/8 of group:eng are approved (line 4)",
		"- ssh: check group:eng -> tag:web as root (line 5)",
		"+ groups: group:eng: eve@example.com (line 2)",
	}
	if diff := cmp.Diff(want, flat(c)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDiffOverStandIns(t *testing.T) {
	old := mustRead(t, rules(`"grants": [
		{"src": ["group:eng"], "dst": ["office"], "ip": ["tcp:22"], "via": ["tag:r1"]},
		{"src": ["autogroup:member"], "dst": ["tag:web"], "ip": ["tcp:443"]},
	]`))
	new := mustRead(t, rules(`"grants": [
		{"src": ["group:eng"], "dst": ["office"], "ip": ["tcp:22"], "via": ["tag:r2"]},
		{"src": ["*"], "dst": ["tag:web"], "ip": ["tcp:443"]},
		{"src": ["autogroup:admin", "user:*@example.org"], "dst": ["db", "autogroup:internet"], "ip": ["udp:53"]},
		{"src": ["group:ops"], "dst": ["autogroup:self"], "ip": ["tcp:22"]},
	]`))
	c, err := Diff(old, new, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"+ autogroup:tagged, 10.20.0.0/16, node 100.64.0.9, node of nobody -> tag:web tcp 443 (grants[1], line 8)",
		"+ autogroup:admin, user:*@example.org -> db, autogroup:internet udp 53 (grants[2], line 9)",
		"+ group:ops -> autogroup:self tcp 22 (grants[3], line 10)",
		"+ group:eng -> office tcp 22 under via tag:r2 (grants[0], line 7): was under via tag:r1",
		"- group:eng -> office tcp 22 under via tag:r1 (was grants[0], line 7): is under via tag:r2",
	}
	if diff := cmp.Diff(want, flat(c)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !c.Widens() || !strings.Contains(c.Basis(), "stand-ins") {
		t.Error("not over stand-ins")
	}
}

func TestMarkdownHoldsNoMarkupOfOthers(t *testing.T) {
	old := mustRead(t, "{}")
	new := mustRead(t, "{\"denies\": [], \"nodeAttrs\": [{\"target\": [\"*\"], \"attr\": [\"```@everyone<img|src=x>\"]}]}")
	c, err := Diff(old, new, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	c.WriteMarkdown(&b)
	inside := false
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "```") {
			inside = !inside
			continue
		}
		if strings.Contains(line, "`") || !inside && strings.ContainsAny(line, "@<|") {
			t.Errorf("markup: %s", line)
		}
	}
	if inside || !strings.Contains(b.String(), "'''@everyone") {
		t.Errorf("the block does not hold it:\n%s", b.String())
	}
}

func TestMarkdownIsBounded(t *testing.T) {
	var grants []string
	for i := range 2000 {
		grants = append(grants, fmt.Sprintf(`{"src": ["user%d@example.com"], "dst": ["10.%d.%d.0/24"], "ip": ["tcp:%d"]}`, i, i/250, i%250, i+1))
	}
	c, err := Diff(Nothing(), mustRead(t, `{"grants": [`+strings.Join(grants, ",\n")+`]}`), nil, now)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	c.WriteMarkdown(&b)
	if b.Len() > maxMarkdown || !strings.Contains(b.String(), " more\n```\n\n</details>") || len(c.Lines) != 2000 {
		t.Errorf("%d lines in %d bytes, which end in %q", len(c.Lines), b.Len(), b.String()[b.Len()-100:])
	}
}

func TestAccess(t *testing.T) {
	d := mustDirectory(t, directory)
	s := mustRead(t, rules(`"grants": [
		{"src": ["group:eng"], "dst": ["db", "tag:web"], "ip": ["tcp:5432", "tcp:22"], "mfa": "1h"},
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
		{"src": ["*"], "dst": ["office"], "ip": ["*"]},
	], "denies": [{"src": ["bob@example.com"], "dst": ["tag:db"], "ip": ["tcp:22"], "reason": "r"}]`))
	ports := []acl.Ports{{Proto: acl.TCP, First: 22, Last: 22}}
	for _, test := range []struct {
		q    Query
		want []string
	}{
		{Query{To: "nowhere"}, []string{`"nowhere" names nobody: it is no node of the directory, no host of the policy and no user`}},
		{Query{To: "web-1"}, []string{`"web-1" may be the node web-1 or the host web-1 (write host:web-1): say which`}},
		{Query{To: "host:web-1", From: "tag:db"}, nil},
		{Query{To: "group:nobody"}, []string{"unknown group `group:nobody`: define it in `groups`"}},
		{Query{From: "mallory@example.com"}, []string{`"mallory@example.com" names nobody in the directory`}},
		{Query{To: "db"}, []string{"alice@example.com -> db tcp 22 under mfa 1h", "group:eng -> db tcp 5432 under mfa 1h", "tag:web -> tag:db tcp 5432"}},
		{Query{To: "db-1", Ports: ports}, []string{"alice@example.com -> db tcp 22 under mfa 1h"}},
		{Query{To: "10.20.3.4"}, []string{"* -> 10.20.3.4 any"}},
		{Query{From: "eve"}, []string{"eve@example.com -> office any"}},
		{Query{From: "tag:web", To: "tag:db"}, []string{"tag:web -> tag:db tcp 5432"}},
		{Query{From: "bob", Ports: ports}, []string{"bob@example.com -> tag:web tcp 22 under mfa 1h", "bob@example.com -> office tcp 22"}},
	} {
		t.Run(fmt.Sprint(test.q), func(t *testing.T) {
			m, err := Access(s, d, test.q, now)
			var got []string
			if err != nil {
				got = []string{err.Error()}
			} else {
				for _, l := range m.Lines {
					text, _, _ := strings.Cut(l.Text(), " (")
					got = append(got, text)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDot(t *testing.T) {
	m := &Matrix{Lines: []Line{{From: []Party{{Name: `a"b\N`}}, To: []Party{{Name: "c"}}, Ports: []acl.Ports{{Proto: acl.TCP, First: 1, Last: 1}}, Rule: acl.Ref{Section: "acls", Line: 3}}}}
	var b bytes.Buffer
	m.WriteDot(&b)
	want := "digraph access {\n  rankdir=LR;\n  node [shape=box];\n  n0 [label=\"a\\\"b\\\\N\"];\n  n1 [label=\"c\"];\n  n0 -> n1 [label=\"tcp 1\\nacls[0], line 3\"];\n}\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestJSONNeedsNoEscapes(t *testing.T) {
	c, err := Diff(Nothing(), mustRead(t, rules(`"grants": [{"src": ["group:eng"], "dst": ["db"], "ip": ["*"], "risk": "low"}]`)), nil, now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"widens":true`, `"change":"gained","from":[{"name":"group:eng"}],"to":[{"name":"db"}]`, `"under":["risk low"]`, `"section":"grants"`} {
		if !strings.Contains(string(b), part) {
			t.Errorf("no %s in %s", part, b)
		}
	}
}

// A large network, in which a change of one group touches hundreds of nodes, takes a few seconds at most.
func TestDiffOfALargeNetwork(t *testing.T) {
	d := &acl.Directory{}
	groups, tags := make([][]string, 50), map[string][]string{}
	for i := range 300 {
		login := fmt.Sprintf("u%d@example.com", i)
		d.Users = append(d.Users, acl.User{ID: acl.UserID(login), Login: login})
		groups[i%50] = append(groups[i%50], login)
	}
	for i := range 1000 {
		n := acl.Node{ID: acl.NodeID(fmt.Sprint("n", i)), Name: fmt.Sprint("n", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)})}}
		if i < 600 {
			n.Owner = d.Users[i%300].ID
		} else {
			n.Tags = []string{fmt.Sprint("tag:t", i%100)}
			tags[n.Tags[0]] = []string{}
		}
		d.Nodes = append(d.Nodes, n)
	}
	policy := func(extra string) *Source {
		names := map[string][]string{}
		for i, g := range groups {
			names[fmt.Sprint("group:g", i)] = g
		}
		var grants []map[string][]string
		for i := range 1000 {
			dst := fmt.Sprint("tag:t", i*7%100)
			if i%10 == 0 {
				dst = fmt.Sprintf("100.64.%d.%d", i>>8, i&255)
			}
			grants = append(grants, map[string][]string{"src": {fmt.Sprint("group:g", i%50)}, "dst": {dst}, "ip": {fmt.Sprint("tcp:", i+1)}})
		}
		grants = append(grants, map[string][]string{"src": {"group:g1"}, "dst": {"*"}, "ip": {extra}})
		b, err := json.Marshal(map[string]any{"groups": names, "tagOwners": tags, "grants": grants})
		if err != nil {
			t.Fatal(err)
		}
		return mustRead(t, string(b))
	}
	start := time.Now()
	c, err := Diff(policy("tcp:80"), policy("tcp:80-90"), d, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Lines) == 0 || len(c.Lines) > 30 || time.Since(start) > 20*time.Second { // it takes half a second where nothing else runs
		t.Errorf("%d lines in %s", len(c.Lines), time.Since(start))
	}
	start = time.Now()
	m, err := Access(policy("tcp:80"), d, Query{}, now)
	if err != nil || len(m.Lines) < 1000 || time.Since(start) > 40*time.Second {
		t.Errorf("%d lines in %s, %v", len(m.Lines), time.Since(start), err)
	}
	t.Log(len(c.Lines), len(m.Lines), time.Since(start))
}

func TestCut(t *testing.T) {
	d := mustDirectory(t, directory)
	compile := func(text string) *acl.Ruleset {
		c, err := acl.Compile(mustRead(t, rules(text)).Policy, d, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Ruleset()
	}
	flow := func(dst string, port uint16) acl.Flow {
		return acl.Flow{Src: netip.MustParseAddr("100.64.0.1"), Dst: netip.MustParseAddr(dst), Proto: acl.TCP, Port: port}
	}
	flows := []acl.Flow{flow("100.64.0.5", 22), flow("100.64.0.5", 443), flow("100.64.0.9", 1)}
	got := Cut(compile(`"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443", "tcp:22"]}]`),
		compile(`"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443"]}]`), flows, now)
	if len(got) != 1 || got[0] != flows[0] {
		t.Errorf("cut %v", got)
	}
}
