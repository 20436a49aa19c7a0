package dns

import (
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// Times to live, in seconds. What does not exist is remembered for a shorter time, because a grant may bring it at any moment.
const (
	nameTTL    = 60
	missingTTL = 5
)

// Zone is what this node answers by itself. It is never changed. Names are whole, in lower case, without a dot at the end.
type Zone struct {
	domain  string // empty: nodes have no names
	overlay []netip.Prefix
	serial  uint32
	names   map[string]entry
	between map[string]bool // what has no records, but names below it (RFC 8020)
	reverse map[netip.Addr]string
}

// entry is what a name stands for: addresses, or another name.
type entry struct {
	addresses []netip.Addr
	cname     string
	from      string // whose it is, for people
}

// NewZone makes the zone of a map: its own node, the peers that used accepts, and the operator's records. The coordinator checked the names;
// here they are checked again (R20). A name that two nodes have stands for neither.
func NewZone(c protocol.Content, used func(acl.NodeID) bool, generation uint64) *Zone {
	z := &Zone{
		overlay: c.Network.Overlay, serial: uint32(generation), names: make(map[string]entry), between: make(map[string]bool),
		reverse: make(map[netip.Addr]string),
	}
	if protocol.CheckNetworkDomain(c.Network.Domain) == nil {
		z.domain = c.Network.Domain
		z.addNodes(c, used)
	}
	for _, r := range c.DNS.Records {
		if _, taken := z.names[r.Name]; !taken && r.Name != z.domain {
			z.names[r.Name] = entry{addresses: r.Addresses, cname: r.CNAME, from: "a record of the network's operator"}
		}
	}
	for name := range z.names {
		for rest := parent(name); rest != "" && rest != z.domain && !z.between[rest]; rest = parent(rest) {
			z.between[rest] = under(rest, z.domain)
		}
	}
	return z
}

func (z *Zone) addNodes(c protocol.Content, used func(acl.NodeID) bool) {
	twice := make(map[string]bool)
	add := func(label, from string, addresses []netip.Addr) {
		name := label + "." + z.domain
		if _, taken := z.names[name]; taken || protocol.CheckName(label) != nil || protocol.ReservedName(label) {
			twice[name] = taken || twice[name]
			return
		}
		z.names[name] = entry{addresses: addresses, from: from}
		for _, a := range addresses {
			z.reverse[a] = name
		}
	}
	add(c.Self.Name, "this node", c.Self.Addresses)
	for _, p := range c.Peers {
		if used(p.Node) {
			add(p.Name, "the peer "+p.Name, p.Addresses)
		}
	}
	for name, really := range twice {
		if really {
			for _, a := range z.names[name].addresses {
				delete(z.reverse, a)
			}
			delete(z.names, name)
		}
	}
}

// Domain is what nodes' names stand under; empty when they have none.
func (z *Zone) Domain() string { return z.domain }

// parent is name without its first label; "" for a single one.
func parent(name string) string {
	_, rest, _ := strings.Cut(name, ".")
	return rest
}

// under reports whether name is domain, or below it. Nothing is under no domain.
func under(name, domain string) bool {
	return domain != "" && (name == domain || strings.HasSuffix(name, "."+domain))
}

// holds reports whether a is an address of the overlay, in whichever form.
func (z *Zone) holds(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(z.overlay, func(p netip.Prefix) bool { return p.Contains(a) })
}

// lookup answers a question about what is this node's to answer. ok is false when it is not. A name that stands for another comes back with
// that name, which the caller follows.
func (z *Zone) lookup(name string, qtype uint16) (a local, ok bool) {
	if addr, isReverse := reverseAddress(name); isReverse && z.holds(addr) {
		return z.pointer(addr, qtype), true
	}
	e, found := z.names[name]
	if !found && z.domain != "" && name != "" && !strings.Contains(name, ".") {
		e, found = z.names[name+"."+z.domain]
	}
	switch {
	case found:
		return e.answer(name, qtype), true
	case name == z.domain && name != "":
		a = local{from: "this node's map"}
		if qtype == mdns.TypeSOA || qtype == mdns.TypeANY {
			a.records = []mdns.RR{z.soa(nameTTL)}
		}
		return a, true
	case under(name, z.domain):
		return local{missing: !z.between[name], from: "this node's map"}, true
	}
	return local{}, false
}

// local is an answer of the zone. Without records and cname it says that there is nothing of that type or, if missing, no such name.
type local struct {
	records []mdns.RR
	cname   string
	missing bool
	from    string
}

func (e entry) answer(name string, qtype uint16) local {
	a := local{from: e.from}
	header := func(t uint16) mdns.RR_Header {
		return mdns.RR_Header{Name: mdns.Fqdn(name), Rrtype: t, Class: mdns.ClassINET, Ttl: nameTTL}
	}
	if e.cname != "" {
		a.records = []mdns.RR{&mdns.CNAME{Hdr: header(mdns.TypeCNAME), Target: mdns.Fqdn(e.cname)}}
		if qtype != mdns.TypeCNAME && qtype != mdns.TypeANY {
			a.cname = e.cname
		}
		return a
	}
	for _, addr := range e.addresses {
		switch {
		case addr.Is4() && (qtype == mdns.TypeA || qtype == mdns.TypeANY):
			a.records = append(a.records, &mdns.A{Hdr: header(mdns.TypeA), A: addr.AsSlice()})
		case addr.Is6() && (qtype == mdns.TypeAAAA || qtype == mdns.TypeANY):
			a.records = append(a.records, &mdns.AAAA{Hdr: header(mdns.TypeAAAA), AAAA: addr.AsSlice()})
		}
	}
	return a
}

func (z *Zone) pointer(addr netip.Addr, qtype uint16) local {
	name, known := z.reverse[addr]
	a := local{missing: !known, from: "this node's map"}
	if known && (qtype == mdns.TypePTR || qtype == mdns.TypeANY) {
		a.records = []mdns.RR{&mdns.PTR{
			Hdr: mdns.RR_Header{Name: reverseName(addr), Rrtype: mdns.TypePTR, Class: mdns.ClassINET, Ttl: nameTTL}, Ptr: mdns.Fqdn(name),
		}}
	}
	return a
}

// soa heads answers that say no (RFC 2308 section 3). Its minimum is how long they may be remembered.
func (z *Zone) soa(ttl uint32) mdns.RR {
	domain := mdns.Fqdn(z.domain)
	if z.domain == "" {
		domain = "internal."
	}
	return &mdns.SOA{
		Hdr: mdns.RR_Header{Name: domain, Rrtype: mdns.TypeSOA, Class: mdns.ClassINET, Ttl: ttl},
		Ns:  domain, Mbox: "hostmaster." + domain, Serial: z.serial, Refresh: 60, Retry: 60, Expire: 60, Minttl: missingTTL,
	}
}

// reverseName is the name under which an address's own name is asked for (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverseName(a netip.Addr) string {
	name, err := mdns.ReverseAddr(a.String())
	if err != nil {
		panic("an address that is none: " + err.Error())
	}
	return name
}

// reverseAddress is reverseName the other way; name has no dot at the end.
func reverseAddress(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(rest, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 62; i >= 0; i -= 2 {
		if i < 62 && rest[i+1] != '.' {
			return netip.Addr{}, false
		}
		if b.WriteByte(rest[i]); b.Len()%5 == 4 && i > 0 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil && a.Is6() && a.Zone() == ""
}

// reverseDomains are the domains that hold the reverse names of p, as few as there are: for an IPv4 /10, 64.
func reverseDomains(p netip.Prefix) (out []string) {
	step := 8
	if p.Addr().Is6() {
		step = 4
	}
	whole := (p.Bits() + step - 1) / step
	labels := p.Addr().BitLen() / step
	for i := range 1 << (whole*step - p.Bits()) {
		b := p.Addr().AsSlice()
		if last := whole - 1; last >= 0 {
			if step == 8 {
				b[last] += byte(i)
			} else {
				b[last/2] += byte(i << (4 * (1 - last%2)))
			}
		}
		a, _ := netip.AddrFromSlice(b)
		parts := strings.SplitN(strings.TrimSuffix(reverseName(a), "."), ".", labels-whole+1)
		out = append(out, parts[len(parts)-1])
	}
	return out
}
