package hosttun

import (
	"encoding/binary"
	"errors"

	"picket.internal/wgtun/packet"
)

// header is struct virtio_net_hdr, in the byte order of the host.
type header struct {
	flags, gso uint8
	headers    uint16 // length of all headers; the kernel's word is not relied on
	segment    uint16 // payload of each packet but the last
	csumStart  uint16
	csumOffset uint16
}

const headerSize = 10

// Values of linux/virtio_net.h.
const (
	needsCsum = 1

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDP   = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
)

func readHeader(b []byte) header {
	return header{
		flags: b[0], gso: b[1],
		headers: binary.NativeEndian.Uint16(b[2:]), segment: binary.NativeEndian.Uint16(b[4:]),
		csumStart: binary.NativeEndian.Uint16(b[6:]), csumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
}

func (h header) put(b []byte) {
	b[0], b[1] = h.flags, h.gso
	binary.NativeEndian.PutUint16(b[2:], h.headers)
	binary.NativeEndian.PutUint16(b[4:], h.segment)
	binary.NativeEndian.PutUint16(b[6:], h.csumStart)
	binary.NativeEndian.PutUint16(b[8:], h.csumOffset)
}

// whole is a packet as the kernel hands it over.
type whole struct {
	pkt     []byte
	l4      int // where the transport header begins
	payload int // where the data begins that is to be cut
	segment int // data of each packet but the last; 0 when the packet is not to be cut
	tcp     bool
}

var (
	errShort    = errors.New("the kernel handed over less than a header")
	errChecksum = errors.New("the place of the checksum lies outside the packet")
	errKind     = errors.New("the packet is not of the kind that the kernel says")
)

// open reads what one read(2) brought, header first. A packet that is not to be cut gets its checksum.
func open(b []byte) (whole, error) {
	if len(b) <= headerSize {
		return whole{}, errShort
	}
	h, pkt := readHeader(b), b[headerSize:]
	if h.gso == gsoNone {
		return whole{pkt: pkt}, complete(pkt, h)
	}
	w := whole{pkt: pkt, l4: int(h.csumStart), segment: int(h.segment)}
	// The packet's own headers must say the same, or what is cut from it would not be what was judged: a program that may write raw
	// packets chooses the kernel's header too.
	var v packet.View
	if v.Parse(pkt) != packet.FaultNone || v.IsFragment() || len(pkt)-len(v.Payload()) != w.l4 || w.segment == 0 {
		return whole{}, errKind
	}
	switch {
	case v.Proto() == packet.ProtoTCP && (h.gso == gsoTCPv4 && !v.IsIPv6() || h.gso == gsoTCPv6 && v.IsIPv6()):
		w.tcp, w.payload = true, w.l4+int(pkt[w.l4+12]>>4)*4
	case v.Proto() == packet.ProtoUDP && h.gso == gsoUDP:
		w.payload = w.l4 + udpHeader
	default:
		return whole{}, errKind
	}
	if w.payload >= len(pkt) {
		return whole{}, errKind
	}
	return w, nil
}

// complete computes the checksum that the kernel left to us. In its place stands the sum over the pseudo-header.
func complete(pkt []byte, h header) error {
	if h.flags&needsCsum == 0 {
		return nil
	}
	start := int(h.csumStart)
	at := start + int(h.csumOffset)
	if at+2 > len(pkt) {
		return errChecksum
	}
	sum := packet.Checksum(0, pkt[start:])
	if sum == 0 {
		sum = 0xffff // of UDP, 0 would mean that there is none; of TCP it is the same number
	}
	binary.BigEndian.PutUint16(pkt[at:], sum)
	return nil
}

// longest is the length of the longest packet that it is cut into.
func (w *whole) longest() int {
	if w.segment == 0 {
		return len(w.pkt)
	}
	return min(len(w.pkt), w.payload+w.segment)
}

// count is how many packets it is cut into.
func (w *whole) count() int {
	if w.segment == 0 {
		return 1
	}
	return (len(w.pkt) - w.payload + w.segment - 1) / w.segment
}
