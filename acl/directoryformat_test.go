package acl

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFormatDirectory(t *testing.T) {
	d := &Directory{
		Users: []User{{ID: "u2", Login: "bob@example.com"}, {ID: "u1", Login: "alice@example.com", Role: "admin"}},
		Nodes: []Node{
			{ID: "web1", Name: "web1", Tags: []string{"tag:web"}, Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.7"), netip.MustParseAddr("fd7a::7")},
				Routes: []netip.Prefix{netip.MustParsePrefix("10.33.0.0/16")}, Attributes: map[string]string{"node:os": "linux", "custom:note": "a<b>\"c\""}},
			{ID: "n42", Name: "laptop", Owner: "u1"},
			{ID: "lost", Name: "lost", Owner: "u9"},
		},
		Overlay: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")},
	}
	want := `{
  "users": [
    {"name":"alice@example.com","role":"admin"},
    {"name":"bob@example.com"}
  ],
  "nodes": [
    {"id":"n42","name":"laptop","user":"alice@example.com"},
    {"name":"lost"},
    {"name":"web1","tags":["tag:web"],"addresses":["100.64.0.7","fd7a::7"],"routes":["10.33.0.0/16"],"attributes":{"custom:note":"a<b>\"c\"","node:os":"linux"}}
  ]
}
`
	got, err := FormatDirectory(d)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if _, err := FormatDirectory(&Directory{Nodes: []Node{{ID: "a", Name: "\xff"}}}); err == nil {
		t.Error("a name that is not UTF-8 was written")
	}
	if got, err := FormatDirectory(&Directory{}); err != nil || string(got) != "{\n  \"users\": [],\n  \"nodes\": []\n}\n" {
		t.Errorf("an empty one: %s, %v", got, err)
	}
}

// sameDirectory reports whether what was written of d is read as d, but for the order.
func sameDirectory(t *testing.T, d *Directory) {
	t.Helper()
	text, err := FormatDirectory(d)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseDirectory(text)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	again, err := FormatDirectory(back)
	if err != nil || string(again) != string(text) {
		t.Errorf("written as\n%s\nand read and written again as\n%s\n%v", text, again, err)
	}
	byName := map[string]Node{}
	for _, n := range d.Nodes {
		byName[n.Name] = n
	}
	for _, n := range back.Nodes {
		if diff := cmp.Diff(byName[n.Name], n, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
			cmp.Comparer(func(a, b map[string]string) bool {
				return len(a) == 0 && len(b) == 0 || cmp.Equal(map[string]string(a), b)
			})); diff != "" {
			t.Errorf("node %q: %s", n.Name, diff)
		}
	}
	if len(back.Users) != len(d.Users) || len(back.Nodes) != len(d.Nodes) {
		t.Errorf("%d users and %d nodes became %d and %d", len(d.Users), len(d.Nodes), len(back.Users), len(back.Nodes))
	}
}

func TestFormatDirectoryIsReadBack(t *testing.T) {
	sameDirectory(t, directory(t, judgedDirectory))
}
