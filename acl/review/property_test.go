package review

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"picket.internal/acl"
)

// facts are one way the things may be that conditions ask for.
type facts struct {
	mfa      time.Duration // how long ago
	risk     int
	approved bool
	holds    map[string]bool // assertions
	now      time.Time
}

// everyPosture is a role that each node gets where a rule's posture holds.
const everyPosture acl.RoleID = 1

// under is a ruleset as it is when the facts are so: rules whose conditions hold are without them, the others are gone.
func (f facts) under(s *Source, rs *acl.Ruleset) *acl.Ruleset {
	out := &acl.Ruleset{Denies: rs.Denies}
	for _, n := range rs.Subjects {
		n.Roles = append(slices.Clone(n.Roles), everyPosture)
		out.Subjects = append(out.Subjects, n)
	}
	for _, r := range rs.Rules {
		ok := true
		for _, x := range r.Restrictions {
			switch x.Kind {
			case "mfa":
				d, _ := time.ParseDuration(x.Value)
				ok = ok && f.mfa <= d
			case "risk":
				ok = ok && f.risk <= slices.Index(riskLevels, x.Value)
			case "approval":
				ok = ok && f.approved
			default:
				panic("a condition that the test does not know: " + x.Kind)
			}
		}
		if len(r.SrcPosture) > 0 {
			any := slices.ContainsFunc(r.Postures, func(name string) bool {
				return !slices.ContainsFunc(s.assertions(name), func(a string) bool { return !f.holds[a] })
			})
			ok = ok && any
			r.SrcPosture = []acl.RoleID{everyPosture}
		}
		if r.Restrictions = nil; ok {
			out.Rules = append(out.Rules, r)
		}
	}
	return out
}

var (
	soon  = now.Add(time.Hour)
	later = now.Add(2 * time.Hour)
)

const (
	isX = "custom:x == true"
	isY = "custom:y == true"
)

// worlds lists every combination of facts that the generator's conditions tell apart.
func worlds() (out []facts) {
	for _, mfa := range []time.Duration{5 * time.Minute, time.Hour, 3 * time.Hour} {
		for _, risk := range []int{1, 3, 4} { // the last is not known
			for _, approved := range []bool{false, true} {
				for held := range 4 {
					for _, at := range []time.Time{now, soon, later} {
						out = append(out, facts{mfa, risk, approved, map[string]bool{isX: held&1 > 0, isY: held&2 > 0}, at})
					}
				}
			}
		}
	}
	return out
}

func pick(t *rapid.T, what string, from []string, min, max int) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(from), min, max, rapid.ID[string]).Draw(t, what)
}

var testSelectors = []string{"alice@example.com", "group:g", "group:h", "tag:a", "tag:b", "autogroup:member", "*", "one", "site", "10.1.1.0/24", "100.64.0.0/29", "fd7a::/126"}

