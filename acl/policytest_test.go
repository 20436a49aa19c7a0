package acl

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testedPolicy = `{
	"groups": {
		"group:eng": ["alice@example.com", "bob@example.com"], "group:all": ["alice@example.com", "bob@example.com"], "group:empty": [],
	},
	"tagOwners": {"tag:web": [], "tag:db": []},
	"hosts": {"vault": "100.64.0.9", "printer": "10.1.2.3"},
	"grants": [
		{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443"]},
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["udp:53", "icmp:*"]},
		{"src": ["alice@example.com"], "dst": ["vault", "printer"], "ip": ["22"]},
		{"src": ["group:all"], "dst": ["autogroup:self"], "ip": ["tcp:22"]},
		{"src": ["100.64.0.1"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
		{"src": ["*"], "dst": ["10.7.0.0/16"], "ip": ["tcp:80"]},
		{"src": ["group:all", "group:empty"], "dst": ["tag:db"], "ip": ["tcp:1"]},
	],
	"tests": [%s],
}`

// testsOf runs one test of testedPolicy, in a directory, and returns the messages of its failures.
func testsOf(t *testing.T, test string, d *Directory) (out []string) {
	t.Helper()
	for _, f := range mustParse(t, fmt.Sprintf(testedPolicy, test)).Test(d, now) {
		if f.Line != 16 || f.Column < 12 || !strings.HasPrefix(f.Message, "tests[0]: ") {
			t.Errorf("a failure out of place: %s", f)
		}
		out = append(out, strings.TrimPrefix(f.Message, "tests[0]: "))
	}
	return out
}

func TestPolicysOwnTestsFailWithoutAnyNode(t *testing.T) {
	for test, want := range map[string][]string{
		`{"src": "alice@example.com", "accept": ["tag:db:22"]}`: {
			"alice@example.com -> tag:db:22 is refused, but the test accepts it: no rule allows it; grants[6], line 14 allows only tcp 1",
		},
		`{"src": "alice@example.com", "accept": ["tag:web:80", "tag:web:443", "vault:80"]}`: {
			"alice@example.com -> tag:web:80 is refused, but the test accepts it: no rule allows it; grants[0], line 8 allows only tcp 443",
			"alice@example.com -> vault:80 is refused, but the test accepts it: no rule allows it; grants[2], line 10 allows only icmp, tcp 22, udp 22",
		},
		`{"src": "alice@example.com", "deny": ["tag:web:443"]}`: {
			"alice@example.com -> tag:web:443 is allowed by grants[0], line 8, but the test denies it",
		},
		`{"src": "group:eng", "deny": ["vault:22"]}`: {
			"group:eng -> vault:22 is allowed by grants[2], line 10, but the test denies it",
		},
		`{"src": "group:eng", "accept": ["vault:22"]}`: {
			"group:eng -> vault:22 is refused, but the test accepts it: no rule allows it; grants[2], line 10 allows it from others than group:eng",
		},
		`{"src": "tag:web", "accept": ["tag:db:53"], "proto": "tcp"}`: {
			"tag:web -> tag:db:53 is refused, but the test accepts it: no rule allows it; grants[1], line 9 allows only icmp, udp 53",
		},
		`{"src": "tag:web", "deny": ["tag:db:0"], "proto": "icmp"}`: {
			"tag:web -> tag:db:0 is allowed by grants[1], line 9, but the test denies it",
		},
		`{"src": "group:empty", "deny": ["tag:db:1"]}`: {
			"group:empty -> tag:db:1 is allowed by grants[6], line 14, but the test denies it",
		},
		`{"src": "bob@example.com", "accept": ["alice@example.com:22"]}`: {
			"bob@example.com -> alice@example.com:22 is refused, but the test accepts it: no rule allows it; grants[3], line 11 allows it between nodes of one owner only",
		},
		`{"src": "bob@example.com", "deny": ["bob@example.com:22"]}`: {
			"bob@example.com -> bob@example.com:22 is allowed by grants[3], line 11, but the test denies it",
		},
		`{"src": "100.64.0.1", "deny": ["tag:db:5432"]}`: {
			"100.64.0.1 -> tag:db:5432 is allowed by grants[4], line 12, but the test denies it",
		},
		`{"src": "tag:db", "deny": ["10.7.7.7:80"]}`: {
			"tag:db -> 10.7.7.7:80 is allowed by grants[5], line 13, but the test denies it",
		},
		`{"src": "fd00::1", "accept": ["10.7.7.7:80"]}`: {
			"fd00::1 -> 10.7.7.7:80 is refused, but the test accepts it: the two have no address family in common",
		},
	} {
		if diff := cmp.Diff(want, testsOf(t, test, &Directory{})); diff != "" {
			t.Errorf("%s:\n%s", test, diff)
		}
	}
}

