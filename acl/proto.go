package acl

import (
	"net/netip"
	"strconv"
)

// SCTP is the third protocol with ports (RFC 9260 section 3.1).
const SCTP Proto = 132

// protoNames are the names that policies use, as Tailscale has them, with IANA's numbers. The first name of a number is the one shown.
var protoNames = []struct {
	name  string
	proto Proto
}{
	{"icmp", ICMP}, {"igmp", 2}, {"ipv4", 4}, {"ip-in-ip", 4}, {"tcp", TCP}, {"egp", 8}, {"igp", 9}, {"udp", UDP},
	{"gre", 47}, {"esp", 50}, {"ah", 51}, {"icmpv6", ICMPv6}, {"ipv6-icmp", ICMPv6}, {"sctp", SCTP},
}

// ParseProto reads a protocol name ("tcp", "icmp") or number, 1 to 255 in canonical digits. "icmp" is ICMP; see For.
func ParseProto(s string) (Proto, bool) {
	for _, p := range protoNames {
		if p.name == s {
			return p.proto, true
		}
	}
	n, ok := decimal(s, 255)
	return Proto(n), ok && n > 0
}

// String is the protocol's name, or its number where it has none.
func (p Proto) String() string {
	for _, n := range protoNames {
		if n.proto == p {
			return n.name
		}
	}
	return strconv.Itoa(int(p))
}

// HasPorts reports whether the protocol has destination ports.
func (p Proto) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// For is p as it is spoken to addr: people say "icmp" also where they mean ICMPv6. Use it on a protocol that a person named.
func (p Proto) For(addr netip.Addr) Proto {
	if p == ICMP && addr.Is6() && !addr.Is4In6() {
		return ICMPv6
	}
	return p
}

// named returns the protocols that a name in a policy stands for.
func named(name string) ([]Proto, bool) {
	p, ok := ParseProto(name)
	if name == "icmp" {
		return []Proto{ICMP, ICMPv6}, ok
	}
	return []Proto{p}, ok
}

// decimal reads canonical digits: no sign, no leading zero, no space, at most limit (R34: Atoi takes "+80" and "-0").
func decimal(s string, limit uint64) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return n, err == nil && n <= limit && strconv.FormatUint(n, 10) == s
}