func drawPolicy(t *rapid.T, what string) string {
	chance := func(name string, n int) bool { return rapid.IntRange(0, n).Draw(t, what+name) == 0 }
	ports := []string{"tcp:22", "tcp:20-30", "udp:53", "*", "icmp:*"}
	grants, denies := []map[string]any{}, []map[string]any{}
	for range rapid.IntRange(0, 3).Draw(t, what+" rules") {
		g := map[string]any{"src": pick(t, "src", testSelectors, 1, 2), "dst": pick(t, "dst", testSelectors, 1, 2), "ip": pick(t, "ip", ports, 1, 2)}
		switch rapid.IntRange(0, 5).Draw(t, "special") {
		case 0:
			g["src"], g["dst"] = []string{"autogroup:member"}, []string{"autogroup:self", "tag:a"}
		case 1:
			g["dst"] = []string{"autogroup:internet", "site"}
			if chance("via", 1) {
				g["via"] = pick(t, "via", []string{"tag:a", "tag:b"}, 1, 2)
			}
		}
		if chance("mfa", 3) {
			g["mfa"] = pick(t, "mfa", []string{"10m", "2h"}, 1, 1)[0]
		}
		if chance("risk", 4) {
			g["risk"] = pick(t, "risk", []string{"low", "high"}, 1, 1)[0]
		}
		if chance("approval", 5) {
			g["approval"] = map[string]any{"by": []string{"group:g"}, "for": "1h"}
		}
		if chance("posture", 3) {
			g["srcPosture"] = pick(t, "posture", []string{"posture:x", "posture:xy", "posture:y"}, 1, 2)
		}
		if chance("until", 3) {
			g["until"] = pick(t, "until", []string{soon.Format(time.RFC3339), later.Format(time.RFC3339)}, 1, 1)[0]
		}
		grants = append(grants, g)
	}
	for range rapid.IntRange(0, 1).Draw(t, what+" denies") {
		d := map[string]any{"src": pick(t, "deny src", testSelectors, 1, 2), "dst": pick(t, "deny dst", testSelectors, 1, 2), "ip": pick(t, "deny ip", ports, 1, 2), "reason": "r"}
		if chance("deny until", 1) {
			d["until"] = pick(t, "deny until", []string{soon.Format(time.RFC3339), later.Format(time.RFC3339)}, 1, 1)[0]
		}
		denies = append(denies, d)
	}
	b, err := json.Marshal(map[string]any{
		"groups":    map[string][]string{"group:g": {"alice@example.com"}, "group:h": pick(t, "group", []string{"alice@example.com", "bob@example.com"}, 0, 2)},
		"hosts":     map[string]string{"one": "100.64.0.1", "site": "10.1.0.0/16"},
		"tagOwners": map[string][]string{"tag:a": {}, "tag:b": {}},
		"postures":  map[string][]string{"posture:x": {isX}, "posture:y": {isY}, "posture:xy": {isY, isX}},
		"grants":    grants, "denies": denies,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func drawDirectory(t *rapid.T) *acl.Directory {
	d := &acl.Directory{Users: []acl.User{{ID: "a", Login: "alice@example.com"}, {ID: "b", Login: "bob@example.com"}}}
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		n := acl.Node{ID: acl.NodeID(fmt.Sprint("n", i)), Name: fmt.Sprint("n", i)}
		switch rapid.IntRange(0, 4).Draw(t, "whose") {
		case 0, 1:
			n.Owner = "a"
		case 2:
			n.Owner = "b"
		default:
			n.Tags = pick(t, "tags", []string{"tag:a", "tag:b"}, 0, 2)
		}
		if rapid.IntRange(0, 4).Draw(t, "four") > 0 {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(fmt.Sprint("100.64.0.", i*4+1)))
		}
		if rapid.Bool().Draw(t, "six") {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(fmt.Sprint("fd7a::", i+2)))
		}
		for _, r := range pick(t, "routes", []string{"10.1.0.0/16", "10.1.1.0/25", "10.0.0.0/8", "0.0.0.0/0", "::/0", "100.64.0.0/28"}, 0, 2) {
			n.Routes = append(n.Routes, netip.MustParsePrefix(r))
		}
		d.Nodes = append(d.Nodes, n)
	}
	return d
}

