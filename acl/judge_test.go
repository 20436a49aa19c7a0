package acl

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// judgedPolicy has a rule of every kind that decides differently.
const judgedPolicy = `{
	"groups": {"group:eng": ["alice@example.com"], "group:dba": ["bob@example.com"]},
	"tagOwners": {"tag:web": [], "tag:db": [], "tag:router": []},
	"postures": {"posture:linux": ["node:os == 'linux'"]},
	"acls": [
		{"action": "accept", "src": ["group:eng"], "dst": ["tag:web:80,443", "tag:db:22"], "proto": "tcp"},
		{"action": "accept", "src": ["*"], "dst": ["10.33.1.0/24:443"]},
	],
	"grants": [
		{"src": ["group:dba"], "dst": ["tag:db"], "ip": ["tcp:5432"], "srcPosture": ["posture:linux"]},
		{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]},
		{"src": ["group:eng"], "dst": ["10.33.0.0/16"], "ip": ["tcp:22"], "via": ["tag:router"]},
		{"src": ["group:eng"], "dst": ["autogroup:internet"], "ip": ["tcp:443"]},
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"], "until": "2026-11-24T12:00Z"},
		{"src": ["group:eng"], "dst": ["tag:db"], "ip": ["tcp:5432"], "mfa": "15m"},
		{"src": ["100.64.0.4"], "dst": ["tag:db"], "ip": ["udp:53"]},
	],
	"denies": [
		{"src": ["alice@example.com"], "dst": ["tag:web"], "ip": ["tcp:443"], "reason": "incident 7"},
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["*"], "reason": "over", "until": "2026-11-24T11:00Z"},
	],
}`

const judgedDirectory = `{
	"users": [{"name": "alice@example.com"}, {"name": "bob@example.com", "role": "admin"}],
	"nodes": [
		{"name": "alice", "user": "alice@example.com", "addresses": ["100.64.0.1", "fd7a::1"]},
		{"name": "alice-2", "user": "alice@example.com", "addresses": ["100.64.0.2"]},
		{"name": "bob", "user": "bob@example.com", "addresses": ["100.64.0.3"], "attributes": {"node:os": "linux"}},
		{"name": "web", "tags": ["tag:web"], "addresses": ["100.64.0.4", "fd7a::4"]},
		{"name": "db", "tags": ["tag:db"], "addresses": ["100.64.0.5"]},
		{"name": "router", "tags": ["tag:router"], "addresses": ["100.64.0.6"], "routes": ["10.33.0.0/16"]},
		{"name": "near", "tags": ["tag:web"], "addresses": ["100.64.0.7"], "routes": ["10.33.1.0/24", "0.0.0.0/0"]}
	]
}`

func directory(t testing.TB, text string) *Directory {
	t.Helper()
	d, err := ParseDirectory([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestJudgeExplainsAsTheRulesetDoes(t *testing.T) {
	d := directory(t, judgedDirectory)
	ours := mustCompile(t, mustParse(t, judgedPolicy), d).Ruleset()
	sameExplanations(t, ours, []string{"10.33.0.9", "10.33.1.9", "8.8.8.8", "192.168.0.1", "fd7a::9", "::ffff:100.64.0.1", "fe80::1%eth0"})
}

// TestJudgeOnVerdicts asks the questions of every golden policy that parses.
func TestJudgeOnVerdicts(t *testing.T) {
	paths, err := filepath.Glob(verdicts)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives (%v)", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		a := txtar.Parse(b)
		p, err := Parse([]byte(fileNamed(a, "policy.hujson")))
		if err != nil {
			continue
		}
		sameExplanations(t, mustCompile(t, p, mustDirectory(t, fileNamed(a, "directory.json"))).Ruleset(), []string{"10.20.0.1"})
	}
}

// sameExplanations compares between all addresses of rs and others, on a few ports, before and after deadlines.
func sameExplanations(t *testing.T, rs *Ruleset, others []string) {
	t.Helper()
	var all []netip.Addr
	for _, s := range rs.Subjects {
		all = append(all, s.Addresses...)
	}
	for _, s := range others {
		all = append(all, netip.MustParseAddr(s))
	}
	j := NewJudge(rs)
	for range 2 { // from memory as well
		for _, src := range all {
			for _, dst := range all {
				for _, on := range []Ports{{TCP, 22, 0}, {TCP, 80, 0}, {TCP, 443, 0}, {TCP, 5432, 0}, {UDP, 53, 0}, {ICMP, 0, 0}, {ICMPv6, 0, 0}, {47, 0, 0}} {
					f := Flow{src, dst, on.Proto, on.First}
					at := now.Add(time.Duration(rand.IntN(3)-1) * 90 * time.Minute)
					if diff := cmp.Diff(rs.Explain(f, at), j.Explain(f, at), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b *Rule) bool { return a == b })); diff != "" {
						t.Fatalf("%v at %v (-ruleset +judge):\n%s", f, at, diff)
					}
				}
			}
		}
	}
}

func TestJudgeForgetsRatherThanGrow(t *testing.T) {
	j := NewJudge(mustCompile(t, mustParse(t, judgedPolicy), directory(t, judgedDirectory)).Ruleset())
	j.most = 4
	for i := range byte(20) {
		f := Flow{Src: netip.AddrFrom4([4]byte{100, 64, 0, i}), Dst: netip.AddrFrom4([4]byte{100, 64, 0, 20 - i}), Proto: TCP, Port: 80}
		if got, want := j.Explain(f, now), j.rules.Explain(f, now); got.Allow != want.Allow {
			t.Errorf("%v: allow %v, want %v", f, got.Allow, want.Allow)
		}
		if len(j.ends) > j.most {
			t.Errorf("remembers %d addresses, want at most %d", len(j.ends), j.most)
		}
	}
}
