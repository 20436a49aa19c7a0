package acl

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/tailscale/hujson"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

var testSalt = []byte("a salt for tests")

// mustParse is a policy that the test knows to be right.
func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return p
}

func mustCompile(t testing.TB, p *Policy, d *Directory) *Compiled {
	t.Helper()
	c, err := Compile(p, d, testSalt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mustDirectory reads {"users": [{"name": LOGIN, "role"}], "nodes": [{"name", "user": LOGIN, "tags", "addresses", "routes", "attributes"}],
// "overlay": [RANGE]}. A node's id is "n" and its place; a user's id "u" and its place, so that equal logins are different users. An unknown
// user's id is nobody's.
func mustDirectory(t testing.TB, text string) *Directory {
	t.Helper()
	std, err := hujson.Standardize([]byte(text))
	if err != nil {
		t.Fatalf("directory: %v", err)
	}
	var in struct {
		Users   []struct{ Name, Role string }
		Overlay []netip.Prefix
		Nodes   []struct {
			Name, User string
			Tags       []string
			Addresses  []netip.Addr
			Routes     []netip.Prefix
			Attributes map[string]string
		}
	}
	if err := json.Unmarshal(std, &in); err != nil {
		t.Fatalf("directory: %v", err)
	}
	d := &Directory{Overlay: in.Overlay}
	ids := map[string]UserID{"": ""}
	for i, u := range in.Users {
		ids[u.Name] = UserID(fmt.Sprintf("u%d", i))
		d.Users = append(d.Users, User{ID: ids[u.Name], Login: u.Name, Role: u.Role})
	}
	for i, n := range in.Nodes {
		owner, known := ids[n.User]
		if !known {
			owner = "gone"
		}
		d.Nodes = append(d.Nodes, Node{
			ID: NodeID(fmt.Sprintf("n%d", i)), Name: n.Name, Owner: owner, Tags: n.Tags, Addresses: n.Addresses, Routes: n.Routes, Attributes: n.Attributes,
		})
	}
	return d
}
