package wgtun

import (
	"encoding/binary"
	"net/netip"
)

// Flags of a TCP header.
const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
	tcpPSH
	tcpACK
)

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// ipPacket builds a packet around a transport payload whose checksum, at sumAt, it fills in.
func ipPacket(src, dst netip.Addr, proto byte, payload []byte, sumAt int) []byte {
	seed := uint32(0)
	if proto != protoICMP {
		seed = sum16(src.AsSlice()) + sum16(dst.AsSlice()) + uint32(proto) + uint32(len(payload))
	}
	if sumAt >= 0 {
		binary.BigEndian.PutUint16(payload[sumAt:], ^fold16(seed+sum16(payload)))
	}
	return ipHeader(src, dst, proto, payload, 0, 0, false)
}

// ipHeader puts a header before payload; a fragment when id is not 0, offset in bytes.
func ipHeader(src, dst netip.Addr, proto byte, payload []byte, id uint16, offset int, more bool) []byte {
	if src.Is4() {
		b := make([]byte, 20, 20+len(payload))
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		binary.BigEndian.PutUint16(b[4:], id)
		flags := uint16(offset / 8)
		if more {
			flags |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], flags)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^fold16(sum16(b)))
		return append(b, payload...)
	}
	b := make([]byte, 40, 48+len(payload))
	b[0], b[6], b[7] = 0x60, proto, 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	if id != 0 {
		b[6] = 44
		frag := make([]byte, 8)
		frag[0] = proto
		at := uint16(offset)
		if more {
			at |= 1
		}
		binary.BigEndian.PutUint16(frag[2:], at)
		binary.BigEndian.PutUint32(frag[4:], uint32(id))
		b = append(b, frag...)
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40+len(payload)))
	return append(b, payload...)
}

func sum16(b []byte) (s uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	return s
}

func fold16(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func tcpPacket(src, dst netip.AddrPort, seq, ack uint32, flags byte, data []byte) []byte {
	b := make([]byte, 20, 20+len(data))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 60000)
	return ipPacket(src.Addr(), dst.Addr(), protoTCP, append(b, data...), 16)
}

func udpDatagram(src, dst netip.AddrPort, data []byte) []byte {
	b := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(data)))
	return append(b, data...)
}

func udpPacket(src, dst netip.AddrPort, data []byte) []byte {
	return ipPacket(src.Addr(), dst.Addr(), protoUDP, udpDatagram(src, dst, data), 6)
}

// udpFragments is a datagram of 1,800 bytes in two packets.
func udpFragments(src, dst netip.AddrPort, id uint16) [][]byte {
	whole := udpPacket(src, dst, make([]byte, 1800))
	payload := whole[len(whole)-1808:]
	const cut = 1200
	return [][]byte{
		ipHeader(src.Addr(), dst.Addr(), protoUDP, payload[:cut], id, 0, true),
		ipHeader(src.Addr(), dst.Addr(), protoUDP, payload[cut:], id, cut, false),
	}
}

func echoPacket(src, dst netip.Addr, reply bool, id, seq uint16) []byte {
	b := make([]byte, 16)
	proto := byte(protoICMP)
	b[0] = 8
	if reply {
		b[0] = 0
	}
	if src.Is6() {
		proto = protoICMPv6
		b[0] = 128
		if reply {
			b[0] = 129
		}
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	return ipPacket(src, dst, proto, b, 2)
}

// headerLen is the length of the IP header, without extensions.
func headerLen(p []byte) int {
	if p[0]>>4 == 4 {
		return 20
	}
	return 40
}

func protoOf(p []byte) byte {
	if p[0]>>4 == 4 {
		return p[9]
	}
	return p[6]
}

// isReset reports a TCP reset.
func isReset(p []byte) bool {
	return protoOf(p) == protoTCP && p[headerLen(p)+13]&tcpRST != 0
}

// isProhibited reports an ICMP "administratively prohibited".
func isProhibited(p []byte) bool {
	m := p[headerLen(p):]
	return protoOf(p) == protoICMP && m[0] == 3 && m[1] == 13 || protoOf(p) == protoICMPv6 && m[0] == 1 && m[1] == 1
}

// exchange is a conversation between an opener and an answerer: request and reply i, in order, from 0.
type exchange interface {
	request(i int) [][]byte
	reply(i int) [][]byte
}

// flowKinds makes a conversation of each kind; n tells several between the same two apart.
var flowKinds = []struct {
	name string
	make func(opener, answerer netip.Addr, n int) exchange
}{
	{"TCP", func(a, b netip.Addr, n int) exchange {
		return tcpExchange{netip.AddrPortFrom(a, uint16(40000+n)), netip.AddrPortFrom(b, 80)}
	}},
	{"UDP", func(a, b netip.Addr, n int) exchange {
		return udpExchange{netip.AddrPortFrom(a, uint16(40000+n)), netip.AddrPortFrom(b, 80)}
	}},
	{"ICMP", func(a, b netip.Addr, n int) exchange { return echoExchange{a, b, uint16(7 + n)} }},
	{"fragments", func(a, b netip.Addr, n int) exchange {
		return fragmentExchange{netip.AddrPortFrom(a, uint16(40000+n)), netip.AddrPortFrom(b, 80), uint16(100 * (n + 1))}
	}},
}

type tcpExchange struct{ a, b netip.AddrPort }

const (
	openerISN   = 1000
	answererISN = 9000
)

func (e tcpExchange) request(i int) [][]byte {
	if i == 0 {
		return [][]byte{tcpPacket(e.a, e.b, openerISN, 0, tcpSYN, nil)}
	}
	seq, ack := openerISN+uint32(i), answererISN+uint32(i)
	return [][]byte{tcpPacket(e.a, e.b, seq, ack, tcpACK|tcpPSH, []byte{byte(i)})}
}

func (e tcpExchange) reply(i int) [][]byte {
	if i == 0 {
		return [][]byte{tcpPacket(e.b, e.a, answererISN, openerISN+1, tcpSYN|tcpACK, nil)}
	}
	seq, ack := answererISN+uint32(i), openerISN+uint32(i)+1
	return [][]byte{tcpPacket(e.b, e.a, seq, ack, tcpACK|tcpPSH, []byte{byte(i)})}
}

type udpExchange struct{ a, b netip.AddrPort }

func (e udpExchange) request(i int) [][]byte { return [][]byte{udpPacket(e.a, e.b, []byte{byte(i)})} }
func (e udpExchange) reply(i int) [][]byte   { return [][]byte{udpPacket(e.b, e.a, []byte{byte(i)})} }

type echoExchange struct {
	a, b netip.Addr
	id   uint16
}

func (e echoExchange) request(i int) [][]byte {
	return [][]byte{echoPacket(e.a, e.b, false, e.id, uint16(i))}
}

func (e echoExchange) reply(i int) [][]byte {
	return [][]byte{echoPacket(e.b, e.a, true, e.id, uint16(i))}
}

type fragmentExchange struct {
	a, b netip.AddrPort
	id   uint16
}

func (e fragmentExchange) request(i int) [][]byte { return udpFragments(e.a, e.b, e.id+uint16(i)) }
func (e fragmentExchange) reply(i int) [][]byte   { return udpFragments(e.b, e.a, e.id+uint16(i)) }
