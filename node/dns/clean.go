package dns

import (
	"net"
	"net/netip"
	"slices"

	mdns "github.com/miekg/dns"
)

// clean leaves of an upstream's answer what may be believed: nothing that points into the overlay (a page's name must not come to mean a
// peer: rebinding), nothing about names that are this node's to answer, and of the other sections only what says how long a no holds.
func (z *Zone) clean(msg *mdns.Msg) {
	msg.Answer = slices.DeleteFunc(msg.Answer, func(rr mdns.RR) bool {
		return rr.Header().Class != mdns.ClassINET || z.owns(canonical(rr.Header().Name)) || slices.ContainsFunc(addressesOf(rr), z.holds)
	})
	msg.Ns = slices.DeleteFunc(msg.Ns, func(rr mdns.RR) bool {
		t := rr.Header().Rrtype
		return len(msg.Answer) > 0 || t != mdns.TypeSOA && t != mdns.TypeNSEC && t != mdns.TypeNSEC3 && t != mdns.TypeRRSIG
	})
	msg.Extra = nil
	msg.Authoritative, msg.AuthenticatedData = false, false
}

// owns reports whether a name is this node's to answer.
func (z *Zone) owns(name string) bool {
	_, recorded := z.names[name]
	return recorded || under(name, z.domain)
}

// addressesOf are the addresses that a record brings a client to.
func addressesOf(rr mdns.RR) (out []netip.Addr) {
	add := func(ips ...net.IP) {
		for _, ip := range ips {
			if a, ok := netip.AddrFromSlice(ip); ok {
				out = append(out, a)
			}
		}
	}
	switch rr := rr.(type) {
	case *mdns.A:
		add(rr.A)
	case *mdns.AAAA:
		add(rr.AAAA)
	case *mdns.HTTPS:
		hints(&rr.SVCB, add)
	case *mdns.SVCB:
		hints(rr, add)
	}
	return out
}

// hints are the addresses in a service binding (RFC 9460 section 7.3).
func hints(rr *mdns.SVCB, add func(...net.IP)) {
	for _, kv := range rr.Value {
		switch kv := kv.(type) {
		case *mdns.SVCBIPv4Hint:
			add(kv.Hint...)
		case *mdns.SVCBIPv6Hint:
			add(kv.Hint...)
		}
	}
}
