package path

import (
	"encoding/binary"
	"net/netip"
)

// Of STUN (RFC 8489), as far as a reflector's question and answer need it.
const (
	stunRequest       = 0x0001 // binding request: section 5
	stunSuccess       = 0x0101 // binding success response
	stunCookie        = 0x2112a442
	stunHeader        = 20
	stunXORMapped     = 0x0020 // section 14.2
	stunSoftware      = 0x8022 // section 14.14
	longestReflection = 548    // RFC 8489 section 6.1: what every path takes
)

// padding makes a question as long as the longest answer, which reflectors ask for: they send nobody more than was sent in his name.
const padding = "picket reflect probe" // 20 bytes

// question is a binding request of 44 bytes.
func question(t transaction) []byte {
	b := binary.BigEndian.AppendUint16(nil, stunRequest)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(padding)))
	b = binary.BigEndian.AppendUint32(b, stunCookie)
	b = append(b, t[:]...)
	b = binary.BigEndian.AppendUint16(b, stunSoftware)
	b = binary.BigEndian.AppendUint16(b, uint16(len(padding)))
	return append(b, padding...)
}

// stunKind is the type of a datagram that has the form of a STUN message (RFC 8489 section 6.3), and its transaction.
func stunKind(b []byte) (kind uint16, t transaction, ok bool) {
	if len(b) < stunHeader || len(b) > longestReflection || len(b)%4 != 0 || binary.BigEndian.Uint32(b[4:]) != stunCookie ||
		int(binary.BigEndian.Uint16(b[2:])) != len(b)-stunHeader {
		return 0, t, false
	}
	copy(t[:], b[8:])
	return binary.BigEndian.Uint16(b), t, true
}

// mapped reads the address in an answer whose form stunKind has checked; false when there is none that is whole.
func mapped(b []byte) (netip.AddrPort, bool) {
	mask := b[4:stunHeader] // cookie and transaction
	for rest := b[stunHeader:]; len(rest) >= 4; {
		kind, size := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		padded := 4 + (size+3)/4*4
		if padded > len(rest) {
			return netip.AddrPort{}, false
		}
		if kind == stunXORMapped {
			return unmask(rest[4:4+size], mask)
		}
		rest = rest[padded:]
	}
	return netip.AddrPort{}, false
}

// unmask reads the value of XOR-MAPPED-ADDRESS: a zero, the family (1 or 2), port and address, the last two XORed.
func unmask(v, mask []byte) (netip.AddrPort, bool) {
	if len(v) != 8 && len(v) != 20 || v[0] != 0 || (v[1] == 1) != (len(v) == 8) || (v[1] == 2) != (len(v) == 20) {
		return netip.AddrPort{}, false
	}
	raw := make([]byte, len(v)-4)
	for i := range raw {
		raw[i] = v[4+i] ^ mask[i]
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(v[2:])^binary.BigEndian.Uint16(mask)), !a.Is4In6()
}