func TestPolicysOwnTestsPassWithoutAnyNode(t *testing.T) {
	for _, test := range []string{
		`{"src": "Alice@example.com", "accept": ["tag:web:443", "vault:22", "printer:22"], "deny": ["tag:web:80", "tag:db:5432"]}`,
		`{"src": "group:eng", "accept": ["tag:web:443"], "deny": ["tag:db:22"]}`,
		`{"src": "group:all", "accept": ["tag:db:1"]}`,
		`{"src": "tag:web", "accept": ["tag:db:53"]}`,
		`{"src": "tag:web", "accept": ["tag:db:53"], "proto": "udp"}`,
		`{"src": "tag:web", "accept": ["tag:db:0"], "proto": "icmp"}`,
		`{"src": "tag:web", "deny": ["tag:db:0"], "proto": "gre"}`,
		`{"src": "zoe@example.com", "deny": ["tag:web:443", "zoe@example.com:22"]}`,
		`{"src": "bob@example.com", "accept": ["bob@example.com:22"], "deny": ["alice@example.com:22"]}`,
		`{"src": "tag:web", "deny": ["tag:web:443"]}`,
		`{"src": "vault", "accept": ["10.7.0.1:80"], "deny": ["10.8.0.1:80", "vault:22"]}`,
	} {
		if got := testsOf(t, test, &Directory{}); got != nil {
			t.Errorf("%s:\n%s", test, strings.Join(got, "\n"))
		}
	}
}

const testedDirectory = `{
	"users": [{"name": "alice@example.com"}, {"name": "bob@example.com"}],
	"nodes": [
		{"name": "laptop", "user": "alice@example.com", "addresses": ["100.64.0.1", "fd7a::1"]},
		{"name": "phone", "user": "alice@example.com", "addresses": ["100.64.0.2", "fd7a::2"]},
		{"name": "web-1", "tags": ["tag:web"], "addresses": ["100.64.0.3", "fd7a::3"]},
		{"name": "web-2", "tags": ["tag:web", "tag:db"], "addresses": ["100.64.0.4", "fd7a::4"]},
		{"name": "old", "tags": ["tag:db"], "addresses": ["100.64.0.5"]},
	],
}`

