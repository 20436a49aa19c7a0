package acl

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

const viewPolicy = `{
	"groups": {"group:eng": ["alice@example.com"], "group:ops": ["bob@example.com"]},
	"tagOwners": {"tag:web": [], "tag:db": []},
	"hosts": {"vault": "100.64.0.9", "site": "10.1.2.0/24"},
	"grants": [
		{"src": ["group:eng", "group:ops"], "dst": ["tag:web"], "ip": ["tcp:443"]},
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
		{"src": ["group:ops"], "dst": ["*"], "ip": ["*"]},
		{"src": ["group:eng"], "dst": ["vault", "site"], "ip": ["tcp:22"]},
	],
}`

const viewDirectory = `{
	"users": [{"name": "alice@example.com"}, {"name": "bob@example.com"}, {"name": "eve@example.com"}],
	"nodes": [
		{"name": "alice", "user": "alice@example.com", "addresses": ["100.64.0.1"]},
		{"name": "bob", "user": "bob@example.com", "addresses": ["100.64.0.2"]},
		{"name": "web", "tags": ["tag:web"], "addresses": ["100.64.0.3"]},
		{"name": "db", "tags": ["tag:db"], "addresses": ["100.64.0.4"]},
		{"name": "eve", "user": "eve@example.com", "addresses": ["100.64.0.5"]},
		{"name": "six", "tags": ["tag:web"], "addresses": ["fd7a::6"]},
		{"name": "router", "addresses": ["100.64.0.7"], "routes": ["10.1.0.0/16", "10.9.0.0/16"]},
		{"name": "vault", "addresses": ["100.64.0.9"]},
	],
}`

