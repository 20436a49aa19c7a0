package filter

import (
	"sync/atomic"
	"time"

	"picket.internal/wgtun/packet"
)

// Answers to refused packets: so many a second, and at most a second's worth at once. A local program scanning a network needs no more,
// and one in a loop cannot make the host busy with answers.
const (
	answersPerSecond = 2000
	answerInterval   = int64(time.Second) / answersPerSecond
)

// bucket is a token bucket without a lock: the instant at which it will be full (the generic cell rate algorithm).
type bucket struct{ full atomic.Int64 }

func (b *bucket) take(now int64) bool {
	for {
		full := b.full.Load()
		next := max(full, now) + answerInterval
		if next-now > int64(time.Second) {
			return false
		}
		if b.full.CompareAndSwap(full, next) {
			return true
		}
	}
}

// AppendReject appends to dst the packet that tells the sender of the refused egress packet pkt so at once (TCP reset or
// ICMP administratively prohibited), ready to be handed to the local host; it appends nothing where no answer may be given
// (ICMP errors and answers, resets, fragments but the first, multicast), or the answer budget is spent. It is safe for concurrent use.
func (f *Filter) AppendReject(dst, pkt []byte) []byte {
	var v packet.View
	if v.Parse(pkt) != packet.FaultNone || v.IsLaterFragment() || classReason(&v) != ReasonNone || !answerable(&v) {
		return dst
	}
	if !f.rejects.take(f.clock.read()) {
		return dst
	}
	if v.Proto() == packet.ProtoTCP {
		return v.AppendResetFor(dst)
	}
	return v.AppendProhibited(dst)
}

// AppendTooBig appends to dst the packet that tells the sender of the egress packet pkt that only packets of up to mtu bytes can go on, under the
// conditions of AppendReject.
func (f *Filter) AppendTooBig(dst, pkt []byte, mtu int) []byte {
	var v packet.View
	if v.Parse(pkt) != packet.FaultNone || v.IsLaterFragment() || !f.rejects.take(f.clock.read()) {
		return dst
	}
	return v.AppendTooBig(dst, mtu)
}

// answerable refuses what must not be answered, or two hosts would answer each other for ever (RFC 1122 section 3.2.2).
func answerable(v *packet.View) bool {
	if v.IsICMP() {
		kind, _, _ := v.ICMP()
		return kind == packet.ICMPEchoRequest
	}
	return v.Proto() != packet.ProtoTCP || v.TCP().Flags&packet.RST == 0
}
