package reflector

import (
	"encoding/binary"
	"net/netip"
)

// Of RFC 8489.
const (
	bindingRequest   = 0x0001     // section 5: class request, method binding
	bindingSuccess   = 0x0101     // class success response
	cookie           = 0x2112a442 // section 5
	headerSize       = 20
	xorMappedAddress = 0x0020 // section 14.2
	family4, family6 = 1, 2   // section 14.1
)

// RequestSize is how long a request must be at least: as long as the longest answer, so that nobody is sent more than was sent in his name.
const RequestSize = headerSize + 4 + 20

// request returns the transaction id of a well-formed binding request of at least RequestSize that asks for nothing we would have to
// understand (RFC 8489 sections 6.3 and 14: attributes below 0x8000).
func request(b []byte) (transaction []byte, ok bool) {
	if len(b) < RequestSize || binary.BigEndian.Uint16(b) != bindingRequest || binary.BigEndian.Uint32(b[4:]) != cookie ||
		int(binary.BigEndian.Uint16(b[2:])) != len(b)-headerSize || len(b)%4 != 0 {
		return nil, false
	}
	for rest := b[headerSize:]; len(rest) > 0; {
		if len(rest) < 4 {
			return nil, false
		}
		kind, size := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		padded := 4 + (size+3)/4*4
		if kind < 0x8000 || padded > len(rest) {
			return nil, false
		}
		rest = rest[padded:]
	}
	return b[8:headerSize], true
}

// answer appends to out the response that tells where a request came from: 32 bytes for IPv4, 44 for IPv6 (RFC 8489 section 14.2).
func answer(out, transaction []byte, from netip.AddrPort) []byte {
	ip, family := from.Addr().Unmap(), uint16(family6)
	if ip.Is4() {
		family = family4
	}
	raw := ip.AsSlice()
	out = binary.BigEndian.AppendUint16(out, bindingSuccess)
	out = binary.BigEndian.AppendUint16(out, uint16(8+len(raw)))
	mask := append(binary.BigEndian.AppendUint32(nil, cookie), transaction...)
	out = append(out, mask...)
	out = binary.BigEndian.AppendUint16(out, xorMappedAddress)
	out = binary.BigEndian.AppendUint16(out, uint16(4+len(raw)))
	out = binary.BigEndian.AppendUint16(out, family)
	out = binary.BigEndian.AppendUint16(out, from.Port()^uint16(cookie>>16))
	for i, c := range raw {
		out = append(out, c^mask[i])
	}
	return out
}
