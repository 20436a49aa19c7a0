package acl

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBadDirectoriesAreRefusedWithTheseErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, "line 1, column 1: syntax error, parsing value: the text ends"},
		{`[]`, "line 1, column 1: the directory must be an object { … }, not a list"},
		{"{\n// nobody\n}", "line 2, column 1: syntax error, a comment or a comma too many: a directory is plain JSON, without comments and trailing commas"},
		{"{}\n/**/", "line 2, column 1: syntax error, a comment or a comma too many: a directory is plain JSON, without comments and trailing commas"},
		{`{"nodes":[],}`, "line 1, column 12: syntax error, a comment or a comma too many: a directory is plain JSON, without comments and trailing commas"},
		{`{"users":[],"users":[]}`, "line 1, column 13: `users` is given twice in the directory, first on line 1: one of the two would be read over; keep one"},
		{`{"Nodes":[]}`, "line 1, column 2: unknown field `Nodes` in the directory: names are case-sensitive, did you mean `nodes`?"},
		{`{"nodes":[{"name":"a","routes":[],"addr":[]}]}`, "line 1, column 35: unknown field `addr` in nodes[0]: known are id, name, user, tags, addresses, routes, attributes"},
		{"{\"nodes\":[{\"name\":\"\xff\"}]}", "line 1, column 20: byte 0xff is not UTF-8: save the file as UTF-8"},
		{`{"nodes":[{"name":"\ud800"}]}`, "line 1, column 19: nodes[0].name has an escape that stands for no character"},
		{strings.Repeat("[", 70), "line 1, column 65: nested more than 64 deep"},
		{`{"users":[{"role":"admin"}]}`, "line 1, column 11: users[0] has no `name`"},
		{`{"users":[{"name":"a b@example.com"}]}`, "line 1, column 19: `a b@example.com` is not the name of a user: users are named by their login, `alice@example.com`, in plain ASCII"},
		{`{"users":[{"name":"odın@example.com"}]}`, "line 1, column 19: `odın@example.com` is not the name of a user: users are named by their login, `alice@example.com`, in plain ASCII"},
		{"{\"users\":[{\"name\":\"a@b\"},\n{\"name\":\"A@b\"}]}", "line 2, column 1: user `a@b` is given twice, first on line 1: logins are read in lower case; keep one"},
		{`{"users":[{"name":"a@b","role":"tagged"}]}`, "line 1, column 32: unknown role `tagged`: known are member, owner, admin, network-admin, it-admin, billing-admin, auditor"},
		{`{"users":[{"name":"a@b","role":"admn"}]}`, "line 1, column 32: unknown role `admn`: did you mean `admin`?"},
		{`{"nodes":[{"addresses":[]}]}`, "line 1, column 11: nodes[0] has no `name`"},
		{`{"nodes":[{"name":"a\u001b[2J"}]}`, "line 1, column 19: `a\\x1b[2J` is not the name of a node: names have 1 to 253 bytes that can be shown"},
		{"{\"nodes\":[{\"name\":\"a\"},\n{\"name\":\"A\"}]}", "line 2, column 1: node `A` is given twice, first on line 1: names are read without regard to case; each node needs its own"},
		{"{\"nodes\":[{\"name\":\"a\"},\n{\"name\":\"b\",\"id\":\"a\"}]}", "line 2, column 1: node `b` has the id of the node on line 1"},
		{`{"nodes":[{"name":"a","id":"A-1"}]}`, "line 1, column 28: `A-1` is not the id of a node: ids are 1 to 64 letters a-z and digits; without one the name serves"},
		{`{"nodes":[{"name":"a","tags":"tag:x"}]}`, "line 1, column 30: nodes[0].tags must be a list [ … ], not a string: put it in brackets"},
		{`{"nodes":[{"name":"a","tags":["x"]}]}`, "line 1, column 31: `x` is not a tag: did you mean `tag:x`?"},
		{`{"nodes":[{"name":"a","tags":["tag:1"]}]}`, "line 1, column 31: `tag:1` is not a tag: tags begin with a letter"},
		{"{\"nodes\":[{\"name\":\"a\",\"addresses\":[\"1.2.3.4\"]},\n{\"name\":\"b\",\"addresses\":[\"1.2.3.4\"]}]}", "line 2, column 26: address `1.2.3.4` is given twice, first on line 1: an address is one node's"},
		{`{"nodes":[{"name":"a","addresses":["1.2.3.04"]}]}`, "line 1, column 36: `1.2.3.04` is not an address"},
		{`{"nodes":[{"name":"a","addresses":["1.2.3.0/24"]}]}`, "line 1, column 36: `1.2.3.0/24` is not an address: did you mean `1.2.3.0`?"},
		{`{"nodes":[{"name":"a","addresses":["::ffff:1.2.3.4"]}]}`, "line 1, column 36: `::ffff:1.2.3.4` is an IPv4 address dressed as IPv6: did you mean `1.2.3.4`?"},
		{`{"nodes":[{"name":"a","addresses":["fe80::1%eth0"]}]}`, "line 1, column 36: `fe80::1%eth0` has a zone: leave the zone out"},
		{`{"nodes":[{"name":"a","addresses":["::"]}]}`, "line 1, column 36: `::` is no node's address"},
		{`{"nodes":[{"name":"a","addresses":[1]}]}`, "line 1, column 36: an element of nodes[0].addresses must be a string, not a number"},
		{`{"nodes":[{"name":"a","routes":["10.1.2.3/8"]}]}`, "line 1, column 33: `10.1.2.3/8` has bits set behind its mask: did you mean `10.0.0.0/8`?"},
		{`{"nodes":[{"name":"a","routes":["::ffff:10.0.0.0/104"]}]}`, "line 1, column 33: `::ffff:10.0.0.0/104` is an IPv4 network dressed as IPv6: did you mean `10.0.0.0/8`?"},
		{`{"nodes":[{"name":"a","routes":["10.1.2.3"]}]}`, "line 1, column 33: `10.1.2.3` is not a network such as `10.33.0.0/16`: did you mean `10.1.2.3/32`?"},
		{`{"nodes":[{"name":"a","attributes":{"node:os":null}}]}`, "line 1, column 47: `node:os` must be a string, a number, true or false, not null"},
		{`{"nodes":[{"name":"a","attributes":{"node:os":"a","node:OS":"b"}}]}`, "line 1, column 51: `node:OS` differs only in case from `node:os`, line 1: names are case-sensitive; two like these are refused because they are mistaken for one another"},
	} {
		d, err := ParseDirectory([]byte(c.text))
		var all Errors
		if !errors.As(err, &all) || d != nil {
			t.Errorf("%s: accepted, or refused without Errors (%v)", c.text, err)
			continue
		}
		if diff := cmp.Diff(c.want, err.Error()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.text, diff)
		}
	}
}

