package dns

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

func addresses(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func peer(id, name string, a ...string) protocol.Peer {
	return protocol.Peer{Subject: acl.Subject{Node: acl.NodeID(id), Addresses: addresses(a...)}, Name: name}
}

// content is a map of the node "me" with two peers and some records.
func content() protocol.Content {
	return protocol.Content{
		Self:    protocol.Self{Name: "me", Subject: acl.Subject{Node: "n0", Addresses: addresses("100.64.0.1", "fd70::1")}},
		Network: protocol.Network{Domain: "corp.internal", Overlay: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd70::/48")}},
		Peers:   []protocol.Peer{peer("n1", "db", "100.64.0.2", "fd70::2"), peer("n2", "refused", "100.64.0.3")},
		DNS: protocol.DNS{Records: []protocol.Record{
			{Name: "pg.example.net", CNAME: "db.corp.internal"},
			{Name: "a.b.corp.internal", Addresses: addresses("10.0.0.9")},
			{Name: "db.corp.internal", Addresses: addresses("10.0.0.8")},
			{Name: "loop1.example.net", CNAME: "loop2.example.net"},
			{Name: "loop2.example.net", CNAME: "loop1.example.net"},
			{Name: "dead.example.net", CNAME: "nosuch.corp.internal"},
		}},
	}
}

func zone() *Zone {
	return NewZone(content(), func(id acl.NodeID) bool { return id != "n2" }, 7)
}

// asked is a resolver's answer in short: code, records without their times, and what heads a no.
func asked(t *testing.T, r *Resolver, name string, qtype uint16) string {
	t.Helper()
	q := new(mdns.Msg)
	q.SetQuestion(name, qtype)
	a := r.Exchange(t.Context(), q)
	out := []string{mdns.RcodeToString[a.Msg.Rcode]}
	for _, rr := range slices.Concat(a.Msg.Answer, a.Msg.Ns) {
		fields := strings.Fields(rr.String())
		out = append(out, strings.Join(append([]string{fields[0]}, fields[3:min(5, len(fields))]...), " "))
	}
	return strings.Join(out, ", ")
}

// nobody is a resolver elsewhere that must not be asked.
func nobody(t *testing.T) Dial {
	return dialFunc(func(string, netip.AddrPort) { t.Error("a resolver elsewhere was asked") })
}

func TestZone(t *testing.T) {
	r := NewResolver(nobody(t))
	c := content()
	c.DNS.Nameservers = []protocol.Nameserver{"192.0.2.1"}
	r.SetZone(zone(), c.DNS)
	const no = "corp.internal. SOA corp.internal."
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"db.corp.internal.", mdns.TypeA, "NOERROR, db.corp.internal. A 100.64.0.2"},
		{"db.corp.internal.", mdns.TypeAAAA, "NOERROR, db.corp.internal. AAAA fd70::2"},
		{"DB.Corp.Internal.", mdns.TypeA, "NOERROR, DB.Corp.Internal. A 100.64.0.2"},
		{"db.", mdns.TypeA, "NOERROR, db. A 100.64.0.2"},
		{"me.corp.internal.", mdns.TypeA, "NOERROR, me.corp.internal. A 100.64.0.1"},
		{"db.corp.internal.", mdns.TypeMX, "NOERROR, " + no},
		{"corp.internal.", mdns.TypeSOA, "NOERROR, " + no},
		{"corp.internal.", mdns.TypeA, "NOERROR, " + no},
		{"b.corp.internal.", mdns.TypeA, "NOERROR, " + no},
		{"a.b.corp.internal.", mdns.TypeA, "NOERROR, a.b.corp.internal. A 10.0.0.9"},
		{"refused.corp.internal.", mdns.TypeA, "NXDOMAIN, " + no},
		{"nosuch.corp.internal.", mdns.TypeA, "NXDOMAIN, " + no},
		{"x.db.corp.internal.", mdns.TypeA, "NXDOMAIN, " + no},
		{"refused.", mdns.TypeA, "NXDOMAIN"},
		{"nosuch.", mdns.TypeA, "NXDOMAIN"},
		{"2.0.64.100.in-addr.arpa.", mdns.TypePTR, "NOERROR, 2.0.64.100.in-addr.arpa. PTR db.corp.internal."},
		{reverseName(netip.MustParseAddr("fd70::2")), mdns.TypePTR, "NOERROR, " + reverseName(netip.MustParseAddr("fd70::2")) + " PTR db.corp.internal."},
		{"3.0.64.100.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN, " + no},
		{"4.0.64.100.in-addr.arpa.", mdns.TypePTR, "NXDOMAIN, " + no},
		{"2.0.64.100.in-addr.arpa.", mdns.TypeA, "NOERROR, " + no},
		{"pg.example.net.", mdns.TypeA, "NOERROR, pg.example.net. CNAME db.corp.internal., db.corp.internal. A 100.64.0.2"},
		{"pg.example.net.", mdns.TypeCNAME, "NOERROR, pg.example.net. CNAME db.corp.internal."},
		{"dead.example.net.", mdns.TypeA, "NXDOMAIN, dead.example.net. CNAME nosuch.corp.internal., " + no},
		{"loop1.example.net.", mdns.TypeA, "SERVFAIL"},
		{"printer.local.", mdns.TypeA, "NXDOMAIN"},
		{"x.onion.", mdns.TypeA, "NXDOMAIN"},
		{"db.corp.internal.", mdns.TypeAXFR, "REFUSED"},
	} {
		if got := asked(t, r, c.name, c.qtype); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, mdns.TypeToString[c.qtype], got, c.want)
		}
	}
}