func TestPolicysOwnTestsLookAtEveryNodeThatIsThere(t *testing.T) {
	for test, want := range map[string][]string{
		// Her laptop's IPv4 address alone may, so an acceptance for alice fails, and so does a denial.
		`{"src": "alice@example.com", "accept": ["tag:db:5432"]}`: {
			"alice@example.com -> tag:db:5432 (from laptop to web-2) is refused, but the test accepts it: no rule allows it; grants[0], line 8 allows only tcp 443; grants[6], line 14 allows only tcp 1",
		},
		`{"src": "alice@example.com", "deny": ["tag:db:5432"]}`: {
			"alice@example.com -> tag:db:5432 (from laptop to web-2) is allowed by grants[4], line 12, but the test denies it",
		},
		// web-2 is tagged for both.
		`{"src": "alice@example.com", "deny": ["tag:db:443"]}`: {
			"alice@example.com -> tag:db:443 (from laptop to web-2) is allowed by grants[0], line 8, but the test denies it",
		},
		// bob has no node yet: a stand-in asks for him.
		`{"src": "bob@example.com", "accept": ["vault:22"]}`: {
			"bob@example.com -> vault:22 is refused, but the test accepts it: no rule allows it; grants[2], line 10 allows it from others than bob@example.com",
		},
		// An address is no other of its node's: nothing of IPv6 reaches what is of IPv4.
		`{"src": "fd7a::3", "accept": ["100.64.0.5:53"]}`: {
			"fd7a::3 -> 100.64.0.5:53 is refused, but the test accepts it: the two have no address family in common",
		},
		`{"src": "fd7a::1", "accept": ["fd7a::4:5432"]}`: {
			"fd7a::1 -> fd7a::4:5432 (from laptop to web-2) is refused, but the test accepts it: no rule allows it; grants[0], line 8 allows only tcp 443; grants[6], line 14 allows only tcp 1",
		},
		`{"src": "fd7a::3", "accept": ["fd7a::4:53"]}`:     nil,
		`{"src": "fd7a::9999", "deny": ["100.64.0.5:53"]}`: nil,
		`{"src": "group:eng", "accept": ["tag:web:443"]}`:  nil,
		`{"src": "100.64.0.1", "accept": ["tag:db:5432"]}`: nil,
	} {
		if diff := cmp.Diff(want, testsOf(t, test, mustDirectory(t, testedDirectory))); diff != "" {
			t.Errorf("%s:\n%s", test, diff)
		}
	}
}

// bob and carol have the same roles, and yet autogroup:self tells them apart.
func TestPolicysOwnTestsTellOwnersApart(t *testing.T) {
	p := mustParse(t, `{
	"groups": {"group:g": ["bob@example.com", "carol@example.com"]},
	"grants": [{"src": ["group:g"], "dst": ["autogroup:self"], "ip": ["tcp:22"]}],
	"tests": [{"src": "group:g", "deny": ["carol@example.com:22"]}],
}`)
	want := []TestFailure{{4, 40, "tests[0]: group:g -> carol@example.com:22 is allowed by grants[0], line 3, but the test denies it"}}
	if diff := cmp.Diff(want, p.Test(&Directory{}, now)); diff != "" {
		t.Error(diff)
	}
}

func TestPolicysOwnTestsLeaveDirectoryAndPolicyAsTheyWere(t *testing.T) {
	d := mustDirectory(t, testedDirectory)
	p := mustParse(t, fmt.Sprintf(testedPolicy, `{"src": "zoe@example.com", "deny": ["tag:db:1"]}, {"src": "group:empty", "accept": ["vault:1"]}`))
	before, _ := json.Marshal(d)
	first, second := p.Test(d, now), p.Test(d, now)
	after, _ := json.Marshal(d)
	if diff := cmp.Diff(string(before), string(after)) + cmp.Diff(first, second); diff != "" {
		t.Error(diff)
	}
	if got := p.Groups("?group:empty"); got != nil {
		t.Errorf("the stand-in stayed in %v", got)
	}
}

// Whole teams against each other must not multiply: nodes that no rule tells apart are asked about once.
func TestPolicysOwnTestsOfManyNodesCostLittle(t *testing.T) {
	text, d := network(5000)
	text = strings.TrimSuffix(text, "}") + `, "tests": [` + strings.Repeat(`{"src": "group:g1", "accept": ["tag:t1:443"], "deny": ["tag:t2:443", "u2@example.com:22"]},`, 200) + `]}`
	start := cpuTime()
	if got := mustParse(t, text).Test(d, now); got != nil {
		t.Error(got)
	}
	if took := cpuTime() - start; took > 3*time.Second*slowness {
		t.Errorf("took %s", took)
	}
}

