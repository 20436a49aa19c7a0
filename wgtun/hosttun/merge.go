package hosttun

import (
	"bytes"
	"encoding/binary"

	"picket.internal/wgtun/packet"
)

const (
	// maxMerged bounds the packets of one run; UDP_MAX_SEGMENTS of older kernels.
	maxMerged = 64
	// maxWhole bounds the length of a run.
	maxWhole = 65535
	// maxLookBack bounds the runs that a packet is compared with.
	maxLookBack = 8
)

// run is a packet, or several of one flow that continue each other and go to the kernel as one.
type run struct {
	pkts    [][]byte // the first with its headers, of the others only the data
	whole   int      // length of all together
	flow    flow
	l4      int
	payload int
	segment int    // data of each but the last
	next    uint32 // TCP: the sequence number that goes on
	open    bool   // more may be joined
	tcp     bool
}

// flow is the ends of a run's packets.
type flow struct {
	addresses [32]byte
	ports     [4]byte
	proto     uint8
	v6        bool
}

// merger joins packets into runs, in the order of their flows. A flow's packets stay in order; between flows, order does not matter.
type merger struct {
	udp    bool // the kernel takes UDP runs
	runs   []run
	closed int // so many of runs take nothing more: behind them came a packet whose flow is not read, and may be theirs
}

func (m *merger) reset() {
	for i := range m.runs {
		clear(m.runs[i].pkts)
		m.runs[i].pkts = m.runs[i].pkts[:0]
	}
	m.runs, m.closed = m.runs[:0], 0
}

// add takes the next packet. It keeps it, and may change the first of a run.
func (m *merger) add(pkt []byte) {
	r := m.fresh()
	r.whole = len(pkt)
	if !m.describe(r, pkt) {
		m.push(r, pkt)
		m.closed = len(m.runs)
		return
	}
	if before := m.before(&r.flow); before != nil && r.open && before.takes(r, pkt) {
		before.join(r, pkt)
		m.runs = m.runs[:len(m.runs)-1] // r
		return
	}
	if r.tcp && pushes(pkt, r.l4) {
		r.open = false
	}
	m.push(r, pkt)
}

// pushes tells whether a TCP segment has PSH, after which nothing is joined: it is for the last of a run only.
func pushes(pkt []byte, l4 int) bool { return pkt[l4+13]&tcpPSH != 0 }

// fresh is the place of the next run; push keeps it.
func (m *merger) fresh() *run {
	if len(m.runs) < cap(m.runs) {
		m.runs = m.runs[:len(m.runs)+1]
	} else {
		m.runs = append(m.runs, run{})
	}
	r := &m.runs[len(m.runs)-1]
	*r = run{pkts: r.pkts[:0]}
	return r
}

func (m *merger) push(r *run, pkt []byte) { r.pkts = append(r.pkts, pkt) }

// before is the last run of a flow, apart from the newest run of all.
func (m *merger) before(f *flow) *run {
	for i := len(m.runs) - 2; i >= max(m.closed, len(m.runs)-2-maxLookBack); i-- {
		if m.runs[i].flow == *f {
			return &m.runs[i]
		}
	}
	return nil
}

// describe fills r from a packet; false when it is none of a flow that runs are made of. r.open tells whether this packet can be part of one.
func (m *merger) describe(r *run, pkt []byte) bool {
	var ok bool
	if r.l4, ok = r.flow.read(pkt); !ok {
		return false
	}
	l4 := pkt[r.l4:]
	switch r.flow.proto {
	case packet.ProtoTCP:
		header := int(l4[12]>>4) * 4
		if header < tcpHeader || header > len(l4) {
			return false
		}
		r.tcp, r.payload = true, r.l4+header
		r.segment = len(pkt) - r.payload
		r.next = binary.BigEndian.Uint32(l4[4:]) + uint32(r.segment)
		r.open = r.segment > 0 && l4[13]&^tcpPSH == tcpACK
	case packet.ProtoUDP:
		r.payload = r.l4 + udpHeader
		r.segment = len(pkt) - r.payload
		r.open = m.udp && r.segment > 0 && int(binary.BigEndian.Uint16(l4[4:])) == len(l4) && (l4[6] != 0 || l4[7] != 0)
	}
	return true
}