// TestZoneNames: names that the coordinator should never have let through are in no zone (R20).
func TestZoneNames(t *testing.T) {
	c := content()
	c.DNS = protocol.DNS{}
	c.Peers = []protocol.Peer{
		peer("n1", "wpad", "100.64.0.2"), peer("n2", "isatap", "100.64.0.3"), peer("n3", "localhost", "100.64.0.4"), peer("n4", "a.b", "100.64.0.5"),
		peer("n5", "a\nnameserver", "100.64.0.6"), peer("n6", "twin", "100.64.0.7"), peer("n7", "twin", "100.64.0.8"), peer("n8", "", "100.64.0.9"),
	}
	z := NewZone(c, func(acl.NodeID) bool { return true }, 1)
	if len(z.names) != 1 || len(z.reverse) != 2 {
		t.Errorf("%v, %v: there should be this node alone", z.names, z.reverse)
	}
	for _, domain := range []string{"", "com", "a b.c", "x.local"} {
		c.Network.Domain = domain
		if z := NewZone(c, func(acl.NodeID) bool { return true }, 1); z.domain != "" || len(z.names) > 0 {
			t.Errorf("%q is taken for a network's domain", domain)
		}
	}
}

func TestReverseDomains(t *testing.T) {
	for text, want := range map[string][]string{
		"10.0.0.0/8":   {"10.in-addr.arpa"},
		"10.32.0.0/11": nil,
		"192.0.2.0/24": {"2.0.192.in-addr.arpa"},
		"192.0.2.4/30": {"4.2.0.192.in-addr.arpa", "5.2.0.192.in-addr.arpa", "6.2.0.192.in-addr.arpa", "7.2.0.192.in-addr.arpa"},
		"fd70::/16":    {"0.7.d.f.ip6.arpa"},
		"fd70::/15":    {"0.7.d.f.ip6.arpa", "1.7.d.f.ip6.arpa"},
	} {
		got := reverseDomains(netip.MustParsePrefix(text))
		if want == nil {
			if len(got) != 32 || got[0] != "32.10.in-addr.arpa" || got[31] != "63.10.in-addr.arpa" {
				t.Errorf("%s: %v", text, got)
			}
			continue
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if got := reverseDomains(netip.MustParsePrefix("100.64.0.0/10")); len(got) != 64 || got[0] != "64.100.in-addr.arpa" {
		t.Errorf("%d: %v", len(got), got)
	}
}

func TestReverseAddress(t *testing.T) {
	for _, a := range addresses("100.64.0.2", "fd70::2", "2001:db8:1:2:3:4:5:6") {
		got, ok := reverseAddress(strings.TrimSuffix(reverseName(a), "."))
		if !ok || got != a {
			t.Errorf("%s: %s %v", a, got, ok)
		}
	}
	for _, bad := range []string{"", "64.100.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "256.0.64.100.in-addr.arpa", "x.ip6.arpa", strings.Repeat("x.", 31) + "x.ip6.arpa", strings.Repeat("..", 31) + "..ip6.arpa", strings.Repeat("1:", 31) + "1.ip6.arpa"} {
		if a, ok := reverseAddress(bad); ok {
			t.Errorf("%q is taken for %s", bad, a)
		}
	}
}

func TestHostSettingsAreBounded(t *testing.T) {
	c := content()
	for i := range 300 {
		c.DNS.Records = append(c.DNS.Records, protocol.Record{Name: "r" + string(rune('a'+i%26)) + strings.Repeat("x", i/26+1) + ".example.net", Addresses: addresses("10.0.0.1")})
	}
	r := NewResolver(nobody(t))
	r.SetZone(zone(), content().DNS)
	s := r.state.Load().hostSettings("picket0")
	if s.All || s.Match[0] != "corp.internal" || !slices.Contains(s.Match, "pg.example.net") || !slices.Contains(s.Match, "64.100.in-addr.arpa") || !slices.Equal(s.Search, []string{"corp.internal"}) {
		t.Errorf("%+v", s)
	}
	r.SetZone(NewZone(c, func(acl.NodeID) bool { return true }, 8), c.DNS)
	if s := r.state.Load().hostSettings("picket0"); !s.All || len(s.Match) > maxMatch {
		t.Errorf("what is too much for the host is not asked here: %+v", s)
	}
}

// FuzzAnswer holds the server to answer questions alone, and each to the question asked, whatever comes.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"db.corp.internal.", "2.0.64.100.in-addr.arpa.", "pg.example.net.", "."} {
		q := new(mdns.Msg)
		q.SetQuestion(name, mdns.TypeA)
		q.SetEdns0(1232, true)
		packed, _ := q.Pack()
		f.Add(packed, true)
		f.Add(packed[:len(packed)-3], false)
	}
	r := NewResolver(func(context.Context, string, netip.AddrPort) (c netConn, err error) { return nil, errNoAnswer })
	r.SetZone(zone(), content().DNS)
	s := &server{resolver: r}
	f.Fuzz(func(t *testing.T, packet []byte, udp bool) {
		out := s.answer(t.Context(), packet, udp)
		if out == nil {
			return
		}
		if len(packet) < 12 || packet[2]&0x80 != 0 {
			t.Fatal("what is no question is answered")
		}
		if udp && len(out) > ednsSize {
			t.Fatalf("%d bytes", len(out))
		}
		got := new(mdns.Msg)
		if err := got.Unpack(out); err != nil {
			t.Fatalf("an answer that cannot be read: %v", err)
		}
		if !got.Response || out[0] != packet[0] || out[1] != packet[1] {
			t.Fatal("an answer to another question")
		}
	})
}
