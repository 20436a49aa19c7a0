package coordinator

import (
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Every field of a node that maps speak of must count, or a peer would keep an old entry for it.
func TestSameNodeKnowsEveryField(t *testing.T) {
	values := map[string]any{
		"ID": acl.NodeID("n"), "Name": "s", "Owner": acl.UserID("u"), "Tags": []string{"tag:t"}, "Addresses": []netip.Addr{{}},
		"Facts": protocol.Facts{OS: "linux"}, "Certificate": []byte{1}, "Next": []byte{1}, "Expires": time.Unix(1, 0), "Expired": true, "Quarantined": true,
		"Routing": Routing{Away: true},
	}
	unsaid := map[string]bool{"Created": true, "Removed": true, "Presence": true} // no map speaks of them
	for i := range reflect.TypeFor[NodeRow]().NumField() {
		f := reflect.TypeFor[NodeRow]().Field(i)
		if unsaid[f.Name] {
			continue
		}
		var a, b NodeRow
		switch v, ok := values[f.Name]; {
		case ok:
			reflect.ValueOf(&b).Elem().Field(i).Set(reflect.ValueOf(v))
		case f.Name == "Device":
			reflect.ValueOf(&b).Elem().Field(i).Index(0).SetUint(1)
		default:
			t.Fatalf("no value for the field %s of %s", f.Name, f.Type)
		}
		if sameNode(&a, &b) {
			t.Errorf("sameNode does not see a change of %s", f.Name)
		}
	}
}

// A world that follows another is the one that is made whole: same maps, and those of strangers to the change are taken over.
func TestFollowedWorldIsTheWholeOne(t *testing.T) {
	c := &Coordinator{config: Config{Salt: []byte("salt"), Overlay4: netip.MustParsePrefix("100.64.0.0/10"), Overlay6: netip.MustParsePrefix("fd70::/48")}}
	c.log = slog.New(slog.NewTextHandler(t.Output(), nil))
	c.policy.init()
	policy := PolicyRow{Generation: 1, Text: []byte(`{"tagOwners": {"tag:web": [], "tag:db": [], "tag:x": []}, "grants": [
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]}, {"src": ["tag:x"], "dst": ["tag:x"], "ip": ["*"]},
		{"src": ["autogroup:admin"], "dst": ["tag:db"], "ip": ["tcp:22"]}]}`)}
	node := func(id, tag string, last byte) NodeRow {
		return NodeRow{ID: acl.NodeID(id), Name: id, Device: key.DevicePublic{last}, Expires: time.Unix(1_800_000_000, 0), Tags: []string{tag}, Certificate: []byte{1}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, last})}}
	}
	before := snapshot{generation: 2, since: whole, policy: &policy, dns: &DNSRow{Domain: DefaultDomain}, nodes: []NodeRow{node("web", "tag:web", 1), node("db", "tag:db", 2), node("x1", "tag:x", 3), node("x2", "tag:x", 4)}}
	laptop := node("laptop", "", 6)
	laptop.Tags, laptop.Owner = nil, "u"
	before.nodes, before.users = append(before.nodes, laptop), []UserRow{{ID: "u", Login: "alice@example.com", Role: RoleMember}}
	old, _ := c.build(before, nil)
	for _, n := range before.nodes {
		c.mapOf(old, n.ID)
	}
	for name, change := range map[string]func(*snapshot){
		"a node joins":          func(s *snapshot) { s.nodes = append(s.nodes, node("web2", "tag:web", 5)) },
		"a node leaves":         func(s *snapshot) { s.nodes = s.nodes[1:] },
		"a node is quarantined": func(s *snapshot) { s.nodes[0].Quarantined = true },
		"a node changes tag":    func(s *snapshot) { s.nodes[0].Tags = []string{"tag:x"} },
		"a node changes name":   func(s *snapshot) { s.nodes[0].Name = "other" },
		"a node's key changes":  func(s *snapshot) { s.nodes[1].Certificate = []byte{2} },
		"a person's role":       func(s *snapshot) { s.users[0].Role = RoleAdmin },
		"a person's login":      func(s *snapshot) { s.users[0].Login = "alice@example.org" },
		"the policy's commit":   func(s *snapshot) { p := policy; p.Generation, p.Commit, s.policy = 3, "0123", &p },
		"a record for a node": func(s *snapshot) {
			s.dns = &DNSRow{Domain: DefaultDomain, DNS: protocol.DNS{Records: []protocol.Record{{Name: "pg.example.com", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, 2})}}}}}
		},
		"the network's domain": func(s *snapshot) { s.dns = &DNSRow{Domain: "example.internal"} },
	} {
		s := before
		s.nodes, s.users = append([]NodeRow(nil), before.nodes...), append([]UserRow(nil), before.users...)
		s.generation++
		change(&s)
		followed, _ := c.build(s, old)
		whole, _ := c.build(s, nil)
		for _, n := range s.nodes {
			got, want := c.mapOf(followed, n.ID), c.mapOf(whole, n.ID)
			if !reflect.DeepEqual(got.digest, want.digest) {
				t.Errorf("%s: the map of %s is another one than that of the whole world", name, n.ID)
			}
		}
		was, _ := old.maps.get("x2")
		if now, _ := followed.maps.get("x2"); (now == was) == (name == "the policy's commit" || name == "a node changes tag" || name == "a record for a node" || name == "the network's domain" || strings.HasPrefix(name, "a person's")) {
			t.Errorf("%s: the map of x2 is taken over: %v", name, now == was)
		}
	}
}