func TestDirectoryIsBounded(t *testing.T) {
	_, err := ParseDirectory([]byte(strings.Repeat(" ", maxDirectoryText+1)))
	if err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("err = %v", err)
	}
}

func TestParseDirectory(t *testing.T) {
	got := directory(t, `{
		"nodes": [
			{"name": "Beedrill", "user": "Odin@Example.com", "tags": ["tag:x", "tag:x"], "addresses": ["100.70.148.109", "fd7a::1"],
			 "routes": ["10.33.0.0/16", "0.0.0.0/0", "10.33.0.0/16"], "attributes": {"node:os": "linux", "custom:managed": true, "custom:score": 3, "custom:tier": ""}},
			{"name": "web-1", "user": "thor@example.com"},
			{"name": "lost", "id": "n42", "user": "", "tags": []}
		],
		"users": [{"name": "odin@example.com", "role": "admin"}]
	}`)
	want := &Directory{
		Users: []User{{ID: "odin@example.com", Login: "odin@example.com", Role: "admin"}, {ID: "thor@example.com", Login: "thor@example.com"}},
		Nodes: []Node{
			{
				ID: "beedrill", Name: "Beedrill", Owner: "odin@example.com", Tags: []string{"tag:x"},
				Addresses:  []netip.Addr{netip.MustParseAddr("100.70.148.109"), netip.MustParseAddr("fd7a::1")},
				Routes:     []netip.Prefix{netip.MustParsePrefix("10.33.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")},
				Attributes: map[string]string{"node:os": "linux", "custom:managed": "true", "custom:score": "3", "custom:tier": ""},
			},
			{ID: "c4719afa", Name: "web-1", Owner: "thor@example.com"},
			{ID: "n42", Name: "lost"},
		},
	}
	got.Nodes[1].ID = got.Nodes[1].ID[:8]
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParseDirectory(f *testing.F) {
	f.Add([]byte(judgedDirectory))
	f.Add([]byte(`{"nodes":[{"name":"a","id":"b","routes":["::/0"],"attributes":{"a:b":-1.5}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDirectory(text)
		if err != nil {
			var all Errors
			if !errors.As(err, &all) || len(all) == 0 || d != nil {
				t.Fatalf("refused without Errors: %v", err)
			}
			return
		}
		sameDirectory(t, d)
		ids, addresses := map[NodeID]bool{}, map[netip.Addr]bool{}
		for _, n := range d.Nodes {
			if !plainID(string(n.ID)) || ids[n.ID] || n.Name == "" {
				t.Errorf("node %q has id %q", n.Name, n.ID)
			}
			ids[n.ID] = true
			for _, a := range n.Addresses {
				if !plainAddr(a) || addresses[a] {
					t.Errorf("node %q has address %v", n.Name, a)
				}
				addresses[a] = true
			}
			for _, p := range n.Routes {
				if !plainPrefix(p) {
					t.Errorf("node %q has route %v", n.Name, p)
				}
			}
			for _, tag := range n.Tags {
				if !strings.HasPrefix(tag, "tag:") {
					t.Errorf("node %q has tag %q", n.Name, tag)
				}
			}
		}
	})
}