// peersOf lists the names of the peers in a node's view.
func peersOf(t *testing.T, c *Compiled, d *Directory, name string) string {
	t.Helper()
	i := slices.IndexFunc(d.Nodes, func(n Node) bool { return n.Name == name })
	v, ok := c.View(d.Nodes[i].ID)
	if !ok {
		t.Fatalf("no view for %s", name)
	}
	var out []string
	for _, p := range v.Peers {
		j := slices.IndexFunc(d.Nodes, func(n Node) bool { return n.ID == p.Node })
		out = append(out, d.Nodes[j].Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestViewHoldsPeersWithAPermittedFlowAndNobodyElse(t *testing.T) {
	d := mustDirectory(t, viewDirectory)
	c := mustCompile(t, mustParse(t, viewPolicy), d)
	for name, want := range map[string]string{
		"alice":  "bob router vault web",
		"bob":    "alice db eve router vault web",
		"web":    "alice bob db",
		"db":     "bob web",
		"eve":    "bob",
		"six":    "",
		"router": "alice bob",
		"vault":  "alice bob",
	} {
		if got := peersOf(t, c, d, name); got != want {
			t.Errorf("%s sees %q, want %q", name, got, want)
		}
	}
	if _, ok := c.View("nobody"); ok {
		t.Error("a view for a node that does not exist")
	}
}

// A node reads its map: what is in it about strangers, it knows (R30).
func TestViewMentionsNothingOfStrangers(t *testing.T) {
	d := mustDirectory(t, viewDirectory)
	p := mustParse(t, viewPolicy)
	c := mustCompile(t, p, d)
	role := func(key string) string { return fmt.Sprint(uint64(newRoleID(testSalt, key))) }
	for name, strangers := range map[string][]string{
		"alice": {"n3", "n4", "n5", "u2", "100.64.0.4", "100.64.0.5", "fd7a::6", "10.9.0.0", "10.1.0.0/16\"]}]", role("tag:db")},
		"eve":   {"n0", "n2", "n3", "n5", "n6", "u0", "100.64.0.1", "100.64.0.3", "10.1", "10.9", role("group:eng"), role("tag:web"), role("ip:100.64.0.9/32")},
		"db":    {"n0", "n4", "u0", "100.64.0.9", "10.1", role("group:eng"), role("ip:10.1.2.0/24")},
		"six":   {"n0", "n1", "n2", "u0", "100.64.", "10.1", role("group:eng")},
	} {
		i := slices.IndexFunc(d.Nodes, func(n Node) bool { return n.Name == name })
		v, _ := c.View(d.Nodes[i].ID)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range strangers {
			if strings.Contains(string(text), s) {
				t.Errorf("the view of %s mentions %s: %s", name, s, text)
			}
		}
		for _, s := range []string{"alice@", "group:", "tag:", "vault"} {
			if strings.Contains(string(text), s) {
				t.Errorf("the view of %s mentions the policy's word %s: %s", name, s, text)
			}
		}
	}
}

// An exit node's route holds every address, those of nodes too; it is no way to them, and no reason to mention it or them.
func TestViewDoesNotTakeANodesAddressForOneBehindAnExit(t *testing.T) {
	d := mustDirectory(t, `{
		"users": [{"name": "alice@example.com"}, {"name": "bob@example.com"}],
		"nodes": [
			{"name": "alice", "user": "alice@example.com", "addresses": ["100.64.0.1"]},
			{"name": "bob", "user": "bob@example.com", "addresses": ["100.64.0.2", "fd7a::2"]},
			{"name": "vault", "tags": ["tag:v"], "addresses": ["fd7a::9"]},
			{"name": "exit", "tags": ["tag:x"], "addresses": ["100.64.0.4"], "routes": ["0.0.0.0/0", "::/0"]},
		],
	}`)
	p := mustParse(t, `{"tagOwners": {"tag:x": []}, "grants": [
		{"src": ["alice@example.com"], "dst": ["tag:x", "fd7a::9"], "ip": ["*"]},
		{"src": ["bob@example.com"], "dst": ["100.64.0.1"], "ip": ["*"]},
	]}`)
	c := mustCompile(t, p, d)
	for name, want := range map[string]string{"alice": "bob exit", "bob": "alice", "exit": "alice", "vault": ""} {
		if got := peersOf(t, c, d, name); got != want {
			t.Errorf("%s sees %q, want %q", name, got, want)
		}
	}
	v, _ := c.View("n0")
	if text, _ := json.Marshal(v); strings.Contains(string(text), "fd7a::9") {
		t.Errorf("alice's view mentions the address of the vault, which she cannot reach: %s", text)
	}
}

// Two nodes between which no packet of one family can go are no peers.
func TestViewLeavesOutWhoIsOfAnotherFamily(t *testing.T) {
	d := mustDirectory(t, `{
		"users": [{"name": "alice@example.com"}],
		"nodes": [
			{"name": "old", "user": "alice@example.com", "addresses": ["100.64.0.1"]},
			{"name": "new", "user": "alice@example.com", "addresses": ["fd7a::2"]},
			{"name": "router", "tags": ["tag:x"], "addresses": ["100.64.0.3"], "routes": ["fd00:20::/48"]},
		],
	}`)
	c := mustCompile(t, mustParse(t, `{"grants": [
		{"src": ["alice@example.com"], "dst": ["autogroup:self"], "ip": ["*"]},
		{"src": ["alice@example.com"], "dst": ["fd00:20::/64"], "ip": ["*"]},
	]}`), d)
	for name, want := range map[string]string{"old": "", "new": "router", "router": "new"} {
		if got := peersOf(t, c, d, name); got != want {
			t.Errorf("%s sees %q, want %q", name, got, want)
		}
	}
}

// alice may know by which of its selectors a rule names her, not whom else it lets in.
func TestViewsRuleNamesSelfAloneAtItsOwnEnd(t *testing.T) {
	c := mustCompile(t, mustParse(t, viewPolicy), mustDirectory(t, viewDirectory))
	v, _ := c.View("n0")
	want := []RoleID{newRoleID(testSalt, "group:eng")}
	if diff := cmp.Diff(want, v.Rules[0].Src.Roles); diff != "" || v.Rules[0].Ref.Index != 0 {
		t.Errorf("%+v\n%s", v.Rules[0], diff)
	}
}

func TestViewLeavesTheCompiledAsItWas(t *testing.T) {
	d := mustDirectory(t, viewDirectory)
	c := mustCompile(t, mustParse(t, viewPolicy), d)
	before, _ := json.Marshal(c.Ruleset())
	for _, n := range d.Nodes {
		c.View(n.ID)
	}
	after, _ := json.Marshal(c.Ruleset())
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Error(diff)
	}
}

// ---- random networks

var (
	drawnUsers = []string{"a@x.org", "b@x.org", "c@x.org"}
	drawnTags  = []string{"tag:p", "tag:q"}
	drawnNets  = []string{"100.64.0.1", "100.64.0.2", "fd7a::3", "100.64.0.0/30", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "fd00:1::/32", "192.0.2.0/24"}
	drawnPorts = []string{"*", "22", "80-90", "tcp:22", "udp:22", "tcp:20-85", "icmp:*", "47:*"}
	drawnEnds  = []string{"2026-11-24T11:59Z", "2026-11-24T12:01Z"}
	routePool  = []string{"198.51.100.0/24", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "fd00:1::/32", "0.0.0.0/0", "::/0"}
)

func drawPolicy(t *rapid.T) string {
	src := append(append([]string{"*", "group:g", "group:h", "autogroup:member", "autogroup:tagged"}, drawnUsers...), append(drawnTags, drawnNets...)...)
	owned := append([]string{"group:g", "group:h", "autogroup:member"}, drawnUsers...)
	list := func(from []string, most int, label string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, most, rapid.ID).Draw(t, label)
	}
	dst := append([]string{"autogroup:internet", "ipset:s"}, src...)
	src = append([]string{"autogroup:danger-all", "user:*@x.org", "autogroup:admin"}, src...)
	rules := func(label string, most int) (out []map[string]any) {
		for range rapid.IntRange(0, most).Draw(t, label) {
			g := map[string]any{"src": list(src, 3, "src"), "dst": list(dst, 3, "dst"), "ip": list(drawnPorts, 2, "ip")}
			if rapid.IntRange(0, 3).Draw(t, "self") == 0 {
				g["src"], g["dst"] = list(owned, 2, "src"), append(list(dst, 1, "dst"), "autogroup:self")
			}
			out = append(out, g)
		}
		return out
	}
	grants, denies := rules("grants", 5), rules("denies", 2)
	for _, g := range grants {
		switch rapid.IntRange(0, 7).Draw(t, "condition") {
		case 0:
			g["via"] = list(drawnTags, 2, "via")
		case 1, 2:
			g["srcPosture"] = list([]string{"posture:ok", "posture:new"}, 2, "postures")
		}
		if rapid.IntRange(0, 3).Draw(t, "ends") == 0 {
			g["until"] = rapid.SampledFrom(drawnEnds).Draw(t, "until")
		}
	}
	for _, g := range denies {
		g["reason"] = "because"
		if rapid.Bool().Draw(t, "ends") {
			g["until"] = rapid.SampledFrom(drawnEnds).Draw(t, "until")
		}
	}
	text, _ := json.Marshal(map[string]any{
		"groups":    map[string][]string{"group:g": list(drawnUsers, 2, "g"), "group:h": {"a@x.org", "c@x.org"}},
		"tagOwners": map[string][]string{"tag:p": {}, "tag:q": {}},
		"ipsets":    map[string][]string{"ipset:s": {"add 100.64.0.0/30", "remove 100.64.0.1", "add 10.1.0.0/17"}},
		"postures":  map[string][]string{"posture:ok": {"custom:ok == true"}, "posture:new": {"node:osVersion >= '2'"}},
		"grants":    append([]map[string]any{}, grants...),
		"denies":    append([]map[string]any{}, denies...),
	})
	return string(text)
}

func drawDirectory(t *rapid.T) *Directory {
	d := &Directory{}
	for i, u := range drawnUsers {
		d.Users = append(d.Users, User{ID: UserID(fmt.Sprint("u", i)), Login: u, Role: []string{"", "admin", ""}[i]})
	}
	for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
		d.Nodes = append(d.Nodes, drawNode(t, i))
	}
	return d
}

