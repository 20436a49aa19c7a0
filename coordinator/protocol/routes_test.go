package protocol

import (
	"net/netip"
	"strings"
	"testing"
)

func TestCheckRoute(t *testing.T) {
	for text, want := range map[string]string{
		"10.33.0.5/16":        "10.33.0.5/16 has bits beyond its length: write 10.33.0.0/16",
		"0.0.0.0/1":           "wider than a subnet can be",
		"128.0.0.0/1":         "wider than a subnet can be",
		"2000::/3":            "wider than a subnet can be",
		"::/1":                "wider than a subnet can be",
		"127.0.0.0/8":         "it is loopback",
		"127.1.0.0/16":        "it is loopback",
		"169.254.169.254/32":  "it is link-local",
		"224.0.0.0/8":         "it is multicast or reserved",
		"255.255.255.255/32":  "it is multicast or reserved",
		"0.0.0.0/8":           "it is no address at all",
		"::1/128":             "it is loopback or reserved",
		"fe80::/64":           "it is link-local",
		"ff02::/16":           "it is multicast",
		"::ffff:10.0.0.0/104": "this is no network",
		"10.0.0.0/8":          "",
		"192.0.2.7/32":        "",
		"fd00:33::/32":        "",
		"2001:db8::/32":       "",
		"0.0.0.0/0":           "",
		"::/0":                "",
	} {
		err := CheckRoute(netip.MustParsePrefix(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if CheckRoute(netip.Prefix{}) == nil {
		t.Error("the zero prefix is a route")
	}
}
