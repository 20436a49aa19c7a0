package packet

import (
	"encoding/binary"
	"math/bits"
)

// Checksum is the Internet checksum (RFC 1071) over b, to be put into a header: s is the Sum of what else belongs to it.
func Checksum(s uint64, b []byte) uint16 { return ^fold(sum(s, b)) }

// Sum adds b to the ones' complement sum s (RFC 1071), to go on with or to give to Checksum; an odd last byte counts as the high half of a word.
func Sum(s uint64, b []byte) uint64 { return sum(s, b) }

// sum adds 8 bytes at a time: 2¹⁶ and 2⁶⁴ are 1 modulo 2¹⁶-1, so that neither the width of the words matters nor where a carry is added.
func sum(s uint64, b []byte) uint64 {
	var carry uint64
	for len(b) >= 32 {
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b), 0)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[8:]), carry)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[16:]), carry)
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b[24:]), carry)
		s, carry = bits.Add64(s, 0, carry)
		s += carry
		b = b[32:]
	}
	for len(b) >= 4 {
		s, carry = bits.Add64(s, uint64(binary.BigEndian.Uint32(b)), 0)
		s += carry
		b = b[4:]
	}
	if len(b) >= 2 {
		s, carry = bits.Add64(s, uint64(binary.BigEndian.Uint16(b)), 0)
		s += carry
		b = b[2:]
	}
	if len(b) > 0 {
		s, carry = bits.Add64(s, uint64(b[0])<<8, 0)
		s += carry
	}
	return s
}

// fold brings a sum to 16 bits; over bytes that hold their right checksum it is 0xffff.
func fold(s uint64) uint16 {
	s = s&0xffffffff + s>>32
	s = s&0xffff + s>>16&0xffff + s>>32
	s = s&0xffff + s>>16
	return uint16(s + s>>16)
}
