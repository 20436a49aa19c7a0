package protocol

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNameserver(t *testing.T) {
	for text, want := range map[Nameserver]Upstream{
		"192.0.2.1":                               {TransportPlain, "", netip.MustParseAddrPort("192.0.2.1:53"), ""},
		"192.0.2.1:5353":                          {TransportPlain, "", netip.MustParseAddrPort("192.0.2.1:5353"), ""},
		"2001:db8::1":                             {TransportPlain, "", netip.MustParseAddrPort("[2001:db8::1]:53"), ""},
		"tls://192.0.2.1":                         {TransportTLS, "", netip.MustParseAddrPort("192.0.2.1:853"), ""},
		"tls://dns.example@[2001:db8::1]:8853":    {TransportTLS, "dns.example", netip.MustParseAddrPort("[2001:db8::1]:8853"), ""},
		"https://dns.example@192.0.2.1/dns-query": {TransportHTTPS, "dns.example", netip.MustParseAddrPort("192.0.2.1:443"), "/dns-query"},
	} {
		got, err := text.Parse()
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || d != "" {
			t.Errorf("%s: %v %s", text, err, d)
		}
	}
	for _, text := range []Nameserver{
		"", "dns.example", "192.0.2.1:0", "192.0.2.1/24", "127.0.0.1", "::1", "0.0.0.0", "224.0.0.251", "169.254.169.254", "fe80::1%eth0", "::ffff:192.0.2.1",
		"udp://192.0.2.1", "tls://dns.example", "tls://dns.example@127.0.0.1", "tls://a:b@192.0.2.1", "tls://192.0.2.1/x", "tls://-x-@192.0.2.1",
		"https://192.0.2.1", "https://192.0.2.1/a?b", "https://192.0.2.1/a#b", "https://192.0.2.1/a b", "https://192.0.2.1/%0a", "http://192.0.2.1/dns-query",
		"192.0.2.1\nnameserver 6.6.6.6", Nameserver(strings.Repeat("1", 2000)),
	} {
		if u, err := text.Parse(); err == nil {
			t.Errorf("%q is taken for %v", text, u)
		}
	}
}

func TestNetworkDomain(t *testing.T) {
	for _, s := range []string{"picket.internal", "a.b.c", "corp.example.com", "1a.internal"} {
		if err := CheckNetworkDomain(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{
		"", "com", "a.", ".a.b", "a..b", "A.internal", "-a.internal", "a_b.internal", "a.local", "a.localhost", "10.in-addr.arpa", "x.onion", "a.1",
		"a.b\nnameserver 6.6.6.6", "a b.c", strings.Repeat("a.", 100) + "b", strings.Repeat("a", 64) + ".b",
	} {
		if CheckNetworkDomain(s) == nil {
			t.Errorf("%q is taken for a network's domain", s)
		}
	}
}

func TestDNSRefused(t *testing.T) {
	addr := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	for what, d := range map[string]DNS{
		"too many nameservers":            {Nameservers: make([]Nameserver, MaxNameservers+1)},
		"too many split domains":          {Split: make([]Split, MaxSplits+1)},
		"too many search domains":         {Search: make([]string, MaxSearch+1)},
		"too many records":                {Records: make([]Record, MaxRecords+1)},
		"a split domain twice":            {Split: []Split{{Domain: "a.example"}, {Domain: "a.example"}}},
		"a split domain of no labels":     {Split: []Split{{Domain: "a b"}}},
		"a search domain of addresses":    {Search: []string{"10.in-addr.arpa"}},
		"a search domain with a line end": {Search: []string{"a.example\nb"}},
		"a record of one label":           {Records: []Record{{Name: "a", Addresses: addr}}},
		"a record in capitals":            {Records: []Record{{Name: "A.example", Addresses: addr}}},
		"a record for everything":         {Records: []Record{{Name: "*.example", Addresses: addr}}},
		"a record for WPAD":               {Records: []Record{{Name: "wpad.example", Addresses: addr}}},
		"a record without anything":       {Records: []Record{{Name: "a.example"}}},
		"a record with both":              {Records: []Record{{Name: "a.example", Addresses: addr, CNAME: "b.example"}}},
		"a record for itself":             {Records: []Record{{Name: "a.example", CNAME: "a.example"}}},
		"a record on loopback":            {Records: []Record{{Name: "a.example", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}},
		"a record twice":                  {Records: []Record{{Name: "a.example", Addresses: addr}, {Name: "a.example", CNAME: "b.example"}}},
	} {
		if d.Check() == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

// TestDNSEntryThatCannotBeReadSaysNothing: the map it is in is used all the same, because it may take something away.
func TestDNSEntryThatCannotBeReadSaysNothing(t *testing.T) {
	c := testContent()
	c.DNS = DNS{Search: []string{"example.com"}}
	e, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(e); err != nil || len(got.DNS.Search) != 1 {
		t.Fatalf("%v, %v", got.DNS, err)
	}
	for _, bad := range []string{`{"search":["-"]}`, `{"nameservers":["quic://192.0.2.1"]}`, `[]`, `{`} {
		e["dns"] = []byte(bad)
		got, err := Decode(e)
		if err != nil || !got.DNS.IsZero() || len(got.Skipped) != 1 || len(got.Peers) != len(c.Peers) {
			t.Errorf("%s: %v, %v, %v", bad, got.DNS, got.Skipped, err)
		}
	}
	c.DNS.Search = []string{"-"}
	if _, err := c.Encode(); err == nil {
		t.Error("the coordinator sends what nodes cannot read")
	}
	c.DNS, c.Network.Domain = DNS{}, "com"
	if _, err := c.Encode(); err == nil {
		t.Error("the coordinator takes a top-level domain from nodes")
	}
}
