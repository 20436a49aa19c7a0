package packet

import (
	"encoding/binary"
	"net/netip"
)

// Addr is an IP address in 16 bytes, IPv4 as IPv4-mapped: a comparable word pair that needs no allocation and no zone.
// Parse refuses nothing by address, but an IPv6 packet that carries a mapped address has Class Mapped (see View.SrcClass).
type Addr struct{ Hi, Lo uint64 }

const mapped4 = 0xffff << 32

// AddrOf converts a; IPv4 and IPv4-mapped addresses become equal, a zone is lost.
func AddrOf(a netip.Addr) Addr {
	b := a.As16()
	return addr16(b[:])
}

// Netip converts a; an IPv4-mapped address becomes IPv4.
func (a Addr) Netip() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return netip.AddrFrom16(b).Unmap()
}

// Is4 tells whether a is IPv4 (or IPv4-mapped).
func (a Addr) Is4() bool { return a.Hi == 0 && a.Lo>>32 == 0xffff }

func addr4(b []byte) Addr { return Addr{Lo: mapped4 | uint64(be32(b))} }

func addr16(b []byte) Addr {
	_ = b[15]
	return Addr{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
}

// Class says what kind of address one is.
type Class uint8

// The classes. Only Unicast addresses can be a node's own or lie behind a router.
const (
	Unicast     Class = iota
	Unspecified       // 0.0.0.0/8, ::
	Loopback          // 127.0.0.0/8, ::1
	LinkLocal         // 169.254.0.0/16, fe80::/10, and the retired fec0::/10
	Multicast         // 224.0.0.0/4, ff00::/8
	Broadcast         // 255.255.255.255
	Mapped            // ::ffff:0:0/96 and ::/96 in an IPv6 header
	Reserved          // 240.0.0.0/4
)

// SrcClass is the class of the source address.
func (v *View) SrcClass() Class { return classify(v.src, v.v6) }

// DstClass is the class of the destination address.
func (v *View) DstClass() Class { return classify(v.dst, v.v6) }

// Classify is the class of an address outside a packet.
func Classify(a netip.Addr) Class { return classify(AddrOf(a), a.Is6()) }

func classify(a Addr, v6 bool) Class {
	if v6 {
		return classify6(a)
	}
	switch ip := uint32(a.Lo); {
	case ip>>24 == 0:
		return Unspecified
	case ip>>24 == 127:
		return Loopback
	case ip>>16 == 169<<8|254:
		return LinkLocal
	case ip == 1<<32-1:
		return Broadcast
	case ip>>28 == 14:
		return Multicast
	case ip>>28 == 15:
		return Reserved
	}
	return Unicast
}

func classify6(a Addr) Class {
	switch {
	case a == Addr{}:
		return Unspecified
	case a == Addr{Lo: 1}:
		return Loopback
	case a.Is4(), a.Hi == 0 && a.Lo>>32 == 0:
		return Mapped
	case a.Hi>>56 == 0xff:
		return Multicast
	case a.Hi>>54 == 0xfe80>>6, a.Hi>>54 == 0xfec0>>6:
		return LinkLocal
	}
	return Unicast
}
