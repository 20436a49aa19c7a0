package packet

const (
	header6 = 40
	// maxExtensions bounds the walk: hop-by-hop, two destination options and a fragment header are all that RFC 8200 foresees beside
	// routing and security headers.
	maxExtensions = 4
)

// IPv6 next-header values that continue the header chain.
const (
	nextHopByHop    = 0
	nextRouting     = 43
	nextFragment    = 44
	nextDestination = 60
	nextMobility    = 135
	nextHIP         = 139
	nextShim6       = 140
	nextTest1       = 253
	nextTest2       = 254
)

// parse6 reads an IPv6 header and what follows. The true length counts: the carrier below may hand up packets of 0 to 39 bytes and
// others whose payload length wrapped around.
func (v *View) parse6(b []byte, quoted bool) Fault {
	if len(b) < header6 {
		return FaultShort
	}
	total := header6 + int(be16(b[4:]))
	if total == header6 && b[6] == nextHopByHop {
		return FaultJumbo
	}
	if !quoted && total != len(b) {
		return FaultLength
	}
	v.pkt = b[:min(total, len(b))]
	v.v6, v.l4, v.proto = true, header6, b[6]
	v.src, v.dst = addr16(b[8:]), addr16(b[24:])
	if fault := v.walkExtensions(total); fault != FaultNone {
		return fault
	}
	return v.parseTransport(quoted, total-v.l4)
}

// walkExtensions moves l4 and proto past the extension headers. A later fragment ends the walk: what follows is payload.
func (v *View) walkExtensions(total int) Fault {
	fragmentSeen := false
	for n := 0; ; n++ {
		var fault Fault
		switch v.proto {
		case nextHopByHop:
			if v.l4 != header6 {
				return FaultExtension
			}
			fault = v.skipOptions(fragmentSeen)
		case nextDestination:
			fault = v.skipOptions(fragmentSeen)
		case nextFragment:
			if fragmentSeen {
				return FaultExtension
			}
			fragmentSeen = true
			fault = v.skipFragment(total)
		case nextRouting:
			return FaultRoutingHeader
		case nextMobility, nextHIP, nextShim6, nextTest1, nextTest2:
			return FaultExtension
		default:
			return FaultNone
		}
		if fault != FaultNone {
			return fault
		}
		if v.fragAt != 0 {
			return FaultNone
		}
		if n+1 >= maxExtensions && continuesChain(v.proto) {
			return FaultExtension
		}
	}
}

func continuesChain(next uint8) bool {
	return next == nextHopByHop || next == nextDestination || next == nextFragment
}

// skipOptions steps over a hop-by-hop or destination options header. Options that a receiver must not skip when it does not know them
// (high bits set, RFC 8200 section 4.2) are refused: home address, which would replace the source, is one of them.
func (v *View) skipOptions(inFragment bool) Fault {
	const pad1, jumbo = 0, 0xc2
	rest := v.pkt[v.l4:]
	if len(rest) < 8 || len(rest) < 8+int(rest[1])*8 {
		// RFC 7112: the first fragment holds the whole chain.
		if inFragment && v.fragment {
			return FaultTinyFragment
		}
		return FaultExtension
	}
	size := 8 + int(rest[1])*8
	for opts := rest[2:size]; len(opts) > 0; {
		if opts[0] == pad1 {
			opts = opts[1:]
			continue
		}
		if opts[0] == jumbo {
			return FaultJumbo
		}
		if opts[0]&0xc0 != 0 || len(opts) < 2 || 2+int(opts[1]) > len(opts) {
			return FaultExtension
		}
		opts = opts[2+int(opts[1]):]
	}
	v.proto = rest[0]
	v.l4 += size
	return FaultNone
}

// skipFragment steps over a fragment header:
//
//	0 next header  1 reserved  2 offset (13 bits) reserved (2) more (1)  4 identification
func (v *View) skipFragment(total int) Fault {
	rest := v.pkt[v.l4:]
	if len(rest) < 8 {
		return FaultExtension
	}
	bits := be16(rest[2:])
	payload := total - v.l4 - 8
	unfragmentable := v.l4 - header6
	if fault := v.setFragment(int(bits&^7), bits&1 != 0, be32(rest[4:]), payload, unfragmentable); fault != FaultNone {
		return fault
	}
	v.proto = rest[0]
	v.l4 += 8
	return FaultNone
}