func drawNode(t *rapid.T, i int) Node {
	n := Node{ID: NodeID(fmt.Sprint("n", i)), Name: fmt.Sprint("node", i)}
	n.Attributes = map[string]string{"custom:ok": rapid.SampledFrom([]string{"true", "false"}).Draw(t, "ok")}
	if rapid.Bool().Draw(t, "versioned") {
		n.Attributes["node:osVersion"] = rapid.SampledFrom([]string{"1.9", "2.1"}).Draw(t, "version")
	}
	{
		if rapid.Bool().Draw(t, "tagged") {
			n.Tags = rapid.SliceOfNDistinct(rapid.SampledFrom(drawnTags), 1, 2, rapid.ID).Draw(t, "tags")
		} else {
			n.Owner = rapid.SampledFrom([]UserID{"u0", "u1", "u2", "gone"}).Draw(t, "owner")
		}
		families := rapid.IntRange(1, 3).Draw(t, "families")
		if families&1 != 0 {
			n.Addresses = append(n.Addresses, netip.AddrFrom4([4]byte{100, 64, 0, byte(i)}))
		}
		if families&2 != 0 {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(fmt.Sprintf("fd7a::%d", i)))
		}
		for _, r := range rapid.SliceOfNDistinct(rapid.SampledFrom(routePool), 0, 2, rapid.ID).Draw(t, "routes") {
			n.Routes = append(n.Routes, netip.MustParsePrefix(r))
		}
	}
	return n
}

