package acl

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const endsPolicy = `{
	"tagOwners": {"tag:web": [], "tag:db": [], "tag:log": []},
	"grants": [
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"], "until": "2026-11-24T12:00Z"},
		{"src": ["tag:web"], "dst": ["tag:log"], "ip": ["tcp:514"]},
	],
	"denies": [
		{"src": ["tag:web"], "dst": ["tag:log"], "ip": ["*"], "reason": "being moved", "until": "2026-11-24T13:00Z"},
	],
}`

const endsDirectory = `{"nodes": [
	{"name": "web", "tags": ["tag:web"], "addresses": ["100.64.0.1"]},
	{"name": "db", "tags": ["tag:db"], "addresses": ["100.64.0.2"]},
	{"name": "log", "tags": ["tag:log"], "addresses": ["100.64.0.3"]},
]}`

// Who was a peer by a grant alone is none when it has ended, not a millisecond earlier; a deny that has ended is not told of any more.
func TestEndedRulesAreInNoView(t *testing.T) {
	d := mustDirectory(t, endsDirectory)
	c := mustCompile(t, mustParse(t, endsPolicy), d)
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, at := range []struct {
		when  time.Time
		peers string
		deny  int
		next  time.Time
	}{
		{noon.Add(-time.Millisecond), "db log", 1, noon},
		{noon, "log", 1, noon.Add(time.Hour)},
		{noon.Add(time.Hour), "log", 0, time.Time{}},
		{noon.Add(-time.Hour), "db log", 1, noon}, // a clock that was set back
	} {
		c, _ = c.At(at.when)
		v, _ := c.View("n0")
		next, _ := c.NextEnd()
		if got := peersOf(t, c, d, "web"); got != at.peers || len(v.Denies) != at.deny || !next.Equal(at.next) {
			t.Errorf("at %s web sees %s, with %d denies, and the next end is %s", at.when, got, len(v.Denies), next)
		}
		if rules := len(c.Ruleset().Rules) + len(c.Ruleset().Denies); rules != 3 {
			t.Errorf("explanations know %d rules", rules)
		}
	}
	if _, touched := c.At(noon); !slices.Equal(touched, []NodeID{"n0", "n1"}) {
		t.Errorf("the grant's end touches %v", touched)
	}
	if ended := c.Ended(noon.Add(2 * time.Hour)); len(ended) != 2 || ended[0].Section != "grants" || ended[1].Section != "denies" {
		t.Errorf("ended: %v", ended)
	}
}

// As of a time, views are those of the policy without what has ended by then, also when the network is brought up to date before or after;
// who is not named as touched has the same view.
func TestAtIsThePolicyWithoutWhatHasEnded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := Parse([]byte(drawPolicy(t)))
		if err != nil {
			t.Fatal(err)
		}
		d := drawDirectory(t)
		c, err := Compile(p, d, testSalt)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 3).Draw(t, "steps") {
			put, gone := drawChange(t)
			c, _ = c.Update(put, gone)
			d = changed(d, put, gone)
			at := now.Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "minutes")) * time.Minute)
			next, touched := c.At(at)
			whole, err := Compile(without(p, at), d, testSalt)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range d.Nodes {
				want, _ := whole.View(n.ID)
				got, _ := next.View(n.ID)
				old, _ := c.View(n.ID)
				if diff := cmp.Diff(want, got, comparable...); diff != "" {
					t.Fatalf("view of %s: compiled without what ended (-), moved on (+):\n%s", n.ID, diff)
				}
				if _, named := slices.BinarySearch(touched, n.ID); !named && !cmp.Equal(old, got, comparable...) {
					t.Fatalf("the view of %s changed, which is not among %v:\n%s", n.ID, touched, cmp.Diff(old, got, comparable...))
				}
			}
			c = next
		}
	})
}

// without is p less what has ended by at.
func without(p *Policy, at time.Time) *Policy {
	out := *p
	over := func(s statement) bool { return s.until != 0 && at.UnixMilli() >= s.until }
	out.rules = slices.DeleteFunc(slices.Clone(p.rules), over)
	out.denies = slices.DeleteFunc(slices.Clone(p.denies), over)
	return &out
}
