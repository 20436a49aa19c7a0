package acl

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const accountPolicy = `{
	"groups": {"group:eng": ["alice@example.com"], "group:dba": ["bob@example.com"], "group:ops": []},
	"tagOwners": {"tag:web": [], "tag:db": [], "tag:router": []},
	"postures": {
		"posture:mac": ["node:os == 'macos'", "node:osVersion >= '13.4'"],
		"posture:kept": ["custom:managed == true"],
	},
	"acls": [
		{"action": "accept", "src": ["group:dba"], "dst": ["tag:db:5432", "tag:web:443"], "proto": "tcp"},
	],
	"grants": [
		{"src": ["group:eng"], "dst": ["tag:db"], "ip": ["tcp:22"]},
		{"src": ["group:eng"], "dst": ["tag:db"], "ip": ["tcp:5432"], "srcPosture": ["posture:mac", "posture:kept"]},
		{"src": ["group:eng"], "dst": ["tag:db"], "ip": ["tcp:5432"], "until": "2026-01-01T00:00Z"},
		{"src": ["group:eng"], "dst": ["tag:db"], "ip": ["tcp:5432"], "mfa": "15m", "session": "12h"},
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
		{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["tcp:22"]},
		{"src": ["group:eng"], "dst": ["10.33.0.0/16"], "ip": ["tcp:22"], "via": ["tag:web"]},
		{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["udp:53"]},
		{"src": ["alice@example.com"], "dst": ["tag:web"], "ip": ["udp:53"]},
		{"src": ["group:ops", "autogroup:admin"], "dst": ["tag:router"], "ip": ["tcp:22"]},
		{"src": ["autogroup:member"], "dst": ["tag:router"], "ip": ["tcp:22"], "srcPosture": ["posture:kept"]},
	],
	"denies": [
		{"src": ["alice@example.com"], "dst": ["tag:web"], "ip": ["udp:53"], "reason": "incident 7", "until": "2027-01-01T00:00Z"},
		{"src": ["tag:web"], "dst": ["tag:router"], "ip": ["*"], "reason": "no way"},
	],
}`

const accountDirectory = `{
	"users": [{"name": "alice@example.com"}, {"name": "bob@example.com"}],
	"nodes": [
		{"name": "alice", "user": "alice@example.com", "addresses": ["100.64.0.1"], "attributes": {"node:os": "macos", "node:osVersion": "12.6"}},
		{"name": "bob", "user": "bob@example.com", "addresses": ["100.64.0.2"]},
		{"name": "web", "tags": ["tag:web"], "addresses": ["100.64.0.3"]},
		{"name": "db", "tags": ["tag:db"], "addresses": ["100.64.0.4"]},
		{"name": "router", "tags": ["tag:router"], "addresses": ["100.64.0.5"], "routes": ["10.33.0.0/16"]},
		{"name": "lost", "addresses": ["100.64.0.6"]}
	]
}`

