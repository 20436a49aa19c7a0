package packet

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

const (
	// The largest ICMP errors: what every host must take (RFC 1812 section 4.3.2.3), and the least IPv6 MTU (RFC 4443 section 2.4 c).
	maxError4 = 576
	maxError6 = 1280

	builtTTL = 64

	codeTooBig4     = 4  // fragmentation needed and DF set, RFC 792
	codeProhibited4 = 13 // communication administratively prohibited, RFC 1812 section 5.2.7.1
	codeProhibited6 = 1  // communication with destination administratively prohibited
)

// MaxReset is how many bytes AppendTCPReset appends at most.
const MaxReset = header6 + minTCP

// AppendTCPReset appends a TCP segment without data, RST set beside the other flags given. src and dst must be of one family.
func AppendTCPReset(dst []byte, from, to netip.AddrPort, seq, ack uint32, flags uint8) []byte {
	start := len(dst)
	dst = slices.Grow(dst, MaxReset)
	dst = appendIP(dst, from.Addr(), to.Addr(), ProtoTCP, minTCP)
	l4 := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, from.Port())
	dst = binary.BigEndian.AppendUint16(dst, to.Port())
	dst = binary.BigEndian.AppendUint32(dst, seq)
	dst = binary.BigEndian.AppendUint32(dst, ack)
	dst = append(dst, minTCP/4<<4, flags|RST, 0, 0, 0, 0, 0, 0)
	return finish(dst, start, l4, 16)
}

// AppendResetFor appends the reset that answers the TCP segment v, as its destination would send it (RFC 9293 section 3.10.7.1), so
// that the sender's stack takes it: for an ACK the sequence number it expects, for a SYN an acknowledgment of exactly it.
// It appends nothing for a reset, and nothing between addresses that are not of the header's family (class Mapped).
func (v *View) AppendResetFor(dst []byte) []byte {
	s := v.TCP()
	from := netip.AddrPortFrom(v.dst.Netip(), v.dstPort)
	to := netip.AddrPortFrom(v.src.Netip(), v.srcPort)
	switch {
	case s.Flags&RST != 0, v.mapped():
		return dst
	case s.Flags&ACK != 0:
		return AppendTCPReset(dst, from, to, s.Ack, 0, 0)
	}
	return AppendTCPReset(dst, from, to, 0, s.Seq+s.Len, ACK)
}

// AppendProhibited appends the ICMP error that tells the sender of v that the packet was administratively prohibited (type 3 code 13,
// in IPv6 type 1 code 1), as v's destination would send it, quoting as much of v as fits. It appends nothing between addresses of class Mapped.
func (v *View) AppendProhibited(dst []byte) []byte {
	if v.v6 {
		return v.appendError(dst, Unreachable6, codeProhibited6, 0)
	}
	return v.appendError(dst, Unreachable4, codeProhibited4, 0)
}

// AppendTooBig appends the ICMP error that tells the sender of v that only packets of up to mtu bytes can go on (RFC 1191 section 4, type 3 code 4;
// RFC 4443 section 3.2, type 2), in the manner of AppendProhibited.
func (v *View) AppendTooBig(dst []byte, mtu int) []byte {
	if v.v6 {
		return v.appendError(dst, PacketTooBig6, 0, uint32(mtu))
	}
	return v.appendError(dst, Unreachable4, codeTooBig4, uint32(min(mtu, 65535)))
}

// appendError appends an ICMP error with four bytes of its own, and a quotation.
func (v *View) appendError(dst []byte, typ, code uint8, own uint32) []byte {
	if v.mapped() {
		return dst
	}
	start, proto, limit := len(dst), uint8(ProtoICMP), maxError4-minHeader4-minICMP
	if v.v6 {
		proto, limit = ProtoICMPv6, maxError6-header6-minICMP
	}
	quote := v.pkt[:min(len(v.pkt), limit)]
	dst = appendIP(dst, v.dst.Netip(), v.src.Netip(), proto, minICMP+len(quote))
	l4 := len(dst)
	dst = append(dst, typ, code, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, own)
	dst = append(dst, quote...)
	return finish(dst, start, l4, 2)
}

func (v *View) mapped() bool { return v.SrcClass() == Mapped || v.DstClass() == Mapped }

// appendIP appends an IP header for a payload of length bytes.
func appendIP(dst []byte, from, to netip.Addr, proto uint8, length int) []byte {
	if from.Is4() {
		start := len(dst)
		dst = append(dst, 0x45, 0)
		dst = binary.BigEndian.AppendUint16(dst, uint16(minHeader4+length))
		dst = append(dst, 0, 0, 0x40, 0, builtTTL, proto, 0, 0) // do not fragment, so the id may be 0 (RFC 6864)
		a, b := from.As4(), to.As4()
		dst = append(append(dst, a[:]...), b[:]...)
		binary.BigEndian.PutUint16(dst[start+10:], ^fold(sum(0, dst[start:])))
		return dst
	}
	dst = append(dst, 0x60, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(length))
	dst = append(dst, proto, builtTTL)
	a, b := from.As16(), to.As16()
	return append(append(dst, a[:]...), b[:]...)
}

// finish writes the transport checksum of the packet dst[start:], whose transport header is at l4 and its checksum at bytes behind.
func finish(dst []byte, start, l4, at int) []byte {
	pkt := dst[start:]
	v := View{pkt: pkt, l4: l4 - start, v6: pkt[0]>>4 == 6}
	v.proto = pkt[9]
	if v.v6 {
		v.proto = pkt[6]
	}
	b := v.Payload()
	s := sum(0, b)
	if v.proto != ProtoICMP {
		s = v.pseudo(len(b), b)
	}
	binary.BigEndian.PutUint16(b[at:], ^fold(s))
	return dst
}
