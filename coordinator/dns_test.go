package coordinator

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// TestDNSTellsOfNoStranger: a record or nameserver at another node's address, and a name that stands for another node, are told to that node's
// peers alone (R30).
func TestDNSTellsOfNoStranger(t *testing.T) {
	addrs := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	compare := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	w := &world{dns: &DNSRow{Domain: "corp.internal", DNS: protocol.DNS{
		Nameservers: []protocol.Nameserver{"192.0.2.1", "100.64.0.66"},
		Split:       []protocol.Split{{Domain: "hidden.example", Nameservers: []protocol.Nameserver{"100.64.0.66"}}},
		Search:      []string{"example.com"},
		Records: []protocol.Record{
			{Name: "lan.example.com", Addresses: addrs("10.0.0.5")},
			{Name: "both.example.com", Addresses: addrs("100.64.0.2", "100.64.0.66", "fd70::66")},
			{Name: "secret.example.com", Addresses: addrs("100.64.0.66")},
			{Name: "db.example.com", CNAME: "db.corp.internal"},
			{Name: "alias.example.com", CNAME: "secret.corp.internal"},
			{Name: "second.corp.internal", CNAME: "secret.corp.internal"},
			{Name: "third.example.com", CNAME: "second.corp.internal"},
			{Name: "out.example.com", CNAME: "www.example.org"},
		},
	}}}
	content := protocol.Content{
		Self:  protocol.Self{Name: "me", Subject: acl.Subject{Addresses: addrs("100.64.0.1")}},
		Peers: []protocol.Peer{{Name: "db", Subject: acl.Subject{Addresses: addrs("100.64.0.2")}}},
	}
	overlay := []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd70::/48")}
	want := protocol.DNS{
		Nameservers: []protocol.Nameserver{"192.0.2.1"},
		Split:       []protocol.Split{{Domain: "hidden.example"}},
		Search:      []string{"example.com"},
		Records: []protocol.Record{
			{Name: "lan.example.com", Addresses: addrs("10.0.0.5")},
			{Name: "both.example.com", Addresses: addrs("100.64.0.2")},
			{Name: "db.example.com", CNAME: "db.corp.internal"},
			{Name: "out.example.com", CNAME: "www.example.org"},
		},
	}
	if d := cmp.Diff(want, w.dnsFor(&content, overlay), compare); d != "" {
		t.Error(d)
	}
	if len(w.dns.Records[1].Addresses) != 3 {
		t.Error("making one node's map changed what others are told")
	}
}

func TestCheckDNS(t *testing.T) {
	for what, d := range map[string]protocol.DNS{
		"a split domain that is the network's":    {Split: []protocol.Split{{Domain: "corp.internal"}}},
		"a split domain below the network's":      {Split: []protocol.Split{{Domain: "a.corp.internal"}}},
		"a split domain that holds the network's": {Split: []protocol.Split{{Domain: "internal"}}},
		"a record that is the network's domain":   {Records: []protocol.Record{{Name: "corp.internal", CNAME: "a.example"}}},
		"a nameserver that has no address":        {Nameservers: []protocol.Nameserver{"dns.example"}},
	} {
		if checkDNS(d, "corp.internal") == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if err := checkDNS(protocol.DNS{Records: []protocol.Record{{Name: "a.corp.internal", CNAME: "b.corp.internal"}}}, "corp.internal"); err != nil {
		t.Error(err)
	}
}
