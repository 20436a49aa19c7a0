package acl

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tailscale/hujson"
)

// readApp reads text as the app of a grant.
func readApp(t *testing.T, text string) (map[string][]string, *reader) {
	t.Helper()
	v, err := hujson.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{src: newSource([]byte(text)), pol: Deny()}
	return r.app(&v, "grants[0]"), r
}

func TestCapabilitiesAreCarriedInOneForm(t *testing.T) {
	got, r := readApp(t, `{
		"tailscale.com/cap/drive": [{"shares": ["*"], "access": "rw",}, /* and */ {}],
		"example.com/cap/edit": [{"b": 1, "a": {"d": [1, 2], "c": null}}, true, "x", 9007199254740993, 1.50, "\u0041\u00e9<"],
		"example.com/cap/none": [],
	}`)
	if r.found() != 0 {
		t.Fatal(r.failed(r.src))
	}
	want := map[string][]string{
		"tailscale.com/cap/drive": {`{"access":"rw","shares":["*"]}`, `{}`},
		"example.com/cap/edit":    {`{"a":{"c":null,"d":[1,2]},"b":1}`, `true`, `"x"`, `9007199254740993`, `1.50`, `"Aé<"`},
		"example.com/cap/none":    {},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if same, _ := readApp(t, `{"a.b/c":[{"y":2,"x":1}]}`); same["a.b/c"][0] != `{"x":1,"y":2}` {
		t.Errorf("order of members makes a difference: %v", same)
	}
}

func TestCapabilitiesAreBounded(t *testing.T) {
	many := strings.Repeat(fmt.Sprintf(`{"a": %q},`, strings.Repeat("x", 1000)), 66)
	_, r := readApp(t, `{"a.b/c": [`+many+`]}`)
	if err := r.failed(r.src).Error(); !strings.Contains(err, "grants[0].app has 66533 bytes, at most 65536 are carried") {
		t.Error(err)
	}
}
