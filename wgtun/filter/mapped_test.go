package filter

import (
	"net/netip"
	"testing"
)

// An IPv6 packet between the mapped forms of two IPv4 addresses is no packet of their flow: a receiver would hand it to another socket,
// and a peer with a wide IPv6 route could speak for any other's IPv4 address.
func TestMappedPacketBelongsToNoFlow(t *testing.T) {
	mapped := func(a netip.Addr) netip.AddrPort { return at(netip.AddrFrom16(a.As16()), 0) }
	f := newFilter(t, outRule(udpPort(53)), inRule(udpPort(53)))
	from, to := at(self4, 5000), at(alice4, 53)
	passes(t, "question", f.Egress(udp(from, to, 1)))
	passes(t, "answer", f.Ingress(udp(to, from, 1)))
	as6 := func(from, to netip.AddrPort) []byte {
		b := udp(at(self6, from.Port()), at(alice6, to.Port()), 1)
		src, dst := mapped(from.Addr()).Addr().As16(), mapped(to.Addr()).Addr().As16()
		copy(b[8:], src[:])
		copy(b[24:], dst[:])
		return b
	}
	refused(t, "question between mapped addresses", f.Egress(as6(from, to)), ReasonAddress)
	refused(t, "answer between mapped addresses", f.Ingress(as6(to, from)), ReasonAddress)
}
