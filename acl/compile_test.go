package acl

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompileRefusesRolesThatCollide(t *testing.T) {
	p, d := mustParse(t, viewPolicy), mustDirectory(t, viewDirectory)
	_, err := compile(p, d, func(key string) RoleID { return RoleID(len(key)) })
	if err == nil || !strings.Contains(err.Error(), "selectors `group:ops` and `group:eng` have the same role id: make a new salt") {
		t.Errorf("got %v", err)
	}
}

// pinnedRole is newRoleID("salt", "tag:db"), computed apart with: printf "picket acl role v1\\0\\0\\0\\0\\0\\0\\0\\0\\4salttag:db" | sha256sum
const pinnedRole RoleID = 0xcc5b0319418d0a5e

func TestRoleIDsDependOnSaltAndSelectorAlone(t *testing.T) {
	if got := newRoleID([]byte("salt"), "tag:db"); got != newRoleID([]byte("salt"), "tag:db") {
		t.Error("not the same twice")
	}
	seen := map[RoleID]string{}
	for _, c := range [][2]string{{"salt", "tag:db"}, {"salt2", "tag:db"}, {"salt", "tag:dc"}, {"saltt", "ag:db"}, {"", "salttag:db"}, {"", ""}} {
		id := newRoleID([]byte(c[0]), c[1])
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q have one role id", c, other)
		}
		seen[id] = fmt.Sprint(c)
	}
	// Pinned: another value would rename every role of a running network at an update.
	if got := newRoleID([]byte("salt"), "tag:db"); got != pinnedRole {
		t.Errorf("role id %#x, want %#x", uint64(got), uint64(pinnedRole))
	}
}

func TestAHostAndItsAddressAreOneRole(t *testing.T) {
	p := mustParse(t, `{"hosts": {"db": "10.0.0.1"}, "grants": [{"src": ["db"], "dst": ["10.0.0.1"], "ip": ["*"]}]}`)
	r := mustCompile(t, p, &Directory{}).Ruleset().Rules[0]
	if diff := cmp.Diff(r.Src.Roles, r.Dst.Roles); diff != "" {
		t.Error(diff)
	}
}

func TestCompileDoesNotDependOnTheDirectorysOrder(t *testing.T) {
	p, d := mustParse(t, viewPolicy), mustDirectory(t, viewDirectory)
	first, _ := json.Marshal(mustCompile(t, p, d).Ruleset())
	slices.Reverse(d.Nodes)
	slices.Reverse(d.Users)
	second, _ := json.Marshal(mustCompile(t, p, d).Ruleset())
	if diff := cmp.Diff(string(first), string(second)); diff != "" {
		t.Error(diff)
	}
}

func TestCompileKeepsNothingOfTheDirectory(t *testing.T) {
	p, d := mustParse(t, viewPolicy), mustDirectory(t, viewDirectory)
	c := mustCompile(t, p, d)
	before, _ := json.Marshal(c.Ruleset())
	for i := range d.Nodes {
		for j := range d.Nodes[i].Addresses {
			d.Nodes[i].Addresses[j] = netip.MustParseAddr("192.0.2.1")
		}
		for j := range d.Nodes[i].Routes {
			d.Nodes[i].Routes[j] = netip.MustParsePrefix("0.0.0.0/0")
		}
		d.Nodes[i] = Node{}
	}
	after, _ := json.Marshal(c.Ruleset())
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Error(diff)
	}
}