// read notes a packet's ends, and returns where its transport header begins; false for what is never joined: fragments, options, other protocols.
func (f *flow) read(pkt []byte) (l4 int, ok bool) {
	switch {
	case len(pkt) >= ipv4Header+udpHeader && pkt[0] == 0x45 && pkt[6]&0x3f == 0 && pkt[7] == 0:
		f.proto, l4 = pkt[9], ipv4Header
		copy(f.addresses[:], pkt[12:20])
	case len(pkt) >= ipv6Header+udpHeader && pkt[0]>>4 == 6:
		f.proto, l4, f.v6 = pkt[6], ipv6Header, true
		copy(f.addresses[:], pkt[8:40])
	default:
		return 0, false
	}
	if f.proto != packet.ProtoUDP && (f.proto != packet.ProtoTCP || len(pkt) < l4+tcpHeader) {
		return 0, false
	}
	copy(f.ports[:], pkt[l4:])
	return l4, true
}

// takes tells whether a packet, which r describes, goes on where the run ends.
func (b *run) takes(r *run, pkt []byte) bool {
	if !b.open || r.segment > b.segment || len(b.pkts) == maxMerged || b.whole+r.segment > maxWhole || r.payload != b.payload {
		return false
	}
	if b.tcp && r.next-uint32(r.segment) != b.next {
		return false
	}
	if !sameHeaders(b.pkts[0], pkt, b.l4, b.payload, b.tcp) {
		return false
	}
	// The kernel will believe the checksum of a run: each part must have proved its own.
	if len(b.pkts) == 1 && !b.intact(b.pkts[0]) {
		b.open = false
		return false
	}
	return b.intact(pkt)
}

// sameHeaders compares all that differs between packets of a flow only when they must not be joined: traffic class, hops, the fragment bits,
// and of TCP acknowledgment, window, urgent pointer and options.
func sameHeaders(a, b []byte, l4, payload int, tcp bool) bool {
	if a[0]>>4 == 6 {
		if a[0] != b[0] || !bytes.Equal(a[1:4], b[1:4]) || a[7] != b[7] {
			return false
		}
	} else if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] {
		return false
	}
	return !tcp || bytes.Equal(a[l4+8:l4+13], b[l4+8:l4+13]) && bytes.Equal(a[l4+14:l4+16], b[l4+14:l4+16]) && bytes.Equal(a[l4+18:payload], b[l4+18:payload])
}

func (b *run) intact(pkt []byte) bool {
	return packet.Checksum(pseudo(pkt, b.flow.proto, len(pkt)-b.l4), pkt[b.l4:]) == 0
}

func (b *run) join(r *run, pkt []byte) {
	b.pkts = append(b.pkts, pkt[r.payload:])
	b.whole += r.segment
	b.next = r.next
	if r.segment < b.segment {
		b.open = false
	}
	if b.tcp && pushes(pkt, r.l4) {
		b.pkts[0][b.l4+13] |= tcpPSH
		b.open = false
	}
}

// finish makes the first packet's headers those of the whole run, and returns what tells the kernel to cut it where it was joined.
func (b *run) finish() header {
	if len(b.pkts) == 1 {
		return header{}
	}
	first := b.pkts[0]
	h := header{flags: needsCsum, headers: uint16(b.payload), segment: uint16(b.segment), csumStart: uint16(b.l4), csumOffset: 6, gso: gsoUDP}
	if b.flow.v6 {
		binary.BigEndian.PutUint16(first[4:], uint16(b.whole-ipv6Header))
	} else {
		binary.BigEndian.PutUint16(first[2:], uint16(b.whole))
		first[10], first[11] = 0, 0
		binary.BigEndian.PutUint16(first[10:], packet.Checksum(0, first[:b.l4]))
	}
	if b.tcp {
		h.csumOffset, h.gso = 16, gsoTCPv4
		if b.flow.v6 {
			h.gso = gsoTCPv6
		}
	} else {
		binary.BigEndian.PutUint16(first[b.l4+4:], uint16(b.whole-b.l4))
	}
	at := b.l4 + int(h.csumOffset)
	binary.BigEndian.PutUint16(first[at:], ^packet.Checksum(pseudo(first, b.flow.proto, b.whole-b.l4), nil))
	return h
}