// probes are addresses of the directory and behind its routes, on both sides of every border that the policies draw.
func probes(w *world) (out []netip.Addr) {
	for _, p := range w.places {
		out = append(out, p.addresses...)
	}
	for _, s := range []string{"10.1.1.200", "10.1.1.5", "10.1.7.7", "10.9.9.9", "8.8.8.8", "2001:db8::1", "100.64.0.14"} {
		out = append(out, netip.MustParseAddr(s))
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// placeOf is where an address is; -1 for nowhere.
func placeOf(w *world, rs *acl.Ruleset, a netip.Addr) int {
	s, routed := rs.SubjectOf(a)
	best := -1
	for i, p := range w.places {
		switch {
		case s == nil:
		case !routed && p.node == s.Node:
			return i
		case routed && p.node == "" && p.prefix.Contains(a) && (best < 0 || !w.places[best].beyond && p.beyond == w.places[best].beyond && p.prefix.Bits() > w.places[best].prefix.Bits() || w.places[best].beyond && (!p.beyond || p.prefix.Bits() > w.places[best].prefix.Bits())):
			best = i
		}
	}
	return best
}

type flowKey struct {
	from, to int
	proto    acl.Proto
	port     uint16
}

// matter reports whether a policy asks for what distinguishes these facts from the first ones.
func (f facts) matter(used string) bool {
	return (strings.Contains(used, `"mfa"`) || f.mfa == 5*time.Minute) && (strings.Contains(used, `"risk"`) || f.risk == 1) &&
		(strings.Contains(used, `"approval"`) || !f.approved) && (strings.Contains(used, `"srcPosture"`) || !f.holds[isX] && !f.holds[isY]) &&
		(strings.Contains(used, `"until"`) || f.now == now)
}

var testPorts = []acl.Ports{{Proto: acl.TCP, First: 22}, {Proto: acl.TCP, First: 25}, {Proto: acl.UDP, First: 53}, {Proto: acl.ICMP}, {Proto: acl.TCP, First: 99}}

// possible lists the flows that either policy allows when every condition holds and nothing is denied.
func possible(w *world, sets [2]*acl.Ruleset, texts [2]string, fatalf func(string, ...any)) map[acl.Flow]flowKey {
	out := map[acl.Flow]flowKey{}
	var open []*acl.Ruleset
	for _, rs := range sets {
		o := &acl.Ruleset{Subjects: facts{}.under(nil, &acl.Ruleset{Subjects: rs.Subjects}).Subjects}
		for _, r := range rs.Rules {
			if r.Restrictions = nil; len(r.SrcPosture) > 0 {
				r.SrcPosture = []acl.RoleID{everyPosture}
			}
			o.Rules = append(o.Rules, r)
		}
		open = append(open, o)
	}
	for _, from := range probes(w) {
		for _, to := range probes(w) {
			a, b := placeOf(w, sets[0], from), placeOf(w, sets[0], to)
			for _, q := range testPorts {
				f := acl.Flow{Src: from, Dst: to, Proto: q.Proto, Port: q.First}
				if !open[0].Allows(f, now).Allow && !open[1].Allows(f, now).Allow {
					continue
				}
				if a < 0 || b < 0 {
					fatalf("%v is between no places\n%s\n%s", f, texts[0], texts[1])
				}
				out[f] = flowKey{a, b, q.Proto, q.First}
			}
		}
	}
	return out
}

// What a comparison reports is what some state of the facts allows by one policy and not by the other, no more and no less.
func TestDiffIsWhatAllowsSays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		texts := [2]string{drawPolicy(rt, "old"), drawPolicy(rt, "new")}
		d := drawDirectory(rt)
		old, new := mustRead(t, texts[0]), mustRead(t, texts[1])
		c, err := newComparison(old, new, d, now, false)
		if err != nil {
			rt.Fatal(err)
		}
		reported := map[bool]map[flowKey]bool{true: {}, false: {}} // widening ones, and the others
		for _, f := range c.run() {
			widens := f.kind == Gained || f.kind == Widened
			for from := range f.from.all() {
				for to := range f.to.all() {
					if from == to || f.own && c.places[from].owner != c.places[to].owner {
						continue
					}
					for _, q := range testPorts {
						if slices.ContainsFunc(f.ports, func(p acl.Ports) bool { return p.Contains(q.Proto, q.First) }) {
							reported[widens][flowKey{from, to, q.Proto, q.First}] = true
						}
					}
				}
			}
		}
		compiled := [2]*acl.Ruleset{}
		for i, s := range []*Source{old, new} {
			k, err := acl.Compile(s.Policy, d, nil)
			if err != nil {
				rt.Fatal(err)
			}
			compiled[i] = k.Ruleset()
		}
		actual := map[bool]map[flowKey]bool{true: {}, false: {}}
		flows := possible(c.world, compiled, texts, rt.Fatalf)
		used := strings.Join(texts[:], "")
		seen := map[string]bool{}
		for _, f := range worlds() {
			if !f.matter(used) {
				continue
			}
			before, after := f.under(old, compiled[0]), f.under(new, compiled[1])
			key := fmt.Sprint(f.now, before.Rules, after.Rules)
			if seen[key] {
				continue
			}
			seen[key] = true
			for flow, k := range flows {
				was, is := before.Allows(flow, f.now).Allow, after.Allows(flow, f.now).Allow
				if was != is && k.from != k.to {
					actual[is][k] = true
				}
			}
		}
		for _, widens := range []bool{true, false} {
			for k := range actual[widens] {
				if !reported[widens][k] {
					rt.Fatalf("not reported (widens %v): %+v from %+v to %+v\n%s\n%s\n%+v", widens, k, c.places[k.from], c.places[k.to], texts[0], texts[1], d)
				}
			}
			for k := range reported[widens] {
				if !actual[widens][k] {
					rt.Fatalf("reported and not so (widens %v): %+v from %+v to %+v\n%s\n%s\n%+v", widens, k, c.places[k.from], c.places[k.to], texts[0], texts[1], d)
				}
			}
		}
	})
}
