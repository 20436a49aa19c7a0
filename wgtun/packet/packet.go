// Package packet is a view over the headers of one IP packet.
//
// A View reads IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792) and ICMPv6 (RFC 4443) where they lie.
// Parse refuses with a Fault whatever it cannot read without guessing, so that what a View says is what every other reader of the
// same bytes would say: two readers who disagree about a packet are how filters are passed.
//
//	IPv4    0 version|IHL  2 total length  4 id  6 flags|offset  8 TTL  9 protocol  10 checksum  12 source  16 destination  20 options
//	IPv6    0 version      4 payload length  6 next header  7 hop limit  8 source  24 destination  40 extension headers
//	TCP     0 source port  2 destination port  4 sequence  8 acknowledgment  12 data offset  13 flags  14 window  16 checksum  20 options
//	UDP     0 source port  2 destination port  4 length  6 checksum
//	ICMP    0 type  1 code  2 checksum  4 id (echo)  6 sequence (echo)  8 quoted packet (errors)
package packet

import "encoding/binary"

// IP protocol numbers with meaning here.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoDCCP   = 33
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
	ProtoUDPL   = 136 // UDP-Lite
)

// View is the headers of one packet. It refers to the bytes given to Parse and never changes them.
// The zero View is of no packet: only a View that Parse filled without a Fault may be asked anything.
type View struct {
	pkt      []byte
	src, dst Addr
	l4       int // where the transport header starts, or the payload of a later fragment

	srcPort, dstPort uint16
	proto            uint8
	v6               bool

	fragment bool // one of several: an IPv6 atomic fragment (RFC 6946) is not
	more     bool
	fragAt   uint16 // bytes
	fragID   uint32

	further uint16 // segments beside the first that the packet is to be cut into
}

// Parse makes v a view of b, which must be one whole IP packet and nothing else. It returns FaultNone or why b was refused; then v is
// of no use. It allocates nothing and keeps b.
func (v *View) Parse(b []byte) Fault {
	if v.ParsePlain(b) {
		return FaultNone
	}
	return v.parse(b, false)
}

// parse reads b; a quoted packet may have been cut short after 8 bytes of its transport header, its lengths and checksum then
// describe the original.
func (v *View) parse(b []byte, quoted bool) Fault {
	v.fragment, v.more, v.fragAt, v.fragID = false, false, 0, 0
	v.srcPort, v.dstPort = 0, 0
	if len(b) == 0 {
		return FaultShort
	}
	switch b[0] >> 4 {
	case 4:
		return v.parse4(b, quoted)
	case 6:
		return v.parse6(b, quoted)
	}
	return FaultVersion
}

// Bytes is the packet.
func (v *View) Bytes() []byte { return v.pkt }

// Len is the packet's length in bytes, headers included.
func (v *View) Len() int { return len(v.pkt) }

// CutInto notes that the packet is one of several in one, and is to be cut into n segments, 1 to 65535 (generic segmentation offload).
func (v *View) CutInto(n int) { v.further = uint16(n - 1) }

// Segments is how many packets it is to be sent as: 1, unless CutInto said otherwise.
func (v *View) Segments() int { return 1 + int(v.further) }

// SegmentsLen is the length in bytes of all of them together. Each has the packet's headers.
func (v *View) SegmentsLen() int {
	if v.further == 0 {
		return len(v.pkt)
	}
	return v.segmentsLen()
}

func (v *View) segmentsLen() int {
	headers := v.l4
	switch v.proto {
	case ProtoTCP:
		headers += int(v.pkt[v.l4+12]>>4) * 4
	case ProtoUDP:
		headers += 8
	}
	return len(v.pkt) + int(v.further)*headers
}

// IsIPv6 tells the family.
func (v *View) IsIPv6() bool { return v.v6 }

// Src is the source address.
func (v *View) Src() Addr { return v.src }

// Dst is the destination address.
func (v *View) Dst() Addr { return v.dst }

// Proto is the protocol of the transport header. Of a later IPv6 fragment it is only what the fragment header claims, which may be
// one more extension header.
func (v *View) Proto() uint8 { return v.proto }

// SrcPort is the source port; 0 for protocols without ports and later fragments.
func (v *View) SrcPort() uint16 { return v.srcPort }

// DstPort is the destination port; 0 for protocols without ports and later fragments.
func (v *View) DstPort() uint16 { return v.dstPort }

// Payload is what follows the IP headers: transport header and data, or a fragment's share of them.
func (v *View) Payload() []byte { return v.pkt[v.l4:] }

// IsFragment tells whether the packet is one of several fragments.
func (v *View) IsFragment() bool { return v.fragment }

// IsLaterFragment tells whether the packet is a fragment without the transport header.
func (v *View) IsLaterFragment() bool { return v.fragAt != 0 }

// Fragment describes a fragment: its identification, where its payload lies in the whole (first byte, and one past the last), and
// whether others follow.
func (v *View) Fragment() (id uint32, from, to int, more bool) {
	from = int(v.fragAt)
	return v.fragID, from, from + len(v.pkt) - v.l4, v.more
}

// setFragment notes fragment fields and refuses impossible ones: a length that leaves holes between fragments, nothing at all, or a
// whole beyond 65535 bytes (the "ping of death").
func (v *View) setFragment(offset int, more bool, id uint32, payload, headers int) Fault {
	if offset == 0 && !more {
		return FaultNone
	}
	if payload == 0 || more && payload%8 != 0 || headers+offset+payload > 65535 {
		return FaultFragment
	}
	v.fragment, v.more, v.fragAt, v.fragID = true, more, uint16(offset), id
	return FaultNone
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
