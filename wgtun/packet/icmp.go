package packet

// ICMP message types with meaning here.
const (
	EchoReply4   = 0
	Unreachable4 = 3
	EchoRequest4 = 8
	TimeExceeded = 11
	BadParameter = 12

	Unreachable6  = 1
	PacketTooBig6 = 2
	TimeExceeded6 = 3
	BadParameter6 = 4
	EchoRequest6  = 128
	EchoReply6    = 129
)

// ICMPKind is what an ICMP message is to a filter.
type ICMPKind uint8

// The kinds. Redirects, source quench, neighbour discovery, multicast listener reports and all else are ICMPOther: between overlay
// hosts nothing good comes of them.
const (
	ICMPOther ICMPKind = iota
	ICMPEchoRequest
	ICMPEchoReply
	ICMPError
)

// IsICMP tells whether the packet is ICMP or ICMPv6.
func (v *View) IsICMP() bool { return v.proto == ProtoICMP || v.proto == ProtoICMPv6 }

// ICMP reads type, code and kind; IsICMP must hold and the packet be no later fragment.
func (v *View) ICMP() (kind ICMPKind, typ, code uint8) {
	b := v.pkt[v.l4:]
	typ, code = b[0], b[1]
	if v.v6 {
		return kind6(typ, code), typ, code
	}
	return kind4(typ, code), typ, code
}

func kind4(typ, code uint8) ICMPKind {
	switch {
	case typ == EchoRequest4 && code == 0:
		return ICMPEchoRequest
	case typ == EchoReply4 && code == 0:
		return ICMPEchoReply
	case typ == Unreachable4, typ == TimeExceeded, typ == BadParameter:
		return ICMPError
	}
	return ICMPOther
}

func kind6(typ, code uint8) ICMPKind {
	switch {
	case typ == EchoRequest6 && code == 0:
		return ICMPEchoRequest
	case typ == EchoReply6 && code == 0:
		return ICMPEchoReply
	case typ >= Unreachable6 && typ <= BadParameter6:
		return ICMPError
	}
	return ICMPOther
}

// EchoID is the identifier of an echo request or reply.
func (v *View) EchoID() uint16 { return be16(v.pkt[v.l4+4:]) }

// Quote makes q a view of the packet that an ICMP error quotes, and returns FaultNone, or why it cannot be read. Of q only addresses,
// protocol, ports, EchoID, ICMP and QuotedSeq are certain: it may end 8 bytes into its transport header. A quoted later fragment has
// no ports and is refused.
func (v *View) Quote(q *View) Fault {
	if fault := q.parse(v.pkt[v.l4+minICMP:], true); fault != FaultNone {
		return fault
	}
	if q.fragAt != 0 {
		return FaultFragment
	}
	if len(q.Payload()) < minQuotedTransport {
		return FaultTransport
	}
	return FaultNone
}

// QuotedSeq is the sequence number of a quoted TCP segment.
func (v *View) QuotedSeq() uint32 { return be32(v.pkt[v.l4+4:]) }
