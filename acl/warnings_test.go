package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// warned are the texts of diagnostics.
func warned(list []Diagnostic) (out []string) {
	for _, d := range list {
		out = append(out, d.String())
	}
	return out
}

const mayShadow = `"groups": {"group:eng": ["alice@example.com"]}, "tagOwners": {"tag:db": [], "tag:web": []}, "ipsets": {"ipset:a": ["10.1.0.0/16", "10.2.0.0/16"]},
	"postures": {"posture:a": ["custom:a"], "posture:b": ["custom:b"]},`

// shadowed lists the rules that are warned of as shadowed, "grants[1] by grants[0]".
func shadowed(t *testing.T, rules string) (out []string) {
	for _, w := range mustParse(t, "{"+mayShadow+rules+"}").Warnings() {
		if at, by, ok := strings.Cut(w.Message, " allows nothing that "); ok {
			by, _, _ = strings.Cut(by, ",")
			out = append(out, at+" by "+by)
		}
	}
	return out
}

func TestShadowedRulesAreWarnedOf(t *testing.T) {
	grant := func(src, dst, rest string) string {
		return fmt.Sprintf(`{"src": [%s], "dst": [%s], %s},`, src, dst, rest)
	}
	for name, c := range map[string]struct {
		rules string
		want  string
	}{
		"the same twice names the later":   {grant(`"group:eng"`, `"tag:db"`, `"ip": ["22"]`) + grant(`"group:eng"`, `"tag:db"`, `"ip": ["22"]`), "grants[1] by grants[0]"},
		"the narrower first":               {grant(`"group:eng"`, `"tag:db"`, `"ip": ["tcp:22"]`) + grant(`"autogroup:member"`, `"autogroup:tagged"`, `"ip": ["*"]`), "grants[0] by grants[1]"},
		"ports of a range":                 {grant(`"*"`, `"tag:db"`, `"ip": ["tcp:20-30"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["tcp:22"]`), "grants[1] by grants[0]"},
		"a network within a network":       {grant(`"*"`, `"10.0.0.0/8"`, `"ip": ["22"]`) + grant(`"*"`, `"ipset:a"`, `"ip": ["22"]`), "grants[1] by grants[0]"},
		"everybody and a domain":           {grant(`"*"`, `"tag:db"`, `"ip": ["22"]`) + grant(`"user:*@x.org", "tag:web", "autogroup:admin"`, `"tag:db"`, `"ip": ["22"]`), "grants[1] by grants[0]"},
		"a posture more":                   {grant(`"*"`, `"tag:db"`, `"ip": ["22"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"], "srcPosture": ["posture:a"]`), "grants[1] by grants[0]"},
		"one posture of two":               {grant(`"*"`, `"tag:db"`, `"ip": ["22"], "srcPosture": ["posture:a", "posture:b"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"], "srcPosture": ["posture:b"]`), "grants[1] by grants[0]"},
		"a condition more":                 {grant(`"*"`, `"tag:db"`, `"ip": ["22"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"], "mfa": "15m"`), "grants[1] by grants[0]"},
		"an end that comes before":         {grant(`"*"`, `"tag:db"`, `"ip": ["22"], "until": "2027-01-02T00:00Z"`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"], "until": "2027-01-01T00:00Z"`), "grants[1] by grants[0]"},
		"another port":                     {grant(`"*"`, `"tag:db"`, `"ip": ["22"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["22", "23"]`), "grants[0] by grants[1]"},
		"another protocol":                 {grant(`"*"`, `"tag:db"`, `"ip": ["*"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["gre:*"]`), ""},
		"other destinations":               {grant(`"*"`, `"tag:db"`, `"ip": ["22"]`) + grant(`"*"`, `"tag:db", "tag:web"`, `"ip": ["tcp:22"]`), ""},
		"other sources":                    {grant(`"group:eng"`, `"tag:db"`, `"ip": ["22"]`) + grant(`"alice@example.com"`, `"tag:db"`, `"ip": ["22"]`), ""},
		"the wider under a condition":      {grant(`"*"`, `"tag:db"`, `"ip": ["*"], "mfa": "15m"`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"]`), ""},
		"the wider under a posture":        {grant(`"*"`, `"tag:db"`, `"ip": ["*"], "srcPosture": ["posture:a"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"]`), ""},
		"the wider through some routers":   {grant(`"*"`, `"10.0.0.0/8"`, `"ip": ["*"], "via": ["tag:db"]`) + grant(`"*"`, `"10.1.0.0/16"`, `"ip": ["22"]`), ""},
		"the wider ends before":            {grant(`"*"`, `"tag:db"`, `"ip": ["*"], "until": "2027-01-01T00:00Z"`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"]`), ""},
		"another way of logging":           {grant(`"*"`, `"tag:db"`, `"ip": ["*"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"], "log": "all"`), ""},
		"something for the application":    {grant(`"*"`, `"tag:db"`, `"ip": ["*"]`) + grant(`"*"`, `"tag:db"`, `"ip": ["22"], "app": {"x.org/cap": []}`), ""},
		"everybody holds no address":       {grant(`"*"`, `"tag:db"`, `"ip": ["*"]`) + grant(`"10.0.0.1"`, `"tag:db"`, `"ip": ["22"]`), ""},
		"an address holds nobody":          {grant(`"10.0.0.0/8"`, `"tag:db"`, `"ip": ["*"]`) + grant(`"10.0.0.0/7"`, `"tag:db"`, `"ip": ["22"]`), ""},
		"a member's own machines":          {grant(`"autogroup:member"`, `"autogroup:self"`, `"ip": ["*"]`) + grant(`"group:eng"`, `"autogroup:self"`, `"ip": ["22"]`), "grants[1] by grants[0]"},
		"own machines are not all of them": {grant(`"autogroup:member"`, `"autogroup:self"`, `"ip": ["*"]`) + grant(`"group:eng"`, `"group:eng"`, `"ip": ["22"]`), ""},
	} {
		if got := strings.Join(shadowed(t, `"grants": [`+c.rules+`]`), "; "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	got := shadowed(t, `"grants": [{"src": ["*"], "dst": ["tag:db"], "ip": ["*"]}],
		"acls": [{"action": "accept", "src": ["group:eng"], "dst": ["tag:db:22", "tag:db:23"]}, {"action": "accept", "src": ["group:eng"], "dst": ["tag:db:22", "tag:web:23"]}]`)
	if diff := cmp.Diff([]string{"acls[0] by grants[0]"}, got); diff != "" {
		t.Error(diff)
	}
}

// What is not compared is not warned of, and takes no time.
func TestLongListsOfRulesAreComparedInPart(t *testing.T) {
	rule := `{"src": ["*"], "dst": ["*"], "ip": ["tcp:22"]},`
	start := cpuTime()
	got := shadowed(t, `"grants": [`+strings.Repeat(rule, 20000)+`]`)
	if took := cpuTime() - start; len(got) != maxReported || took > 3*time.Second*slowness {
		t.Errorf("%d warnings in %s", len(got), took)
	}
}

func TestEachWarning(t *testing.T) {
	for name, c := range map[string]struct{ policy, want string }{
		"nobody in a group": {
			`{"groups": {"group:none": []}, "grants": [{"src": ["group:none"], "dst": ["10.0.0.1"], "ip": ["22"]}]}`,
			"line 1, column 52: warning: nobody is in `group:none`",
		},
		"nobody in an approver": {
			`{"groups": {"group:none": []}, "grants": [{"src": ["a@x.org"], "dst": ["10.0.0.1"], "ip": ["22"], "approval": {"by": ["group:none"], "for": "1h"}}]}`,
			"line 1, column 43: warning: grants[0] allows nothing yet: Picket does not supply what `approval` asks about\n" +
				"line 1, column 119: warning: nobody is in `group:none`",
		},
		"nothing in an ipset": {
			`{"ipsets": {"ipset:a": ["add 10.0.0.1", "remove 10.0.0.0/8"]}, "grants": [{"src": ["a@x.org"], "dst": ["ipset:a"], "ip": ["22"]}]}`,
			"line 1, column 104: warning: nothing is in `ipset:a`",
		},
		"a grant open to everyone": {
			`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`,
			"line 1, column 13: warning: grants[0] is open to everyone: it lets every node reach every other on every port: name who needs it",
		},
		"an acl open to everyone and more": {
			`{"acls": [{"action": "accept", "src": ["autogroup:danger-all"], "dst": ["*:*"]}]}`,
			"line 1, column 11: warning: acls[0] is open to everyone: it lets every node reach every other on every port: name who needs it",
		},
		"open but for a port": {`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp:*", "udp:*"]}]}`, ""},
		"open under a condition": {`{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "mfa": "15m"}]}`,
			"line 1, column 13: warning: grants[0] allows nothing yet: Picket does not supply what `mfa` asks about"},
		"open to good devices":     {`{"postures": {"posture:a": ["custom:a"]}, "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "srcPosture": ["posture:a"]}]}`, ""},
		"a deny of everything":     {`{"denies": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "reason": "x"}]}`, ""},
		"a host among the overlay": {`{"hosts": {"a": "100.64.0.7"}}`, "line 1, column 12: warning: host `a` overlaps the range that node addresses are given out from: name nodes by tag, group or user instead"},
		"a host around it":         {`{"hosts": {"a": "100.0.0.0/8"}}`, "line 1, column 12: warning: host `a` overlaps the range that node addresses are given out from: name nodes by tag, group or user instead"},
		"a host of IPv6 in it":     {`{"hosts": {"a": "fd70:696b:6574::1"}}`, "line 1, column 12: warning: host `a` overlaps the range that node addresses are given out from: name nodes by tag, group or user instead"},
		"a host elsewhere":         {`{"hosts": {"a": "10.0.0.1", "b": "100.128.0.0/10", "c": "fd00::/16"}}`, ""},
		"via to a node": {
			`{"tagOwners": {"tag:a": []}, "grants": [{"src": ["a@x.org"], "dst": ["tag:a", "10.0.0.1"], "ip": ["22"], "via": ["tag:a"]}]}`,
			"line 1, column 41: warning: grants[0] has `via`, but no router is a way to `tag:a`: a router is a way to networks and to `autogroup:internet`",
		},
		"via to everything": {
			`{"tagOwners": {"tag:a": []}, "grants": [{"src": ["a@x.org"], "dst": ["*"], "ip": ["22"], "via": ["tag:a"]}]}`,
			"line 1, column 41: warning: grants[0] has `via`, but no router is a way to `*`: a router is a way to networks and to `autogroup:internet`",
		},
		"via to the internet": {`{"tagOwners": {"tag:a": []}, "grants": [{"src": ["a@x.org"], "dst": ["autogroup:internet"], "ip": ["22"], "via": ["tag:a"]}]}`, ""},
		"empty lists": {
			`{"acls": [{"action": "accept", "src": [], "dst": []}], "grants": [{"src": [], "dst": ["10.0.0.1"], "ip": [], "app": {"x.org/cap": []}}]}`,
			"line 1, column 39: warning: acls[0].src is empty: an empty list matches nothing; name something or remove the rule\n" +
				"line 1, column 50: warning: acls[0].dst is empty: an empty list matches nothing; name something or remove the rule\n" +
				"line 1, column 75: warning: grants[0].src is empty: an empty list matches nothing; name something or remove the rule\n" +
				"line 1, column 106: warning: grants[0].ip is empty: an empty list matches nothing; name something or remove the rule",
		},
		"former names": {
			`{"acls": [{"action": "accept", "users": ["autogroup:members"], "ports": ["10.0.0.1:22"]}], "tests": [{"src": "a@x.org", "allow": ["10.0.0.1:22"]}]}`,
			"line 1, column 41: warning: `users` is the former name of `src`: write `src`\n" +
				"line 1, column 42: warning: `autogroup:members` is the former name of `autogroup:member`: write `autogroup:member`\n" +
				"line 1, column 73: warning: `ports` is the former name of `dst`: write `dst`\n" +
				"line 1, column 130: warning: `allow` is the former name of `accept`: write `accept`",
		},
		"an IPv6 address without brackets": {
			`{"acls": [{"action": "accept", "src": ["a@x.org"], "dst": ["fd00::1:22", "[fd00::1]:23", "fd00:0:0:0:0:0:0:1:24"]}]}`,
			"line 1, column 60: warning: `fd00::1:22` is read as `fd00::1`, port 22: write `[fd00::1]:22`",
		},
		"services": {
			`{"grants": [{"src": ["a@x.org"], "dst": ["svc:web"], "ip": ["22"]}]}`,
			"line 1, column 42: warning: `svc:web` names nobody: Picket has no services",
		},
	} {
		if diff := cmp.Diff(c.want, strings.Join(warned(mustParse(t, c.policy).Warnings()), "\n")); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// The former names mean what the present ones do.
func TestFormerNamesMeanWhatThePresentOnesDo(t *testing.T) {
	former := mustParse(t, `{"acls": [{"action": "accept", "users": ["autogroup:members"], "ports": ["autogroup:self:22"]}], "tests": [{"src": "a@x.org", "allow": ["a@x.org:22"]}]}`)
	present := mustParse(t, `{"acls": [{"action": "accept", "src":   ["autogroup:member"],  "dst":   ["autogroup:self:22"]}], "tests": [{"src": "a@x.org", "deny": ["a@x.org:22"]}]}`)
	d := &Directory{}
	if diff := cmp.Diff(mustCompile(t, former, d).Ruleset(), mustCompile(t, present, d).Ruleset(), comparable...); diff != "" {
		t.Error(diff)
	}
	if former.Test(d, now) != nil || present.Test(d, now) == nil {
		t.Error("allow is not accept")
	}
}

func TestAtMost100Warnings(t *testing.T) {
	p := mustParse(t, `{"tagOwners": {"tag:a": []}, "grants": [`+strings.Repeat(`{"src": ["10.0.0.1"], "dst": ["10.0.0.2"], "ip": ["22"], "app": {"x.org/cap": []}}, {"src": [], "dst": ["*"], "ip": ["*"]},`, 200)+`]}`)
	if n := len(p.Warnings()); n != maxReported {
		t.Errorf("%d warnings", n)
	}
	if n := len(p.WarningsFor(&Directory{})); n != maxReported {
		t.Errorf("%d warnings for nobody", n)
	}
}

const desertedPolicy = `{
	"groups": {"group:eng": ["alice@example.com"], "group:gone": ["gone@example.com"], "group:none": []},
	"tagOwners": {"tag:db": [], "tag:new": [], "tag:router": [], "tag:exit": []},
	"hosts": {"db": "100.64.0.2", "nobody": "100.64.0.99", "site": "10.20.0.0/16", "far": "10.99.0.0/16"},
	"ipsets": {"ipset:some": ["10.99.0.0/16", "10.20.3.4"], "ipset:far": ["10.99.0.0/16", "10.98.0.1"]},
	"grants": [
		%s
	],
}`

func TestRulesThatMatchNobodyTodayAreWarnedOf(t *testing.T) {
	d := mustDirectory(t, `{
		"users": [{"name": "alice@example.com", "role": "admin"}, {"name": "bob@other.example"}],
		"nodes": [
			{"name": "alice", "user": "alice@example.com", "addresses": ["100.64.0.1", "fd7a::1"]},
			{"name": "db", "tags": ["tag:db"], "addresses": ["100.64.0.2", "fd7a::2"]},
			{"name": "router", "tags": ["tag:router"], "addresses": ["100.64.0.3"], "routes": ["10.20.0.0/16", "192.0.2.1/32"]},
			{"name": "exit", "tags": ["tag:exit"], "addresses": ["100.64.0.4"], "routes": ["0.0.0.0/0"]},
		],
	}`)
	for ends, want := range map[string]string{
		`"src": ["group:eng"], "dst": ["tag:db"]`:                                 "",
		`"src": ["group:gone"], "dst": ["tag:db"]`:                                "src",
		`"src": ["group:none"], "dst": ["tag:new"]`:                               "src dst",
		`"src": ["group:gone", "alice@example.com"], "dst": ["tag:new"]`:          "dst",
		`"src": ["bob@other.example"], "dst": ["*"]`:                              "src",
		`"src": ["user:*@other.example"], "dst": ["user:*@example.com"]`:          "src",
		`"src": ["autogroup:admin"], "dst": ["autogroup:owner"]`:                  "dst",
		`"src": ["autogroup:member"], "dst": ["autogroup:self"]`:                  "",
		`"src": ["autogroup:shared"], "dst": ["svc:web"]`:                         "src dst",
		`"src": ["*"], "dst": ["autogroup:internet"]`:                             "",
		`"src": ["autogroup:danger-all"], "dst": ["autogroup:tagged"]`:            "",
		`"src": ["db"], "dst": ["nobody"]`:                                        "dst",
		`"src": ["nobody"], "dst": ["site"]`:                                      "src",
		`"src": ["site"], "dst": ["far"]`:                                         "dst",
		`"src": ["10.20.3.4"], "dst": ["10.0.0.0/8"]`:                             "",
		`"src": ["10.21.0.0/24"], "dst": ["192.0.2.0/24"]`:                        "src",
		`"src": ["192.0.2.2"], "dst": ["192.0.2.1"]`:                              "src",
		`"src": ["8.8.8.8"], "dst": ["fd7a::/64"]`:                                "src",
		`"src": ["fd7a::3"], "dst": ["fd7a::1"]`:                                  "src",
		`"src": ["ipset:some"], "dst": ["ipset:far"]`:                             "dst",
		`"src": ["*"], "dst": ["site"], "via": ["tag:router"]`:                    "",
		`"src": ["*"], "dst": ["site"], "via": ["tag:exit"]`:                      "dst",
		`"src": ["*"], "dst": ["site"], "via": ["tag:exit", "tag:router"]`:        "",
		`"src": ["*"], "dst": ["db"], "via": ["tag:router"]`:                      "dst",
		`"src": ["*"], "dst": ["tag:db", "*"], "via": ["tag:router"]`:             "dst",
		`"src": ["*"], "dst": ["autogroup:internet"], "via": ["tag:exit"]`:        "",
		`"src": ["*"], "dst": ["autogroup:internet"], "via": ["tag:router"]`:      "dst",
		`"src": [], "dst": ["tag:db"]`:                                            "",
		`"src": ["group:gone"], "dst": ["tag:new"], "until": "2000-01-01T00:00Z"`: "src dst",
	} {
		p := mustParse(t, fmt.Sprintf(desertedPolicy, "{"+ends+`, "ip": ["*"]},`))
		var list []string
		for end := range strings.FieldsSeq(want) {
			list = append(list, "line 7, column 3: warning: grants[0]."+end+" names no node, and nothing behind a route, today: it changes nothing until that is there")
		}
		if diff := cmp.Diff(list, warned(p.WarningsFor(d))); diff != "" {
			t.Errorf("%s:\n%s", ends, diff)
		}
	}
}

func TestWarningsForADirectoryStandInTheFilesOrder(t *testing.T) {
	p := mustParse(t, `{
	"tagOwners": {"tag:a": [], "tag:b": []},
	"denies": [{"src": ["tag:a"], "dst": ["*"], "ip": ["*"], "reason": "x"}],
	"grants": [{"src": ["tag:a"], "dst": ["tag:b"], "ip": ["*"]}],
	"acls": [
		{"action": "accept", "src": ["*"], "dst": ["tag:a:22", "tag:b:23"]},
		{"action": "accept", "src": ["*"], "dst": ["tag:a:22", "*:24"]},
	],
}`)
	d := &Directory{Nodes: []Node{{ID: "n", Addresses: []netip.Addr{addrA}}}}
	var got []string
	for _, w := range p.WarningsFor(d) {
		message, _, _ := strings.Cut(w.Message, " names")
		got = append(got, fmt.Sprintf("%d:%d %s", w.Line, w.Column, message))
	}
	want := []string{"3:13 denies[0].src", "4:13 grants[0].src", "4:13 grants[0].dst", "6:3 acls[0].dst"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if again := p.WarningsFor(d); len(again) != len(want) || len(p.Warnings()) != 0 {
		t.Errorf("asked again %d, without a directory %v", len(again), p.Warnings())
	}
}

// Many rules through many routers: what cannot be looked at any more is not warned of.
func TestWarningsForManyRoutersCostLittle(t *testing.T) {
	var tags, grants strings.Builder
	d := &Directory{}
	for i := range 3000 {
		fmt.Fprintf(&tags, `"tag:t%d": [],`, i)
		fmt.Fprintf(&grants, `{"src": ["*"], "dst": ["10.0.0.0/8"], "ip": ["22"], "via": ["tag:t%d"]},`, i)
		d.Nodes = append(d.Nodes, Node{
			ID: NodeID(fmt.Sprintf("n%d", i)), Tags: []string{"tag:r"}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)})},
			Routes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), 32)},
		})
	}
	p := mustParse(t, fmt.Sprintf(`{"tagOwners": {%s}, "grants": [%s]}`, tags.String(), grants.String()))
	start := cpuTime()
	got := p.WarningsFor(d)
	if took := cpuTime() - start; len(got) != maxReported || took > 3*time.Second*slowness {
		t.Errorf("%d warnings in %s", len(got), took)
	}
	c := census{Compiled: mustCompile(t, p, d), ways: map[string]*ways{}}
	deserted := 0
	for _, s := range p.rules {
		deserted += len(c.deserted(s))
	}
	if c.spent > maxCensus+len(p.rules) || deserted > maxCensus/len(d.Nodes) {
		t.Errorf("%d routers were looked at, %d rules warned of", c.spent, deserted)
	}
}

// A rule is warned of when it lets nobody open anything to anybody, and only then: held against the ruleset itself.
func TestADesertedEndIsOneAtWhichNobodyMatches(t *testing.T) {
	d := mustDirectory(t, viewDirectory)
	p := mustParse(t, viewPolicy)
	c := mustCompile(t, p, d)
	deserted := map[string]bool{}
	for _, w := range p.WarningsFor(d) {
		deserted[w.Message] = true
	}
	for _, r := range c.Ruleset().Rules {
		named := slices.ContainsFunc(c.Ruleset().Subjects, func(s Subject) bool {
			return slices.ContainsFunc(s.Addresses, func(a netip.Addr) bool { return r.Src.matches(c.Ruleset().resolve(a)) })
		})
		if warned := deserted[fmt.Sprintf("%s[%d].src names no node, and nothing behind a route, today", r.Ref.Section, r.Ref.Index)]; warned == named {
			t.Errorf("%s: warned of %v, its source is somebody %v", r.Ref, warned, named)
		}
	}
}

func TestWarningsForKnowsWhomDeniesName(t *testing.T) {
	p := mustParse(t, `{"tagOwners": {"tag:web": []}, "denies": [{"src": ["alice@example.com"], "dst": ["tag:web"], "ip": ["*"], "reason": "left"}]}`)
	if got := p.WarningsFor(mustDirectory(t, denyWorld)); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got := p.WarningsFor(&Directory{}); len(got) != 2 {
		t.Errorf("%v, want one for each end", got)
	}
}
