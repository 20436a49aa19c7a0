package dnsfile

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"picket.internal/coordinator/protocol"
)

const example = `{
	"nameservers": ["192.0.2.53", "tls://dns.example@192.0.2.54"], // for everything else
	"split":       {"corp.example": ["10.33.0.53"]},
	"search":      ["corp.example"],
	"records":     {
		"git.corp.example": ["10.33.0.7", "fd00::7"],
		"www.corp.example": "web-1.picket.internal",
	},
}`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := protocol.DNS{
		Nameservers: []protocol.Nameserver{"192.0.2.53", "tls://dns.example@192.0.2.54"},
		Split:       []protocol.Split{{Domain: "corp.example", Nameservers: []protocol.Nameserver{"10.33.0.53"}}},
		Search:      []string{"corp.example"},
		Records: []protocol.Record{
			{Name: "git.corp.example", Addresses: []netip.Addr{netip.MustParseAddr("10.33.0.7"), netip.MustParseAddr("fd00::7")}},
			{Name: "www.corp.example", CNAME: "web-1.picket.internal"},
		},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if got, err := Parse([]byte("{}")); err != nil || !got.IsZero() {
		t.Errorf("an empty file: %v, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"[]":                                  "line 1",
		`{"nameserver": []}`:                  "no such member as /nameserver",
		"{\n\"search\": [],\n\"search\": []}": "line 3, column 1: /search stands here twice",
		`{"split": {"a.example": []}}`:        "no nameserver",
		`{"split": {"a.example": ["192.0.2.1"], "a.example": ["192.0.2.2"]}}`: "twice",
		`{"records": {"a.example": 7}}`:                                       "line 1",
		`{"records": {"a.example": ["x"]}}`:                                   "line 1",
		`{"records": {"A.example": ["10.0.0.1"]}}`:                            "lower case",
		`{"nameservers": ["dns.example"]}`:                                    "no address",
		`{} {}`:                                                               "",
		strings.Repeat(" ", MaxSize) + "{}":                                   "bytes",
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(`{"records": {"a.example": "b.example"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Parse(text)
		if err == nil && d.Check() != nil {
			t.Error("what nodes would refuse is taken")
		}
	})
}
