package packet

import "encoding/binary"

// sum adds b to the ones' complement sum s (RFC 1071); an odd last byte counts as the high half of a word.
func sum(s uint64, b []byte) uint64 {
	for len(b) >= 4 {
		s += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) > 0 {
		s += uint64(b[0]) << 8
	}
	return s
}

// sum20 is sum of a header without options, which nearly all are.
func sum20(b []byte) uint64 {
	_ = b[19]
	return uint64(be32(b)) + uint64(be32(b[4:])) + uint64(be32(b[8:])) + uint64(be32(b[12:])) + uint64(be32(b[16:]))
}

// fold brings a sum to 16 bits; over bytes that hold their right checksum it is 0xffff.
func fold(s uint64) uint16 {
	s = s&0xffffffff + s>>32
	s = s&0xffff + s>>16&0xffff + s>>32
	s = s&0xffff + s>>16
	return uint16(s + s>>16)
}