func TestAccount(t *testing.T) {
	p, d := mustParse(t, accountPolicy), directory(t, accountDirectory)
	for _, c := range []struct {
		name     string
		src, dst string
		proto    Proto
		port     uint16
		want     string
	}{
		{"an unknown address", "100.64.0.1", "100.64.0.99", TCP, 22, "problem destination"},
		{"near misses", "100.64.0.1", "100.64.0.4", TCP, 5432, `
			grants[2] would, had it not ended at 2026-01-01T00:00:00Z
			grants[3] would, if what it demands were met, which a file cannot tell: mfa 15m0s; session 12h0m0s
			grants[1] would, if the device met posture:kept: custom:managed == true, but it is not set; or posture:mac: node:osVersion >= '13.4', but it is ~12.6~
			grants[0] would, if it also listed tcp 5432
			acls[0] would, if alice@example.com were in group:dba
			grants[4] would, if its ~src~ also named alice@example.com`},
		{"the other way round", "100.64.0.4", "100.64.0.1", TCP, 5432, ""},
		{"two changes are too many", "100.64.0.6", "100.64.0.4", UDP, 22, ""},
		{"a tag", "100.64.0.4", "100.64.0.4", TCP, 5432, `
			acls[0] would, if its ~src~ also named tag:db
			grants[4] would, if db had tag:web`},
		{"other ports of another target", "100.64.0.2", "100.64.0.3", TCP, 5432, `
			acls[0] would, if it also listed tcp 5432
			acls[0] would, if web had tag:db`},
		{"another user's node", "100.64.0.1", "100.64.0.2", TCP, 22, `
			grants[5] would, if both nodes were of one user
			grants[0] would, if its ~dst~ also named bob@example.com`},
		{"nobody's node", "100.64.0.6", "100.64.0.5", TCP, 22, `
			grants[9] would, if its ~src~ also named 100.64.0.6`},
		{"through another router", "100.64.0.1", "10.33.0.9", TCP, 22, `
			grants[6] would, if the way to 10.33.0.9 were through a router with tag:web
			grants[0] would, if its ~dst~ also named 10.33.0.9
			grants[5] would, if its ~dst~ also named 10.33.0.9`},
		{"from behind a route", "10.33.0.9", "100.64.0.5", TCP, 22, `
			grants[9] would, if its ~src~ also named 10.33.0.9`},
		{"allowed by several", "100.64.0.2", "100.64.0.4", TCP, 5432, `
			acls[0] allows`},
		{"refused by a deny", "100.64.0.1", "100.64.0.3", UDP, 53, `
			grants[7] allows
			grants[8] allows
			denies[0] refuses: incident 7`},
		{"a deny and no rule", "100.64.0.3", "100.64.0.5", TCP, 22, `
			denies[1] refuses: no way
			grants[9] would, if its ~src~ also named tag:web`},
		{"a group and a role", "100.64.0.2", "100.64.0.5", TCP, 22, `
			grants[10] would, if the device met posture:kept: custom:managed == true, but it is not set
			grants[9] would, if bob@example.com were in group:ops, or bob@example.com were in autogroup:admin
			grants[5] would, if its ~dst~ also named tag:router`},
	} {
		f := Flow{netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst), c.proto, c.port}
		a, err := p.Account(d, f, now)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.NewReplacer("\n\t\t\t", "\n", "~", "`").Replace(c.want)
		if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), accountText(a)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if a.Allow != (len(a.Allowing) > 0 && len(a.Denying) == 0) {
			t.Errorf("%s: Allow is %v", c.name, a.Allow)
		}
	}
}

func accountText(a Account) string {
	var lines []string
	add := func(r Ref, format string, args ...any) {
		lines = append(lines, fmt.Sprintf("%s[%d] ", r.Section, r.Index)+fmt.Sprintf(format, args...))
	}
	if a.Problem != ProblemNone {
		return "problem " + string(a.Problem)
	}
	for _, r := range a.Allowing {
		add(r.Ref, "allows")
	}
	for _, r := range a.Denying {
		add(r.Ref, "refuses: %s", r.Reason)
	}
	for _, c := range a.Changes {
		add(c.Ref, "would, %s", c.Text)
	}
	return strings.Join(lines, "\n")
}

// TestAccountOfEveryFlow holds accounts to the verdict of Allows, and is there for what panics.
func TestAccountOfEveryFlow(t *testing.T) {
	for _, texts := range [][2]string{{accountPolicy, accountDirectory}, {judgedPolicy, judgedDirectory}} {
		p, d := mustParse(t, texts[0]), directory(t, texts[1])
		rs := mustCompile(t, p, d).Ruleset()
		addrs := []netip.Addr{netip.MustParseAddr("10.33.1.1"), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("::ffff:1.2.3.4")}
		for _, n := range d.Nodes {
			addrs = append(addrs, n.Addresses...)
		}
		for _, src := range addrs {
			for _, dst := range addrs {
				for _, f := range []Flow{{src, dst, TCP, 22}, {src, dst, TCP, 443}, {src, dst, TCP, 5432}, {src, dst, UDP, 53}, {src, dst, ICMP, 0}} {
					a, err := p.Account(d, f, now)
					if err != nil || a.Allow != rs.Allows(f, now).Allow || a.Allow != (len(a.Allowing) > 0 && len(a.Denying) == 0) {
						t.Errorf("%v: Account allows %v by %v against %v (%v)", f, a.Allow, a.Allowing, a.Denying, err)
					}
				}
			}
		}
	}
}

func TestExpectations(t *testing.T) {
	p := mustParse(t, `{
		"tagOwners": {"tag:db": []},
		"sshTests": [{"src": "alice@example.com", "dst": ["tag:db"], "deny": ["root"], "accept": ["ubuntu"]}],
		"tests": [{"src": "alice@example.com", "deny": ["tag:db:22"], "accept": ["tag:db:80"]}],
	}`)
	got := ""
	for _, e := range p.Expectations() {
		got += fmt.Sprintf("%d:%d %s\n", e.Line, e.Column, e.Text)
	}
	want := `3:73 sshTests[0] alice@example.com deny root
3:93 sshTests[0] alice@example.com accept ubuntu
4:51 tests[0] alice@example.com deny tag:db:22
4:76 tests[0] alice@example.com accept tag:db:80
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
