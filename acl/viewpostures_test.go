package acl

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const posturesPolicy = `{
	"tagOwners": {"tag:db": [], "tag:web": [], "tag:ci": []},
	"postures": {
		"posture:mac": ["node:os == 'macos'"], "posture:managed": ["custom:managed == true"], "posture:linux": ["node:os == 'linux'"],
		"posture:unused": ["custom:managed == true"],
	},
	"defaultSrcPosture": ["posture:managed"],
	"grants": [
		{"src": ["autogroup:member"], "dst": ["tag:db"], "ip": ["tcp:5432"], "srcPosture": ["posture:mac", "posture:linux"]},
		{"src": ["alice@example.com"], "dst": ["tag:db"], "ip": ["tcp:22"]},
		{"src": ["autogroup:member"], "dst": ["tag:web"], "ip": ["tcp:8443"]},
		{"src": ["bob@example.com"], "dst": ["tag:web"], "ip": ["icmp:*"], "srcPosture": ["posture:linux"]},
		{"src": ["tag:ci"], "dst": ["tag:db"], "ip": ["tcp:5432"], "srcPosture": ["posture:linux"]},
		{"src": ["tag:db"], "dst": ["*"], "ip": ["icmp:*"], "srcPosture": ["posture:linux"]},
		{"src": ["alice@example.com"], "dst": ["10.1.0.0/16"], "ip": ["tcp:443"], "srcPosture": ["posture:mac"]},
		{"src": ["alice@example.com"], "dst": ["tag:web"], "app": {"example.com/cap/x": [{}]}, "srcPosture": ["posture:mac"]},
		{"src": ["alice@example.com"], "dst": ["tag:web"], "ip": ["tcp:80"]},
	],
	"denies": [{"src": ["bob@example.com"], "dst": ["tag:web"], "ip": ["tcp:8443"], "reason": "not any more"}],
}`

const posturesDirectory = `{
	"users": [{"name": "alice@example.com"}, {"name": "bob@example.com"}],
	"nodes": [
		{"name": "mac", "user": "alice@example.com", "addresses": ["100.64.0.1"], "attributes": {"node:os": "macos", "custom:managed": "true"}},
		{"name": "own", "user": "bob@example.com", "addresses": ["100.64.0.2"], "attributes": {"node:os": "linux"}},
		{"name": "both", "user": "bob@example.com", "addresses": ["100.64.0.3"], "attributes": {"node:os": "linux", "custom:managed": "true"}},
		{"name": "db", "tags": ["tag:db"], "addresses": ["100.64.0.4"]},
		{"name": "web", "tags": ["tag:web"], "addresses": ["100.64.0.5"], "routes": ["10.1.0.0/16"]},
		{"name": "ci", "tags": ["tag:ci"], "addresses": ["100.64.0.6"], "attributes": {"node:os": "linux"}},
		{"name": "old", "user": "alice@example.com", "addresses": ["100.64.0.7"], "attributes": {"node:os": "windows", "custom:managed": "true"}},
	],
}`

// A node learns of its peers' devices what lets them in here, and nothing else: not what they do not meet, not what rules to others ask, nor a
// rule that a deny takes all of, nor one that is for what lies behind it, or for its applications alone.
func TestViewNamesThePosturesByWhichPeersComeIn(t *testing.T) {
	d := mustDirectory(t, posturesDirectory)
	c := mustCompile(t, mustParse(t, posturesPolicy), d)
	name := map[NodeID]string{}
	for _, n := range d.Nodes {
		name[n.ID] = n.Name
	}
	want := map[string]map[string][]string{
		"db": {
			"mac": {"posture:mac", "posture:managed"}, "own": {"posture:linux"}, "both": {"posture:linux"}, "ci": {"posture:linux"}, "old": {"posture:managed"},
		},
		"web": {"mac": {"posture:managed"}, "own": {"posture:linux"}, "both": {"posture:linux"}, "old": {"posture:managed"}},
	}
	got := map[string]map[string][]string{}
	for _, n := range d.Nodes {
		v, _ := c.View(n.ID)
		for id, names := range v.Postures {
			if got[n.Name] == nil {
				got[n.Name] = map[string][]string{}
			}
			got[n.Name][name[id]] = names
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("postures wanted (-), in views (+):\n%s", diff)
	}
}

// View.Postures is what the slow reading of the rules says.
func TestViewPosturesAreThoseOfTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDirectory(t)
		p, err := Parse([]byte(drawPolicy(t)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := Compile(p, d, testSalt)
		if err != nil {
			t.Fatal(err)
		}
		c, _ = c.At(now)
		whole := c.Ruleset()
		for _, n := range d.Nodes {
			want := map[NodeID][]string{}
			for _, peer := range d.Nodes {
				if names := slowPostures(whole, &peer, &n); peer.ID != n.ID && len(names) > 0 {
					want[peer.ID] = names
				}
			}
			v, _ := c.View(n.ID)
			if diff := cmp.Diff(want, v.Postures, comparable...); diff != "" {
				t.Fatalf("postures of peers of %s by the rules (-), in the view (+):\n%s", n.ID, diff)
			}
		}
	})
}

// slowPostures asks each rule and each lasting deny about each address and port.
func slowPostures(whole *Ruleset, src, dst *Node) (names []string) {
	lasting := slices.DeleteFunc(slices.Clone(whole.Denies), func(r Rule) bool { return r.Until != 0 })
	for i := range whole.Rules {
		r := &whole.Rules[i]
		alone := &Ruleset{Rules: []Rule{*r}, Denies: lasting, Subjects: whole.Subjects}
		if !slices.ContainsFunc(askedPorts, func(f Flow) bool { return opensSome(alone, f, src.Addresses, dst.Addresses, now) }) {
			continue
		}
		s, _ := whole.SubjectOf(src.Addresses[0])
		for _, name := range r.Postures {
			if slices.Contains(s.Roles, newRoleID(testSalt, name)) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func opensSome(rs *Ruleset, f Flow, from, to []netip.Addr, now time.Time) bool {
	for _, f.Src = range from {
		for _, f.Dst = range to {
			if rs.decide(f, now).Allow {
				return true
			}
		}
	}
	return false
}
