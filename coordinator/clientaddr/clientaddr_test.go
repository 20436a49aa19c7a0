package clientaddr

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// TestForwardedOnlyFromProxies is R25: a header counts for what a configured proxy says in it and for nothing else.
func TestForwardedOnlyFromProxies(t *testing.T) {
	proxies := Proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, c := range map[string]struct {
		remote    string
		forwarded []string
		want      string
	}{
		"a stranger's header is ignored":               {"192.0.2.1:1234", []string{"198.51.100.7"}, "192.0.2.1:1234"},
		"a stranger claiming to be a proxy":            {"192.0.2.1:1234", []string{"10.0.0.1"}, "192.0.2.1:1234"},
		"what the client wrote before its own address": {"10.0.0.1:5", []string{"203.0.113.9, 192.0.2.1"}, "192.0.2.1:0"},
		"what the client wrote in a header of its own": {"10.0.0.1:5", []string{"203.0.113.9", "192.0.2.1"}, "192.0.2.1:0"},
		"two proxies in a row":                         {"10.0.0.1:5", []string{"203.0.113.9, 192.0.2.1, 10.9.9.9"}, "192.0.2.1:0"},
		"a client among the proxies' own addresses":    {"10.0.0.1:5", []string{"10.1.1.1, 10.2.2.2"}, "10.1.1.1:0"},
		"rubbish ends the search at who passed it on":  {"10.0.0.1:5", []string{"192.0.2.1, unknown"}, "10.0.0.1:5"},
		"rubbish before a proxy ends it there":         {"10.0.0.1:5", []string{"192.0.2.1, _hidden, 10.2.2.2"}, "10.2.2.2:0"},
		"a proxy without the header":                   {"10.0.0.1:5", nil, "10.0.0.1:5"},
		"more hops than are looked at":                 {"10.0.0.1:5", []string{"192.0.2.1" + strings.Repeat(",10.2.2.2", 40)}, "10.2.2.2:0"},
		"a mapped peer is its IPv4 self":               {"[::ffff:10.0.0.1]:5", []string{"192.0.2.1"}, "192.0.2.1:0"},
		"a mapped client is its IPv4 self":             {"10.0.0.1:5", []string{"::ffff:192.0.2.1"}, "192.0.2.1:0"},
		"a client with a port":                         {"[fd00::1]:5", []string{"[2001:db8::1]:99"}, "[2001:db8::1]:0"},
		"a link-local peer without its zone":           {"[fe80::1%eth0]:5", nil, "[fe80::1]:5"},
		"a server that gives no address":               {"@", []string{"192.0.2.1"}, "invalid AddrPort"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.forwarded, "X-Real-Ip": {"203.0.113.1"}, "Forwarded": {"for=203.0.113.1"}}}
			if got := proxies.Of(r).String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestNoProxiesNoHeader(t *testing.T) {
	r := &http.Request{RemoteAddr: "127.0.0.1:5", Header: http.Header{"X-Forwarded-For": {"192.0.2.1"}}}
	if got := Proxies(nil).Of(r).String(); got != "127.0.0.1:5" {
		t.Errorf("a header counted without any proxy configured: %s", got)
	}
}

func TestBlock(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":               "192.0.2.1/32",
		"::ffff:192.0.2.1":        "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6":    "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:3::1":         "2001:db8:1:3::/64",
		"fe80::1%eth0":            "fe80::/64",
	} {
		if got := Block(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("Block(%s) = %s, want %s", in, got, want)
		}
	}
	if got := Block(netip.Addr{}); got.IsValid() {
		t.Errorf("no address has the block %s", got)
	}
}
