package filter

import "picket.internal/wgtun/packet"

// tcpEnd is what is known of one end of a TCP connection from the segments it sent.
type tcpEnd struct {
	end    uint32 // one past the highest it sent
	ack    uint32 // the highest acknowledgment it sent, when acked
	maxWin uint32 // the largest window it offered, in bytes
	scale  uint8
	scaled bool // its SYN had the window scale option
	acked  bool
	fin    bool // it sent FIN, the last of its sequence space
}

// offered tells whether an end can have offered its largest window: 16 bits, shifted by its scale.
func (e *tcpEnd) offered() bool { return uint64(e.maxWin) <= 0xffff<<(e.scale&15) }

const (
	// leastWindow is assumed of ends that offered less: retransmissions and probes may lie that far back.
	leastWindow = 1 << 16
	// slack is allowed above a window, for segments that were on their way when it changed.
	slack = 1 << 16

	openingFlags = packet.SYN | packet.ACK | packet.RST | packet.FIN
)

// isSYN tells whether the flags are those of the only segment that opens a connection.
func isSYN(flags uint8) bool { return flags&openingFlags == packet.SYN }

// flagsMakeSense refuses combinations that no honest stack sends, and which receivers read in different ways.
func flagsMakeSense(flags uint8) bool {
	const syn, rst, fin, ack = packet.SYN, packet.RST, packet.FIN, packet.ACK
	switch flags & openingFlags {
	case syn, syn | ack, ack, fin | ack, rst, rst | ack:
		return true
	}
	return false
}

// after tells whether a comes after b in sequence space.
func after(a, b uint32) bool { return int32(a-b) > 0 }

// openTCP notes the SYN that an end opens its half of a connection with.
func (fl *flow) openTCP(v *packet.View, s *packet.TCPSegment, dir direction) {
	e := tcpEnd{end: s.Seq + s.Len, maxWin: uint32(s.Window)}
	e.scale, e.scaled = v.WindowScale()
	fl.ends[dir], fl.starts[dir] = e, s.Seq
}

// followTCP judges the segments of a connection in the table that acknowledge does not. known is false for a SYN that may open a new
// connection where the old one is over. A SYN in the middle of a connection passes without effect: its receiver asks back (RFC 5961
// section 4), and should the opener have lost the connection, it answers that with an exact reset.
func (fl *flow) followTCP(v *packet.View, dir direction, now int64) (reason Reason, known bool) {
	seg := v.TCP()
	s := &seg
	over := fl.ended() || fl.state == stateReset
	switch {
	case !flagsMakeSense(s.Flags):
		return ReasonTCPFlags, true
	case over && isSYN(s.Flags):
		return ReasonNone, false
	case fl.state == stateClosed:
		return ReasonTCPClosed, true
	case s.Flags&packet.RST != 0:
		return fl.reset(v, s, dir, now), true
	case s.Flags&packet.SYN != 0:
		return fl.synchronize(v, s, dir), true
	}
	return fl.answerWithoutSYN(s, dir), true
}

// acknowledge judges what a connection is made of, segments with ACK and without SYN and RST. They must lie where the other end can want
// them, and acknowledge only what it sent.
func (fl *flow) acknowledge(v *packet.View, h *packet.TCPHeader, dir direction) Reason {
	seq, ack, fin := h.Seq(), h.Ack(), h.Flags()&packet.FIN != 0
	end := seq + v.TCPLen()
	me, other := &fl.ends[dir&1], &fl.ends[dir&1^1]
	// Before the other end has acknowledged anything, and this one either, only their SYNs tell.
	var highest, oldest uint32
	if other.acked {
		highest = other.ack + other.maxWin + slack
	} else {
		highest = fl.starts[dir&1] + leastWindow + slack
	}
	if me.acked {
		oldest = me.ack - max(me.maxWin, leastWindow) - slack
	} else {
		oldest = fl.starts[dir&1^1] + 1
	}
	if after(me.end, highest) {
		highest = me.end
	}
	lowest := me.end - max(other.maxWin, leastWindow) - slack
	// Distances, not comparisons with both ends: half the sequence space away there is what passes two of those.
	if end-lowest > highest-lowest || other.end-ack > other.end-oldest {
		return ReasonTCPWindow
	}
	if after(end, me.end) {
		if me.fin {
			return ReasonTCPWindow
		}
		me.end = end
	}
	if !me.acked || !after(me.ack, ack) {
		me.ack, me.acked = ack, true
		me.maxWin = max(me.maxWin, uint32(h.Window())<<(me.scale&15))
	}
	if fin || fl.state != stateEstablished {
		me.fin = me.fin || fin
		fl.progress(dir)
	}
	return ReasonNone
}

