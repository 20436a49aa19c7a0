package packet

const minHeader4 = 20

// parse4 reads an IPv4 header and what follows.
func (v *View) parse4(b []byte, quoted bool) Fault {
	if len(b) < minHeader4 {
		return FaultShort
	}
	header := int(b[0]&15) * 4
	if header < minHeader4 || b[6]&0x80 != 0 {
		return FaultHeader
	}
	if header > len(b) {
		return FaultShort
	}
	total := int(be16(b[2:]))
	if total < header || !quoted && total != len(b) {
		return FaultLength
	}
	if !quoted && fold(sum(0, b[:header])) != 0xffff {
		return FaultChecksum
	}
	if header > minHeader4 {
		if fault := checkOptions4(b[minHeader4:header]); fault != FaultNone {
			return fault
		}
	}
	// A quote may carry more behind the packet it quotes (RFC 4884): that is not part of the packet.
	v.pkt = b[:min(total, len(b))]
	v.v6, v.l4, v.proto = false, header, b[9]
	v.src, v.dst = addr4(b[12:]), addr4(b[16:])
	if bits := be16(b[6:]) & 0x3fff; bits != 0 {
		fault := v.setFragment(int(bits&0x1fff)*8, bits&0x2000 != 0, uint32(be16(b[4:])), total-header, header)
		if fault != FaultNone {
			return fault
		}
	}
	return v.parseTransport(quoted, total-header)
}

// checkOptions4 walks the options within their bounds.
func checkOptions4(b []byte) Fault {
	const end, nop, looseRoute, strictRoute = 0, 1, 131, 137
	for len(b) > 0 {
		switch b[0] {
		case end:
			return FaultNone
		case nop:
			b = b[1:]
			continue
		case looseRoute, strictRoute:
			return FaultSourceRoute
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return FaultOptions
		}
		b = b[b[1]:]
	}
	return FaultNone
}
