package hosttun

import (
	"encoding/binary"

	"picket.internal/wgtun/packet"
)

const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	udpHeader  = 8

	tcpFIN, tcpPSH, tcpACK, tcpCWR = 0x01, 0x08, 0x10, 0x80
)

// give writes packet i of those that it is cut into to dst and returns its length; 0 when dst is too short.
func (w *whole) give(i int, dst []byte) int {
	switch {
	case w.segment > 0:
		return w.cut(i, dst)
	case len(w.pkt) > len(dst): // a part of it would not be what was judged
		return 0
	}
	return copy(dst, w.pkt)
}

// cut writes segment i (RFC 9293 for TCP; Linux's UDP_SEGMENT for UDP) into dst and returns its length; 0 when dst is too short.
func (w *whole) cut(i int, dst []byte) int {
	from := w.payload + i*w.segment
	to := min(from+w.segment, len(w.pkt))
	length := w.payload + to - from
	if length > len(dst) {
		return 0
	}
	dst = dst[:length]
	copy(dst, w.pkt[:w.payload])
	copy(dst[w.payload:], w.pkt[from:to])
	w.fixIP(dst, i)
	if w.tcp {
		w.fixTCP(dst[w.l4:], i, to == len(w.pkt))
	} else {
		binary.BigEndian.PutUint16(dst[w.l4+4:], uint16(length-w.l4))
	}
	w.sum(dst)
	return length
}

// fixIP sets length, identification (one more a segment, RFC 6864 section 4.1) and header checksum.
func (w *whole) fixIP(dst []byte, i int) {
	if dst[0]>>4 == 6 {
		binary.BigEndian.PutUint16(dst[4:], uint16(len(dst)-ipv6Header))
		return
	}
	binary.BigEndian.PutUint16(dst[2:], uint16(len(dst)))
	binary.BigEndian.PutUint16(dst[4:], binary.BigEndian.Uint16(dst[4:])+uint16(i))
	dst[10], dst[11] = 0, 0
	binary.BigEndian.PutUint16(dst[10:], packet.Checksum(0, dst[:w.l4]))
}

// fixTCP sets the sequence number, and the flags that belong to the first or the last segment only.
func (w *whole) fixTCP(tcp []byte, i int, last bool) {
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(i*w.segment))
	if !last {
		tcp[13] &^= tcpFIN | tcpPSH
	}
	if i > 0 {
		tcp[13] &^= tcpCWR
	}
}

// sum sets the transport checksum.
func (w *whole) sum(dst []byte) {
	at, proto := w.l4+6, uint8(packet.ProtoUDP)
	if w.tcp {
		at, proto = w.l4+16, packet.ProtoTCP
	}
	dst[at], dst[at+1] = 0, 0
	sum := packet.Checksum(pseudo(dst, proto, len(dst)-w.l4), dst[w.l4:])
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(dst[at:], sum)
}

// pseudo sums the pseudo-header of a packet (RFC 9293 section 3.1, RFC 8200 section 8.1) for a transport part of so many bytes.
func pseudo(pkt []byte, proto uint8, length int) uint64 {
	addresses := pkt[12:20]
	if pkt[0]>>4 == 6 {
		addresses = pkt[8:40]
	}
	return packet.Sum(uint64(proto)+uint64(length), addresses)
}
