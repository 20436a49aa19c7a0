//go:build linux

package integration

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"picket.internal/wgtun/packet"
)

// Flags of a TCP header, short.
const (
	fin, syn, rst, psh, ack, urg = packet.FIN, packet.SYN, packet.RST, packet.PSH, packet.ACK, packet.URG
)

// Protocol numbers and IPv6 next headers beside those of package packet.
const (
	hopByHop    = 0
	ipInIP      = 4
	routing     = 43
	fragment    = 44
	gre         = 47
	esp         = 50
	authHeader  = 51
	nothing     = 59
	destination = 60
	mobility    = 135
	experiment  = 253
)

// rawIP is a sound IP packet around a transport part.
func rawIP(from, to netip.Addr, proto uint8, part []byte) []byte {
	if from.Is4() {
		b := append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}, from.AsSlice()...)
		b = append(append(b, to.AsSlice()...), part...)
		return rehead(b)
	}
	b := append([]byte{0x60, 0, 0, 0, 0, 0, proto, 64}, from.AsSlice()...)
	b = append(append(b, to.AsSlice()...), part...)
	return rehead(b)
}

// rehead sets the length and, in IPv4, the checksum of the header, options included.
func rehead(b []byte) []byte {
	if b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return b
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return resum(b)
}

// resum sets the checksum of an IPv4 header of whatever length it says, if it is there.
func resum(b []byte) []byte {
	if header := int(b[0]&15) * 4; b[0]>>4 == 4 && header >= 20 && header <= len(b) {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], packet.Checksum(0, b[:header]))
	}
	return b
}

// edit overwrites bytes of a packet, and leaves an IPv4 header's checksum right.
func edit(b []byte, at int, with ...byte) []byte {
	copy(b[at:], with)
	return resum(b)
}

// transportSum is the checksum over part and its pseudo-header.
func transportSum(from, to netip.Addr, proto uint8, part []byte) uint16 {
	s := packet.Sum(uint64(proto)+uint64(len(part)), from.AsSlice())
	return packet.Checksum(packet.Sum(s, to.AsSlice()), part)
}

// noise is n bytes that no other packet has.
func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func udpPart(from, to netip.AddrPort, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	b = append(append(b, 0, 0), data...)
	binary.BigEndian.PutUint16(b[6:], transportSum(from.Addr(), to.Addr(), packet.ProtoUDP, b))
	return b
}

func rawUDP(from, to netip.AddrPort) []byte {
	return rawIP(from.Addr(), to.Addr(), packet.ProtoUDP, udpPart(from, to, noise(24)))
}

// tcpSegment is a TCP segment to be. Its window is 64000 bytes.
type tcpSegment struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    uint8
	options  []byte // of whole words
	data     []byte
}

func (s tcpSegment) part() []byte {
	b := binary.BigEndian.AppendUint16(nil, s.from.Port())
	b = binary.BigEndian.AppendUint16(b, s.to.Port())
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = append(b, byte(20+len(s.options))/4<<4, s.flags, 64000>>8, 64000&0xff, 0, 0, 0, 0)
	b = append(append(b, s.options...), s.data...)
	binary.BigEndian.PutUint16(b[16:], transportSum(s.from.Addr(), s.to.Addr(), packet.ProtoTCP, b))
	return b
}

func (s tcpSegment) bytes() []byte {
	return rawIP(s.from.Addr(), s.to.Addr(), packet.ProtoTCP, s.part())
}

// icmp types of a family.
type icmpTypes struct{ proto, echo, reply, unreachable uint8 }

func icmpOf(a netip.Addr) icmpTypes {
	if a.Is4() {
		return icmpTypes{packet.ProtoICMP, packet.EchoRequest4, packet.EchoReply4, packet.Unreachable4}
	}
	return icmpTypes{packet.ProtoICMPv6, packet.EchoRequest6, packet.EchoReply6, packet.Unreachable6}
}

func rawICMP(from, to netip.Addr, typ, code uint8, rest []byte) []byte {
	proto := icmpOf(from).proto
	b := append([]byte{typ, code, 0, 0}, rest...)
	sum := packet.Checksum(0, b)
	if from.Is6() {
		sum = transportSum(from, to, proto, b)
	}
	binary.BigEndian.PutUint16(b[2:], sum)
	return rawIP(from, to, proto, b)
}

func rawEcho(from, to netip.Addr, typ uint8, id uint16) []byte {
	return rawICMP(from, to, typ, 0, append([]byte{byte(id >> 8), byte(id), 0, 1}, noise(24)...))
}

// rawUnreachable is an ICMP error about a packet.
func rawUnreachable(from, to netip.Addr, quote []byte) []byte {
	return rawICMP(from, to, icmpOf(from).unreachable, 4, append(make([]byte, 4), quote...))
}

// rawFragment is a fragment at that offset in bytes. IPv4 keeps 16 bits of the id.
func rawFragment(from, to netip.Addr, proto uint8, id uint32, offset int, more bool, piece []byte) []byte {
	if from.Is6() {
		head := []byte{proto, 0, byte(offset >> 8), byte(offset), 0, 0, 0, 0}
		if more {
			head[3] |= 1
		}
		binary.BigEndian.PutUint32(head[4:], id)
		return rawIP(from, to, fragment, append(head, piece...))
	}
	b := rawIP(from, to, proto, piece)
	binary.BigEndian.PutUint16(b[4:], uint16(id))
	bits := uint16(offset / 8)
	if more {
		bits |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], bits)
	return resum(b)
}

// withOptions puts options, of whole words, into an IPv4 header.
func withOptions(b []byte, options ...byte) []byte {
	out := append(append(append([]byte(nil), b[:20]...), options...), b[20:]...)
	out[0] = 0x40 | byte(5+len(options)/4)
	return rehead(out)
}

// extended puts extension headers before what an IPv6 packet carries: each but the last names its successor itself, the last gets proto.
func extended(b []byte, first uint8, headers ...byte) []byte {
	out := append(append(append([]byte(nil), b[:40]...), headers...), b[40:]...)
	out[6] = first
	return rehead(out)
}
