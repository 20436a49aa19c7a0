package packet

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

const (
	minTCP = 20
	minUDP = 8
	// minICMP also covers every type that carries an id or a quote.
	minICMP = 8
	// minQuotedTransport is what RFC 792 promises of the packet an error quotes: ports and, for TCP, the sequence number.
	minQuotedTransport = 8
)

// parseTransport checks the transport header and reads the ports. stated is the length that the IP header gives it and its data.
func (v *View) parseTransport(quoted bool, stated int) Fault {
	if v.fragAt != 0 {
		return FaultNone
	}
	if v.proto == ProtoICMP && v.v6 || v.proto == ProtoICMPv6 && !v.v6 {
		return FaultICMPFamily
	}
	b := v.pkt[v.l4:]
	need := v.minTransport()
	if quoted {
		need = min(need, minQuotedTransport)
	}
	if len(b) < need {
		return v.shortTransport()
	}
	switch v.proto {
	case ProtoTCP:
		return v.parseTCP(b, quoted)
	case ProtoUDP:
		return v.parseUDP(b, stated)
	case ProtoDCCP, ProtoSCTP, ProtoUDPL:
		return v.readPorts(b)
	}
	return FaultNone
}

func (v *View) minTransport() int {
	switch v.proto {
	case ProtoTCP:
		return minTCP
	case ProtoUDP, ProtoDCCP, ProtoSCTP, ProtoUDPL:
		return minUDP
	case ProtoICMP, ProtoICMPv6:
		return minICMP
	}
	return 0
}

func (v *View) shortTransport() Fault {
	if v.fragment {
		return FaultTinyFragment
	}
	return FaultTransport
}

func (v *View) parseTCP(b []byte, quoted bool) Fault {
	if !quoted {
		header := int(b[12]>>4) * 4
		if header < minTCP {
			return FaultTransport
		}
		if header > len(b) {
			return v.shortTransport()
		}
	}
	return v.readPorts(b)
}

// parseUDP demands that UDP's own length agrees with IP's; a first fragment states the length of the whole.
func (v *View) parseUDP(b []byte, stated int) Fault {
	length := int(be16(b[4:]))
	if v.fragment && length <= stated || !v.fragment && length != stated {
		return FaultTransport
	}
	return v.readPorts(b)
}

func (v *View) readPorts(b []byte) Fault {
	v.srcPort, v.dstPort = be16(b), be16(b[2:])
	if v.srcPort == 0 || v.dstPort == 0 {
		return FaultPortZero
	}
	return FaultNone
}

// TCPSegment is the TCP header of a packet.
type TCPSegment struct {
	Seq, Ack uint32
	Flags    uint8 // FIN to URG
	Window   uint16
	// Len is the sequence space taken: data, and one each for SYN and FIN. Of a first fragment it is an upper bound, as the rest is not known.
	Len uint32
}

// TCP reads the TCP header; Proto must be ProtoTCP and the packet no later fragment.
func (v *View) TCP() TCPSegment {
	h := v.TCPHeader()
	return TCPSegment{Seq: h.Seq(), Ack: h.Ack(), Flags: h.Flags(), Window: h.Window(), Len: v.TCPLen()}
}

// TCPHeader is a TCP header where it lies, without options: TCP for who wants only some of it, and fast.
type TCPHeader [minTCP]byte

// TCPHeader asks for what TCP does.
func (v *View) TCPHeader() *TCPHeader { return (*TCPHeader)(v.pkt[v.l4:]) }

// TCPLen is TCPSegment.Len.
func (v *View) TCPLen() uint32 {
	h := v.TCPHeader()
	size := uint32(len(v.pkt)-v.l4) - uint32(h[12]>>4)*4
	if v.fragment {
		size = 65535
	}
	return size + uint32(h[13]/SYN&1) + uint32(h[13]/FIN&1)
}

// Seq is the sequence number.
func (h *TCPHeader) Seq() uint32 { return be32(h[4:]) }

// Ack is the acknowledgment number.
func (h *TCPHeader) Ack() uint32 { return be32(h[8:]) }

// Flags are FIN to URG.
func (h *TCPHeader) Flags() uint8 { return h[13] & 0x3f }

// Window is the window as sent, unscaled.
func (h *TCPHeader) Window() uint16 { return be16(h[14:]) }

// WindowScale reads the window scale option of a TCP SYN (RFC 7323): the shift, at most 14, and whether the option is there.
func (v *View) WindowScale() (shift uint8, ok bool) {
	const end, nop, scale, maxShift = 0, 1, 3, 14
	b := v.pkt[v.l4:]
	opts := b[minTCP : int(b[12]>>4)*4]
	for len(opts) > 0 {
		if opts[0] == end {
			return 0, false
		}
		if opts[0] == nop {
			opts = opts[1:]
			continue
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			return 0, false
		}
		if opts[0] == scale && opts[1] == 3 {
			return min(opts[2], maxShift), true
		}
		opts = opts[opts[1]:]
	}
	return 0, false
}

// TransportChecksumOK verifies the checksum of TCP, UDP, ICMP or ICMPv6 over the whole packet; it is meaningless for fragments.
// It reads every byte: not for each packet of a busy flow.
func (v *View) TransportChecksumOK() bool {
	b := v.pkt[v.l4:]
	switch v.proto {
	case ProtoTCP, ProtoICMPv6:
		return fold(v.pseudo(len(b), b)) == 0xffff
	case ProtoUDP:
		if !v.v6 && b[6] == 0 && b[7] == 0 {
			return true
		}
		return fold(v.pseudo(len(b), b)) == 0xffff
	case ProtoICMP:
		return fold(sum(0, b)) == 0xffff
	}
	return true
}

// pseudo sums b and the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
func (v *View) pseudo(length int, b []byte) uint64 {
	s := uint64(v.proto) + uint64(length)
	if v.v6 {
		s = sum(s, v.pkt[8:40])
	} else {
		s = sum(s, v.pkt[12:20])
	}
	return sum(s, b)
}
