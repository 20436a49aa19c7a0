package localapi

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"picket.internal/acl"
)

func TestParseSelectionRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"tcp":                        `does not understand "tcp": it understands peer NAME, host`,
		"and in":                     `does not understand "and"`,
		"in and":                     "ends in and",
		"in and and out":             `does not understand "and"`,
		"peer a or peer b":           `does not understand "or"`,
		"peer":                       "ends in peer: what follows? It understands",
		"peer a and host":            "ends in host",
		"peer a peer b":              "says peer twice",
		"in and out":                 "says in or out twice",
		"host web-1":                 "is no address: write host 100.64.0.7",
		"host fe80::1%eth0":          "is no address",
		"host 10.1.2.3/8":            "has bits beyond its length: write host 10.0.0.0/8",
		"host 10.0.0.0/33":           "is no network",
		"host ::ffff:10.0.0.0/104":   "is no network",
		"port http":                  "is no port: write a number",
		"port 0":                     "is no port",
		"port 080":                   "is no port",
		"port +80":                   "is no port",
		"port 65536":                 "is no port",
		"port 1-2-3":                 "is no port",
		"port 90-80":                 "ends before it begins: write port 80-90",
		"proto tcp/ip":               "is no protocol",
		"proto 256":                  "is no protocol",
		strings.Repeat("x", 100_000): `does not understand "xxxx`,
	} {
		s, err := ParseSelection([]string{text})
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 400 {
			t.Errorf("%.60q: %+v, %v; want %q", text, s, err, want)
		}
	}
}

func TestParseSelection(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "",
		"peer web-1 port 443":               "peer web-1 and port 443",
		"in and proto icmp and host fd7a::": "host fd7a:: and proto icmp and in",
		"host 10.0.0.0/8 out port 80-90":    "host 10.0.0.0/8 and port 80-90 and out",
		"host ::ffff:10.0.0.1":              "host 10.0.0.1",
		"proto 47":                          "proto gre",
		"peer in and in":                    "peer in and in",
	} {
		s, err := ParseSelection(strings.SplitAfter(text, " "))
		if err != nil || s.String() != want || s.Check() != nil {
			t.Errorf("%q: %q, %v; want %q", text, s, err, want)
		}
		again, err := ParseSelection([]string{s.String()})
		if err != nil || again != s {
			t.Errorf("%q was read as %+v, %v; want %+v", s, again, err, s)
		}
		wire, _ := json.Marshal(s)
		var sent Selection
		if err := json.Unmarshal(wire, &sent); err != nil || sent != s {
			t.Errorf("%s: %+v, %v", wire, sent, err)
		}
	}
}

func TestSelectionFits(t *testing.T) {
	web := Traits{Local: netip.MustParseAddr("100.64.0.1"), Remote: netip.MustParseAddr("10.2.0.9"), LocalPort: 40000, RemotePort: 443, Proto: acl.TCP, Out: true}
	ping := Traits{Local: netip.MustParseAddr("fd7a::1"), Remote: netip.MustParseAddr("fd7a::2"), Proto: acl.ICMPv6}
	for _, tt := range []struct {
		text      string
		web, ping bool
	}{
		{"", true, true},
		{"out", true, false},
		{"in", false, true},
		{"port 443", true, false},
		{"port 1-65535", true, false},
		{"port 40000", true, false},
		{"port 444", false, false},
		{"proto icmp", false, true},
		{"proto icmpv6", false, true},
		{"proto tcp", true, false},
		{"host 10.0.0.0/8", true, false},
		{"host 100.64.0.1", true, false},
		{"host fd7a::/16", false, true},
		{"host 10.0.0.0/8 and in", false, false},
	} {
		s, err := ParseSelection([]string{tt.text})
		if err != nil {
			t.Fatal(err)
		}
		if s.Fits(&web) != tt.web || s.Fits(&ping) != tt.ping {
			t.Errorf("%q: web %v, ping %v", tt.text, s.Fits(&web), s.Fits(&ping))
		}
		if s != (Selection{}) && tt.text != "in" && s.Fits(&Traits{}) {
			t.Errorf("%q fits what cannot be read", tt.text)
		}
	}
}

func TestSelectionCheckRefuses(t *testing.T) {
	for _, s := range []Selection{{First: 2, Last: 1}, {Last: 1}, {First: 1}, {Way: "up"}, {Host: netip.MustParsePrefix("10.1.0.0/8")}} {
		if s.Check() == nil {
			t.Errorf("%+v was let through", s)
		}
	}
}

func FuzzParseSelection(f *testing.F) {
	f.Add("peer web-1 and port 80-90 and host 10.0.0.0/8 and proto tcp and in")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelection([]string{text})
		if err != nil {
			return
		}
		if err := s.Check(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if again, err := ParseSelection([]string{s.String()}); err != nil || again != s {
			t.Fatalf("%q: %q: %+v, %v", text, s, again, err)
		}
	})
}