// An address that no node has is one behind a router, or beyond an exit node: by the directory's routes, else either way.
func TestTestsOfAddressesThatNoNodeHas(t *testing.T) {
	const policy = `{
		"tagOwners": {"tag:r": [], "tag:exit": []},
		"grants": [
			{"src": ["alice@x.org"], "dst": ["autogroup:internet"], "ip": ["tcp:443"]},
			{"src": ["alice@x.org"], "dst": ["10.0.0.0/8"], "via": ["tag:r"], "ip": ["tcp:22"]},
			{"src": ["10.0.0.0/8"], "dst": ["alice@x.org"], "ip": ["tcp:80"], "srcPosture": ["posture:ok"]},
		],
		"postures": {"posture:ok": ["custom:ok == true"]},
		"tests": [%s],
	}`
	routed := `{"users": [{"name": "alice@x.org"}], "nodes": [{"name": "exit", "tags": ["tag:exit"], "addresses": ["100.64.0.2"], "routes": ["0.0.0.0/0"]},
		{"name": "r", "tags": ["tag:exit"], "addresses": ["100.64.0.3"], "routes": ["10.1.0.0/16"]}]}`
	for name, c := range map[string]struct {
		directory, test string
		holds           bool
	}{
		"the internet is reached":                {`{}`, `{"src": "alice@x.org", "accept": ["198.51.100.7:443"]}`, true},
		"the internet is not denied":             {`{}`, `{"src": "alice@x.org", "deny": ["198.51.100.7:443"]}`, false},
		"a private address is not the internet":  {`{}`, `{"src": "alice@x.org", "deny": ["192.168.0.7:443"]}`, true},
		"via a router that there may be":         {`{}`, `{"src": "alice@x.org", "accept": ["10.1.0.7:22"]}`, true},
		"via a router that there is not":         {routed, `{"src": "alice@x.org", "deny": ["10.1.0.7:22"]}`, true},
		"beyond the exit that there is":          {routed, `{"src": "alice@x.org", "accept": ["198.51.100.7:443"]}`, true},
		"what is behind a router has no posture": {`{}`, `{"src": "10.1.0.7", "deny": ["alice@x.org:80"]}`, true},
		"nor is it given one":                    {routed, `{"src": "10.1.0.7", "deny": ["alice@x.org:80"], "srcPostureAttrs": {"custom:ok": true}}`, true},
		"an overlay address lies beyond no exit": {`{}`, `{"src": "alice@x.org", "deny": ["100.64.9.9:443"]}`, true},
		"an overlay address is behind no router": {`{}`, `{"src": "alice@x.org", "deny": ["100.64.9.9:22"]}`, true},
	} {
		p := mustParse(t, fmt.Sprintf(policy, c.test))
		if failures := p.Test(mustDirectory(t, c.directory), now); (len(failures) == 0) != c.holds {
			t.Errorf("%s: %v", name, failures)
		}
	}
}

// In a grant "*" is TCP, UDP and ICMP; who denies everything means every protocol.
func TestDenyOfEverythingIsOfEveryProtocol(t *testing.T) {
	d := mustDirectory(t, denyWorld)
	c := mustCompile(t, mustParse(t, `{"tagOwners": {"tag:web": []}, "grants": [{"src": ["*"], "dst": ["*"], "ip": ["47:*", "sctp:9"]}],
		"denies": [{"src": ["alice@example.com"], "dst": ["tag:web"], "ip": ["*"], "reason": "left"}]}`), d)
	for _, f := range []Flow{{Proto: 47}, {Proto: SCTP, Port: 9}} {
		f.Src, f.Dst = d.Nodes[0].Addresses[0], d.Nodes[3].Addresses[0]
		if c.Ruleset().Allows(f, now).Allow {
			t.Errorf("%v passes", f)
		}
	}
}