// synchronize judges segments with SYN.
func (fl *flow) synchronize(v *packet.View, s *packet.TCPSegment, dir direction) Reason {
	me, other := &fl.ends[dir&1], &fl.ends[dir&1^1]
	opener := dir == fl.dir
	switch {
	case isSYN(s.Flags) && !opener:
		return ReasonTCPOpen
	case isSYN(s.Flags):
		if fl.state == stateSynSent {
			fl.openTCP(v, s, dir)
		}
		return ReasonNone
	case opener:
		return ReasonTCPFlags
	case fl.state != stateSynSent:
		if s.Seq != fl.starts[dir] {
			return ReasonTCPWindow
		}
		return ReasonNone
	case !after(s.Ack, fl.starts[dir^1]) || after(s.Ack, other.end):
		return ReasonTCPWindow
	}
	fl.openTCP(v, s, dir)
	me.ack, me.acked = s.Ack, true
	if !me.scaled || !other.scaled {
		me.scale, other.scale = 0, 0
	}
	fl.state = stateSynReceived
	return ReasonNone
}

// answerWithoutSYN judges a segment without SYN before the answering SYN came. An end that still holds an older connection of the same
// ports answers a SYN with a bare ACK, and lets go of it when that is answered with a reset; without either, the ports stay unusable.
func (fl *flow) answerWithoutSYN(s *packet.TCPSegment, dir direction) Reason {
	if dir == fl.dir || s.Len != 0 || s.Flags&openingFlags != packet.ACK {
		return ReasonTCPWindow
	}
	fl.challenge, fl.challenged = s.Ack, true
	return ReasonNone
}

// reset judges a reset: it must be in the window of its receiver to pass, and just where the connection stands to end it, or a stranger to
// the connection could do so by guessing.
func (fl *flow) reset(v *packet.View, s *packet.TCPSegment, dir direction, now int64) Reason {
	me, other := &fl.ends[dir&1], &fl.ends[dir&1^1]
	if !v.IsFragment() && !v.TransportChecksumOK() {
		return reasonOfFault(packet.FaultTransport)
	}
	if fl.state == stateSynSent {
		return fl.resetBeforeAnswer(s, dir, now)
	}
	expected := other.ack
	if !other.acked {
		expected = me.end
	}
	switch {
	case s.Seq == expected && expected == me.end:
		fl.state, fl.last = stateClosed, now
	case s.Seq == expected || other.acked && s.Seq == me.end:
		if fl.state != stateReset {
			fl.state, fl.last = stateReset, now
		}
	case other.acked && s.Seq-expected <= other.maxWin:
		// Anybody who can write the sender's address may have guessed so much: only silence makes it true.
		if fl.state < stateTimeWait {
			fl.state, fl.last = stateDoubted, now
		}
	default:
		return ReasonTCPWindow
	}
	return ReasonNone
}

func (fl *flow) resetBeforeAnswer(s *packet.TCPSegment, dir direction, now int64) Reason {
	opener := &fl.ends[fl.dir]
	switch {
	case dir == fl.dir && fl.challenged && s.Seq == fl.challenge:
		return ReasonNone
	case dir == fl.dir && s.Seq == opener.end:
		fl.state, fl.last = stateClosed, now
	case dir != fl.dir && s.Flags&packet.ACK != 0 && after(s.Ack, fl.starts[fl.dir]) && !after(s.Ack, opener.end):
		fl.state, fl.last = stateClosed, now
	default:
		return ReasonTCPWindow
	}
	return ReasonNone
}

// progress moves the state after a segment that passed. One with ACK shows that a reset in doubt was none.
func (fl *flow) progress(dir direction) {
	if fl.state == stateReset || fl.state == stateTimeWait {
		return
	}
	a, b := &fl.ends[0], &fl.ends[1]
	if fl.state == stateSynReceived && dir == fl.dir || fl.state == stateDoubted {
		fl.state = stateEstablished
	}
	if a.fin || b.fin {
		fl.state = stateClosing
	}
	if a.fin && b.fin && a.ack == b.end && b.ack == a.end {
		fl.state = stateTimeWait
	}
}

// appendReset appends the reset that ends the local end of a connection, as the far end would have sent it. The local stack acts at once
// only on the sequence number that it expects next (RFC 5961): all that was handed to it, if nothing is missing in between. If
// something is, it asks back, and gets the exact reset by AppendReject.
func (fl *entry) appendReset(b []byte) []byte {
	if fl.k.proto() != packet.ProtoTCP || fl.ended() {
		return b
	}
	from, to := fl.remoteEnd(), fl.localEnd()
	local, remote := &fl.ends[egress], &fl.ends[ingress]
	if fl.state == stateSynSent && fl.dir == egress {
		return packet.AppendTCPReset(b, from, to, 0, local.end, packet.ACK)
	}
	seq := remote.end
	if local.acked && seq-local.ack > local.maxWin {
		seq = local.ack
	}
	if fl.state == stateSynSent {
		return packet.AppendTCPReset(b, from, to, seq, 0, 0)
	}
	return packet.AppendTCPReset(b, from, to, seq, local.end, packet.ACK)
}