func TestOneNodeJoiningChangesNoRule(t *testing.T) {
	p, d := mustParse(t, viewPolicy), mustDirectory(t, viewDirectory)
	before := mustCompile(t, p, d).Ruleset().Rules
	d.Nodes = append(d.Nodes, Node{ID: "z", Tags: []string{"tag:web"}, Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.77")}})
	after := mustCompile(t, p, d).Ruleset().Rules
	if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// Addresses and routes that are not in their one form would be compared wrongly (R34): they are as if absent.
func TestCompileLeavesOutOddAddresses(t *testing.T) {
	d := &Directory{Nodes: []Node{{
		ID:        "a",
		Addresses: []netip.Addr{{}, netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("fe80::1%eth0"), addrA},
		Routes:    []netip.Prefix{{}, netip.MustParsePrefix("10.1.2.3/8"), netip.MustParsePrefix("::ffff:10.0.0.0/104"), netip.MustParsePrefix("10.0.0.0/8")},
	}}}
	s := mustCompile(t, Deny(), d).Ruleset().Subjects[0]
	if fmt.Sprint(s.Addresses, s.Routes) != "[100.64.0.1] [10.0.0.0/8]" {
		t.Error(s.Addresses, s.Routes)
	}
}

func TestATaggedNodeHasNoOwner(t *testing.T) {
	p := mustParse(t, `{"grants": [{"src": ["alice@example.com"], "dst": ["autogroup:self"], "ip": ["*"]}]}`)
	d := &Directory{Users: []User{{ID: "u1", Login: "alice@example.com"}}, Nodes: []Node{
		{ID: "a", Owner: "u1", Addresses: []netip.Addr{addrA}}, {ID: "b", Owner: "u1", Tags: []string{"tag:x"}, Addresses: []netip.Addr{addrB}},
	}}
	s := mustCompile(t, p, d).Ruleset().Subjects
	if s[0].Owner != "u1" || len(s[0].Roles) != 2 || s[1].Owner != "" || len(s[1].Roles) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestDenyAllowsNothing(t *testing.T) {
	d := mustDirectory(t, viewDirectory)
	c := mustCompile(t, Deny(), d)
	for _, n := range d.Nodes {
		if v, ok := c.View(n.ID); !ok || len(v.Peers)+len(v.Rules)+len(v.Self.Roles) != 0 {
			t.Errorf("%s sees %+v", n.Name, v)
		}
	}
	if p := Deny(); p.Groups("a@x.org") != nil || p.HasTag("tag:a") || p.OwnsTag("a@x.org", "tag:a") || p.Test(d, now) != nil {
		t.Error("Deny knows something")
	}
}

// network is n nodes of n/10 users in teams of ten, each team with a server, and a rule for each team.
func network(n int) (string, *Directory) {
	var groups, tags, grants []string
	d := &Directory{}
	address := func(i int) []netip.Addr {
		return []netip.Addr{netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd7a::%x", i+1))}
	}
	for team := range n / 10 {
		login := fmt.Sprintf("u%d@example.com", team)
		groups = append(groups, fmt.Sprintf(`"group:g%d": [%q]`, team, login))
		tags = append(tags, fmt.Sprintf(`"tag:t%d": []`, team))
		grants = append(grants, fmt.Sprintf(`{"src": ["group:g%d"], "dst": ["tag:t%d"], "ip": ["tcp:443"], "srcPosture": ["posture:any"]}`, team, team))
		d.Users = append(d.Users, User{ID: UserID(login), Login: login})
		for i := range 10 {
			node := Node{ID: NodeID(fmt.Sprintf("n%dx%d", team, i)), Owner: UserID(login), Addresses: address(team*10 + i)}
			if i == 0 {
				node.Owner, node.Tags = "", []string{fmt.Sprintf("tag:t%d", team)}
			}
			d.Nodes = append(d.Nodes, node)
		}
	}
	return fmt.Sprintf(`{"postures": {"posture:any": ["node:os NOT SET"]}, "groups": {%s}, "tagOwners": {%s}, "grants": [%s]}`, strings.Join(groups, ","), strings.Join(tags, ","), strings.Join(grants, ",")), d
}

// A view costs by its own rules and peers: with ten times the network around it, the same.
func TestViewDoesNotCostByTheNetwork(t *testing.T) {
	allocs := func(n int) float64 {
		text, d := network(n)
		c := mustCompile(t, mustParse(t, text), d)
		v, _ := c.View("n1x0")
		if len(v.Peers) != 9 || len(v.Rules) != 1 {
			t.Fatalf("%d peers, %d rules", len(v.Peers), len(v.Rules))
		}
		return testing.AllocsPerRun(10, func() { c.View("n1x0") })
	}
	if small, large := allocs(200), allocs(2000); large > small*1.1 {
		t.Errorf("%v allocations in a small network, %v in one ten times larger", small, large)
	}
}

func BenchmarkCompile(b *testing.B) {
	text, d := network(10000)
	p := mustParse(b, text)
	for b.Loop() {
		mustCompile(b, p, d)
	}
}

func BenchmarkView(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			text, d := network(n)
			c := mustCompile(b, mustParse(b, text), d)
			for b.Loop() {
				c.View("n1x0")
			}
		})
	}
}
