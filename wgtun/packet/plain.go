package packet

import (
	"encoding/binary"
	"math/bits"
)

// ParsePlain reads what nearly every packet is: TCP or UDP behind an IP header without options or extensions, in one piece. It is the way that
// such a packet takes through parse, without the turns. False means only that parse must look: it alone finds faults.
func (v *View) ParsePlain(b []byte) bool {
	var l4 int
	switch {
	case len(b) >= minHeader4+minUDP && b[0] == 0x45:
		h := (*[minHeader4]byte)(b)
		// Neither the reserved bit, nor more fragments, nor an offset.
		if int(be16(h[2:])) != len(b) || be16(h[6:])&^0x4000 != 0 || !sum20OK(h) {
			return false
		}
		l4, v.v6, v.proto = minHeader4, false, h[9]
		v.src, v.dst = addr4(h[12:]), addr4(h[16:])
	case len(b) >= header6+minUDP && b[0]>>4 == 6:
		h := (*[header6]byte)(b)
		if header6+int(be16(h[4:])) != len(b) {
			return false
		}
		l4, v.v6, v.proto = header6, true, h[6]
		v.src, v.dst = addr16(h[8:]), addr16(h[24:])
	default:
		return false
	}
	v.pkt, v.l4 = b, l4
	v.fragment, v.more, v.fragAt, v.fragID = false, false, 0, 0
	b = b[l4:]
	h := (*[minUDP]byte)(b)
	v.srcPort, v.dstPort = be16(h[:]), be16(h[2:])
	if v.srcPort == 0 || v.dstPort == 0 {
		return false
	}
	if v.proto == ProtoTCP {
		return len(b) >= minTCP && b[12] >= minTCP/4<<4 && int(b[12]>>4)*4 <= len(b)
	}
	return v.proto == ProtoUDP && int(be16(h[4:])) == len(b)
}

// sum20OK verifies the checksum of a header without options. A ones' complement sum is right in either byte order (RFC 1071 section 2 B), and
// of words that are not all zero it is 0xffff where their plain sum is a multiple of that.
func sum20OK(h *[minHeader4]byte) bool {
	s, carry := bits.Add64(binary.LittleEndian.Uint64(h[:]), binary.LittleEndian.Uint64(h[8:]), 0)
	s, carry = bits.Add64(s, uint64(binary.LittleEndian.Uint32(h[16:])), carry)
	return (s+carry)%0xffff == 0
}