// somewhere are addresses behind routes, and of nobody.
var somewhere = []netip.Addr{
	netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.9.9"), netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("192.0.2.7"),
	netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("fd00:1::5"), netip.MustParseAddr("2001:db8::1"),
}

var askedPorts = []Flow{{Proto: TCP, Port: 9}, {Proto: UDP, Port: 9}, {Proto: TCP, Port: 50}, {Proto: TCP, Port: 22}, {Proto: UDP, Port: 85}, {Proto: TCP, Port: 85}, {Proto: UDP, Port: 22}, {Proto: ICMP}, {Proto: ICMPv6}, {Proto: 47}, {Proto: SCTP, Port: 22}}

// concerns reports whether a flow has self, or what lies behind it, at one end and at the other somebody else, or what lies behind him.
func concerns(rs *Ruleset, self NodeID, f Flow) bool {
	src, _ := rs.SubjectOf(f.Src)
	dst, _ := rs.SubjectOf(f.Dst)
	return src != nil && dst != nil && src != dst && (src.Node == self || dst.Node == self)
}

// What a node enforces by its view is what the whole policy says, at its own addresses and behind routes, exits too.
func TestViewDecidesAsTheWholeRulesetDoes(t *testing.T) {
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
		addrs := slices.Clone(somewhere)
		for _, n := range d.Nodes {
			addrs = append(addrs, n.Addresses...)
		}
		for _, n := range d.Nodes {
			v, _ := c.View(n.ID)
			compareView(t, c.Ruleset(), v, addrs)
		}
	})
}

func compareView(t *rapid.T, whole *Ruleset, v View, addrs []netip.Addr) {
	rs := v.Ruleset()
	met := map[NodeID]bool{}
	lasting := &Ruleset{Rules: whole.Rules, Subjects: whole.Subjects} // a deny that ends hides nobody
	for _, d := range whole.Denies {
		if d.Until == 0 {
			lasting.Denies = append(lasting.Denies, d)
		}
	}
	for _, src := range addrs {
		for _, dst := range addrs {
			for _, f := range askedPorts {
				f.Src, f.Dst = src, dst
				if !concerns(whole, v.Self.Node, f) {
					continue
				}
				want, got := whole.decide(f, now), rs.decide(f, now)
				// Of several routers each speaks for itself: a flow that one may carry another need not. None carries what is refused, but
				// that a node knows no router but the one that via names, where the whole network has a nearer one.
				_, routed := whole.SubjectOf(dst)
				if routed && len(whole.routersTo(dst)) > 1 && !got.Allow || got.Allow && len(got.Rule.Via) > 0 || want.Allow && len(want.Rule.Via) > 0 {
					continue
				}
				// To who does not know of a subnet, its addresses lie beyond the exit node. What a deny names is refused there as well.
				if whole.resolve(dst).beyond != rs.resolve(dst).beyond || whole.resolve(src).beyond != rs.resolve(src).beyond {
					if got.Allow && whole.denying(whole.resolve(src), whole.resolve(dst), f, now) != nil {
						t.Fatalf("%v: denied, but the view of %s %v", f, v.Self.Node, got)
					}
					continue
				}
				if want.Allow != got.Allow || want.Allow && want.Rule.Ref != got.Rule.Ref {
					t.Fatalf("%v: whole %v, view of %s %v", f, want, v.Self.Node, got)
				}
				may := lasting.decide(f, now).Allow
				for _, a := range []netip.Addr{src, dst} {
					if s, _ := whole.SubjectOf(a); may && s.Node != v.Self.Node {
						met[s.Node] = true
					}
				}
			}
		}
	}
	for _, p := range v.Peers {
		if len(p.Routes) == 0 && !met[p.Node] && len(v.Self.Routes) == 0 {
			t.Fatalf("%s sees %s without a permitted flow", v.Self.Node, p.Node)
		}
	}
}

