package hosttun

import (
	"encoding/binary"
	"net/netip"

	"pgregory.net/rapid"

	"picket.internal/wgtun/packet"
)

// The packets here are made and checked without the code under test: bytes are put in by hand, sums are taken word by word.

// spec describes a packet.
type spec struct {
	v6, udp    bool
	from, to   uint16
	seq, ack   uint32
	flags      byte
	options    []byte // TCP's, a multiple of 4
	id         uint16
	ttl, class byte
	data       []byte
}

var (
	here4, there4 = netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	here6, there6 = netip.MustParseAddr("fd7a::1"), netip.MustParseAddr("fd7a::2")
)

func (s spec) bytes() []byte {
	l4 := s.transport()
	var b []byte
	if s.v6 {
		b = append(b, 0x60|s.class>>4, s.class<<4, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(l4)))
		b = append(b, s.proto(), s.ttl)
		b = append(append(b, here6.AsSlice()...), there6.AsSlice()...)
	} else {
		b = append(b, 0x45, s.class)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(l4)))
		b = binary.BigEndian.AppendUint16(b, s.id)
		b = append(b, 0x40, 0, s.ttl, s.proto(), 0, 0)
		b = append(append(b, here4.AsSlice()...), there4.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], ^slowSum(0, b))
	}
	b = append(b, l4...)
	at := len(b) - len(l4) + 16
	if s.udp {
		at = len(b) - len(l4) + 6
	}
	sum := ^slowSum(slowPseudo(b, s.proto(), len(l4)), l4)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	return b
}

func (s spec) proto() byte {
	if s.udp {
		return packet.ProtoUDP
	}
	return packet.ProtoTCP
}

func (s spec) transport() []byte {
	var b []byte
	b = binary.BigEndian.AppendUint16(b, s.from)
	b = binary.BigEndian.AppendUint16(b, s.to)
	if s.udp {
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(s.data)))
		return append(append(b, 0, 0), s.data...)
	}
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = append(b, byte(20+len(s.options))/4<<4, s.flags, 0x10, 0x20, 0, 0, 0, 0)
	return append(append(b, s.options...), s.data...)
}

func slowSum(s uint32, b []byte) uint16 {
	for i, c := range b {
		if i%2 == 0 {
			s += uint32(c) << 8
		} else {
			s += uint32(c)
		}
		s = s&0xffff + s>>16
	}
	return uint16(s&0xffff + s>>16)
}

func slowPseudo(pkt []byte, proto byte, length int) uint32 {
	addresses := pkt[12:20]
	if pkt[0]>>4 == 6 {
		addresses = pkt[8:40]
	}
	return uint32(slowSum(0, addresses)) + uint32(proto) + uint32(length)
}

// headersOf is where a packet's transport header begins.
func headersOf(pkt []byte) int {
	if pkt[0]>>4 == 6 {
		return 40
	}
	return 20
}

// fault says what is wrong with a packet, "" when nothing is: parse and all checksums.
func fault(pkt []byte) string {
	var v packet.View
	if f := v.Parse(pkt); f != packet.FaultNone {
		return f.String()
	}
	l4 := headersOf(pkt)
	if !v.IsIPv6() && slowSum(0, pkt[:l4]) != 0xffff {
		return "checksum of the IP header"
	}
	if slowSum(slowPseudo(pkt, v.Proto(), len(pkt)-l4), pkt[l4:]) != 0xffff {
		return "checksum of the transport"
	}
	return ""
}

// kernel makes what the kernel would hand over for a packet that is to be cut at segment bytes of data.
func kernel(s spec, segment int) []byte {
	pkt := s.bytes()
	l4 := headersOf(pkt)
	h := header{flags: needsCsum, segment: uint16(segment), csumStart: uint16(l4), csumOffset: 16, gso: gsoTCPv4}
	if s.v6 {
		h.gso = gsoTCPv6
	}
	if s.udp {
		h.gso, h.csumOffset = gsoUDP, 6
	}
	binary.BigEndian.PutUint16(pkt[l4+int(h.csumOffset):], slowSum(slowPseudo(pkt, s.proto(), len(pkt)-l4), nil))
	return append(h.bytes(), pkt...)
}

func (h header) bytes() []byte {
	b := make([]byte, headerSize)
	h.put(b)
	return b
}

// draw makes any packet of a few flows.
func draw(t *rapid.T, longest int) spec {
	s := spec{
		v6: rapid.Bool().Draw(t, "v6"), udp: rapid.Bool().Draw(t, "udp"),
		from: rapid.Uint16Range(1, 3).Draw(t, "from"), to: 443, id: uint16(rapid.IntRange(0, 65535).Draw(t, "id")),
		ttl: rapid.SampledFrom([]byte{64, 64, 64, 63}).Draw(t, "ttl"), class: rapid.SampledFrom([]byte{0, 0, 0, 3}).Draw(t, "class"),
		seq: rapid.Uint32().Draw(t, "seq"), ack: 7, flags: tcpACK,
		options: rapid.SampledFrom([][]byte{nil, {1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}}).Draw(t, "options"),
	}
	s.data = make([]byte, rapid.IntRange(0, longest).Draw(t, "length"))
	for i := range s.data {
		s.data[i] = byte(i * 31 / 7)
	}
	return s
}