// A view's roles are those its rules mention; its rules mention only roles and routes of its subjects (R30).
func TestViewIsNarrow(t *testing.T) {
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
		for _, n := range d.Nodes {
			v, _ := c.View(n.ID)
			had, used := map[RoleID]bool{}, map[RoleID]bool{}
			for _, s := range v.Ruleset().Subjects {
				for _, id := range s.Roles {
					had[id] = true
				}
			}
			var routes []netip.Prefix
			var addrs []netip.Addr
			for _, s := range v.Ruleset().Subjects {
				routes, addrs = append(routes, s.Routes...), append(addrs, s.Addresses...)
			}
			for _, r := range slices.Concat(v.Rules, v.Denies) {
				for _, id := range slices.Concat(r.Src.Roles, r.Dst.Roles, r.SrcPosture, r.Via) {
					used[id] = true
				}
				for _, p := range slices.Concat(r.Src.Prefixes, r.Dst.Prefixes, r.Src.Beyond, r.Dst.Beyond) {
					if !slices.ContainsFunc(addrs, p.Contains) && !slices.ContainsFunc(routes, func(o netip.Prefix) bool { return o.Bits() <= p.Bits() && o.Contains(p.Addr()) }) {
						t.Fatalf("the view of %s mentions %s, which lies behind no route in it", n.ID, p)
					}
				}
			}
			if diff := cmp.Diff(had, used); diff != "" {
				t.Fatalf("roles of subjects (-) and of rules (+) of %s:\n%s", n.ID, diff)
			}
		}
	})
}

// A network that is brought up to date node by node is the one that is compiled whole, and who is not named as touched has the same view.
func TestUpdateIsACompile(t *testing.T) {
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
		for range rapid.IntRange(1, 4).Draw(t, "updates") {
			before, _ := json.Marshal(c.Ruleset())
			put, gone := drawChange(t)
			next, touched := c.Update(put, gone)
			d = changed(d, put, gone)
			whole, err := Compile(p, d, testSalt)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(whole.Ruleset(), next.Ruleset(), comparable...); diff != "" {
				t.Fatalf("compiled whole (-), updated (+):\n%s", diff)
			}
			for _, n := range d.Nodes {
				want, _ := whole.View(n.ID)
				got, _ := next.View(n.ID)
				old, _ := c.View(n.ID)
				if diff := cmp.Diff(want, got, comparable...); diff != "" {
					t.Fatalf("view of %s: compiled whole (-), updated (+):\n%s", n.ID, diff)
				}
				if _, named := slices.BinarySearch(touched, n.ID); !named && !cmp.Equal(old, got, comparable...) {
					t.Fatalf("the view of %s changed, which is not among %v:\n%s", n.ID, touched, cmp.Diff(old, got, comparable...))
				}
			}
			if after, _ := json.Marshal(c.Ruleset()); string(after) != string(before) {
				t.Fatal("the network before the update is another one now")
			}
			c = next
		}
	})
}

var comparable = []cmp.Option{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func drawChange(t *rapid.T) (put []Node, gone []NodeID) {
	for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 6), 1, 3, rapid.ID).Draw(t, "changed") {
		if rapid.IntRange(0, 3).Draw(t, "goes") == 0 {
			gone = append(gone, NodeID(fmt.Sprint("n", i)))
		} else {
			put = append(put, drawNode(t, i))
		}
	}
	return put, gone
}

func changed(d *Directory, put []Node, gone []NodeID) *Directory {
	out := &Directory{Users: d.Users}
	for _, n := range d.Nodes {
		if !slices.Contains(gone, n.ID) && !slices.ContainsFunc(put, func(p Node) bool { return p.ID == n.ID }) {
			out.Nodes = append(out.Nodes, n)
		}
	}
	out.Nodes = append(out.Nodes, put...)
	return out
}
