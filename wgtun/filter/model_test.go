package filter

import (
	"slices"
	"time"

	"picket.internal/acl"
)

// The slow and obvious filter of one pair of nodes: what DESIGN.md section 6 says of flows, written down apart from the fast one.
// Sequence numbers are plain integers here, and a packet's fragments a list of the bytes that were there.

// slowEnd is one end of a TCP connection, by what it sent.
type slowEnd struct {
	start, end, ack, window int64
	acked, scaled, fin      bool
	scale                   uint
}

// slowFlow is a flow of any protocol. phase is "" for datagrams.
type slowFlow struct {
	proto     acl.Proto
	out       bool // opened by self
	phase     string
	seen      time.Time
	replied   bool
	cut       bool
	gone      bool
	ends      [2]slowEnd // of self, of alice
	challenge int64      // -1 for none
}

// slowKey is a flow's ends; for an echo, whose request it is.
type slowKey struct {
	proto       acl.Proto
	self, alice uint16
	asked       byte
}

// slowWhole is a packet in fragments.
type slowWhole struct {
	fl     *slowFlow
	born   time.Time
	bytes  map[int]bool
	pieces [][2]int
	length int
	spoilt bool
}

type slowFilter struct {
	flows  map[slowKey]*slowFlow
	wholes map[int]*slowWhole // by direction, protocol and id
	rules  []acl.Rule
}

var slowTimeouts = map[string]time.Duration{
	"opening": 30 * time.Second, "answered": time.Minute, "established": 24 * time.Hour, "closing": 10 * time.Minute, "over": time.Minute,
	"doubted": 10 * time.Second, "reset": 10 * time.Second, "closed": 10 * time.Second,
}

func (fl *slowFlow) timeout() time.Duration {
	switch {
	case fl.cut:
		return time.Minute
	case fl.phase != "":
		return slowTimeouts[fl.phase]
	case fl.replied:
		return 3 * time.Minute
	}
	return 30 * time.Second
}

func (m *slowFilter) expire() {
	for k, fl := range m.flows {
		if time.Since(fl.seen) >= fl.timeout() {
			fl.gone = true
			delete(m.flows, k)
		}
	}
	for id, w := range m.wholes {
		if time.Since(w.born) >= 5*time.Second {
			delete(m.wholes, id)
		}
	}
}

// allows tells whether self (out) or alice may open a flow.
func (m *slowFilter) allows(k slowKey, out bool) bool {
	q := acl.Flow{Src: alice4, Dst: self4, Proto: k.proto, Port: k.self}
	if out {
		q = acl.Flow{Src: self4, Dst: alice4, Proto: k.proto, Port: k.alice}
	}
	if !k.proto.HasPorts() {
		q.Port = 0
	}
	return rulesOf(m.rules...).Allows(q, time.Now()).Allow
}

func (m *slowFilter) swap(rules []acl.Rule) {
	m.expire()
	m.rules = rules
	for k, fl := range m.flows {
		if !fl.cut && !m.allows(k, fl.out) {
			fl.cut, fl.seen = true, time.Now()
		}
	}
}

// slowPacket is a whole packet, or the first fragment of one.
type slowPacket struct {
	slowKey
	out      bool
	opens    bool // not an echo reply
	seg      seg
	fragment bool
}

// judge tells whether a packet passes, and notes it when it does.
func (m *slowFilter) judge(p slowPacket) bool {
	m.expire()
	fl := m.flows[p.slowKey]
	if fl == nil {
		return m.open(p)
	}
	if p.proto == acl.TCP {
		return m.judgeTCP(fl, p)
	}
	if fl.cut {
		return p.out == fl.out && m.open(p)
	}
	fl.replied = fl.replied || p.out != fl.out
	fl.seen = time.Now()
	return true
}

func (m *slowFilter) open(p slowPacket) bool {
	if !p.opens || p.proto == acl.TCP && p.seg.flags&(fSYN|fACK|fRST|fFIN) != fSYN || !m.allows(p.slowKey, p.out) {
		return false
	}
	if old := m.flows[p.slowKey]; old != nil {
		old.gone = true
	}
	fl := &slowFlow{proto: p.proto, out: p.out, seen: time.Now(), challenge: -1}
	if p.proto == acl.TCP {
		fl.phase = "opening"
		*fl.end(p.out) = p.firstOf(int64(p.seg.seq))
	}
	m.flows[p.slowKey] = fl
	return true
}

func (fl *slowFlow) end(self bool) *slowEnd {
	if self {
		return &fl.ends[0]
	}
	return &fl.ends[1]
}

// space is how much of the sequence a segment takes; of a fragmented one only that it may be 65535 bytes is known.
func (p slowPacket) space() int64 {
	n := int64(space(p.seg.flags, p.seg.data))
	if p.fragment {
		n += 65535 - int64(p.seg.data)
	}
	return n
}

// firstOf is an end after its SYN.
func (p slowPacket) firstOf(start int64) slowEnd {
	e := slowEnd{start: start, end: start + p.space(), window: int64(p.seg.window)}
	if p.seg.scale > 0 {
		e.scaled, e.scale = true, uint(min(p.seg.scale-1, 14))
	}
	return e
}

// near is the integer next to ref that a sequence number stands for.
func near(seq uint32, ref int64) int64 { return ref + int64(int32(seq-uint32(ref))) }

func (m *slowFilter) judgeTCP(fl *slowFlow, p slowPacket) bool {
	flags := p.seg.flags & (fSYN | fACK | fRST | fFIN)
	over := fl.cut || fl.phase == "over" || fl.phase == "reset" || fl.phase == "closed"
	if over && flags == fSYN {
		return m.open(p)
	}
	known := slices.Contains([]uint8{fSYN, fSYN | fACK, fACK, fFIN | fACK, fRST, fRST | fACK}, flags)
	if fl.cut || !known || fl.phase == "closed" {
		return false
	}
	pass := false
	before := fl.phase
	switch {
	case flags&fRST != 0:
		pass = fl.reset(p, flags)
	case flags == fSYN:
		if pass = p.out == fl.out; pass && fl.phase == "opening" {
			*fl.end(p.out) = p.firstOf(int64(p.seg.seq))
		}
	case flags == fSYN|fACK:
		pass = fl.answer(p)
	case fl.phase == "opening":
		if pass = p.out != fl.out && flags == fACK && p.space() == 0; pass {
			fl.challenge = int64(p.seg.ack)
		}
	default:
		pass = fl.acknowledge(p, flags&fFIN != 0)
	}
	resetting := func(phase string) bool { return phase == "doubted" || phase == "reset" || phase == "closed" }
	if pass && (!resetting(fl.phase) || fl.phase != before) {
		fl.seen = time.Now()
	}
	return pass
}

func (fl *slowFlow) answer(p slowPacket) bool {
	me, opener := fl.end(p.out), fl.end(fl.out)
	if p.out == fl.out {
		return false
	}
	if fl.phase != "opening" {
		return p.seg.seq == uint32(me.start)
	}
	ack := near(p.seg.ack, opener.end)
	if ack <= opener.start || ack > opener.end {
		return false
	}
	*me = p.firstOf(int64(p.seg.seq))
	me.ack, me.acked = ack, true
	if !me.scaled || !opener.scaled {
		me.scale, opener.scale = 0, 0
	}
	fl.phase = "answered"
	return true
}

func (fl *slowFlow) acknowledge(p slowPacket, fin bool) bool {
	me, other := fl.end(p.out), fl.end(!p.out)
	end, ack := near(p.seg.seq+uint32(p.space()), me.end), near(p.seg.ack, other.end)
	top := me.start + 1<<16
	if other.acked {
		top = other.ack + other.window
	}
	top = max(top+1<<16, me.end)
	if end > top || end < me.end-max(other.window, 1<<16)-1<<16 || ack > other.end || me.fin && end > me.end {
		return false
	}
	oldest := other.start + 1
	if me.acked {
		oldest = me.ack - max(me.window, 1<<16) - 1<<16
	}
	if ack < oldest {
		return false
	}
	me.end = max(me.end, end)
	me.fin = me.fin || fin
	if !me.acked || ack >= me.ack {
		me.ack, me.acked, me.window = ack, true, max(me.window, int64(p.seg.window)<<me.scale)
	}
	switch {
	case fl.phase == "reset" || fl.phase == "over":
		return true
	case fl.phase == "answered" && p.out == fl.out, fl.phase == "doubted":
		fl.phase = "established"
	}
	a, b := fl.ends[0], fl.ends[1]
	if a.fin || b.fin {
		fl.phase = "closing"
	}
	if a.fin && b.fin && a.ack == b.end && b.ack == a.end {
		fl.phase = "over"
	}
	return true
}

func (fl *slowFlow) reset(p slowPacket, flags uint8) bool {
	me, other := fl.end(p.out), fl.end(!p.out)
	if fl.phase == "opening" && p.out == fl.out {
		if fl.challenge >= 0 && p.seg.seq == uint32(fl.challenge) {
			return true
		}
		if p.seg.seq != uint32(me.end) {
			return false
		}
		fl.phase = "closed"
		return true
	}
	if fl.phase == "opening" {
		ack := near(p.seg.ack, other.end)
		if flags != fRST|fACK || ack <= other.start || ack > other.end {
			return false
		}
		fl.phase = "closed"
		return true
	}
	stands := other.acked && p.seg.seq == uint32(other.ack)
	ends := p.seg.seq == uint32(me.end)
	seq := near(p.seg.seq, other.ack)
	switch {
	case ends && (stands || !other.acked):
		fl.phase = "closed"
	case stands || ends:
		fl.phase = "reset"
	case other.acked && seq >= other.ack && seq <= other.ack+other.window:
		if fl.phase != "over" && fl.phase != "reset" {
			fl.phase = "doubted"
		}
	default:
		return false
	}
	return true
}

// fragment judges one fragment; first is the packet as far as a first one tells.
func (m *slowFilter) fragment(id, from, to int, more bool, first *slowPacket) bool {
	m.expire()
	w := m.wholes[id]
	if w == nil {
		if first == nil || !m.judge(*first) {
			return false
		}
		fl := m.flows[first.slowKey]
		if fl == nil || fl.phase == "closed" {
			return false
		}
		m.wholes[id] = &slowWhole{fl: fl, born: time.Now(), bytes: map[int]bool{}}
		w = m.wholes[id]
	} else if first == nil && (w.fl.gone || w.fl.cut || w.fl.phase == "closed") {
		delete(m.wholes, id)
		return false
	}
	if !w.add(from, to, more) {
		return false
	}
	if first == nil && w.fl.phase != "doubted" && w.fl.phase != "reset" {
		w.fl.seen = time.Now()
	}
	if w.length > 0 && len(w.bytes) == w.length {
		delete(m.wholes, id)
	}
	return true
}

func (w *slowWhole) add(from, to int, more bool) bool {
	if w.spoilt || slices.Contains(w.pieces, [2]int{from, to}) {
		return false
	}
	spoilt := len(w.pieces) == 120 || w.length > 0 && (to > w.length || !more)
	for at := range w.bytes {
		spoilt = spoilt || at >= from && at < to || !more && at >= to
	}
	if w.spoilt = spoilt; spoilt {
		return false
	}
	w.pieces = append(w.pieces, [2]int{from, to})
	for at := from; at < to; at++ {
		w.bytes[at] = true
	}
	if !more {
		w.length = to
	}
	return true
}

// complaint judges an ICMP error about a packet, which was sent the other way.
func (m *slowFilter) complaint(about slowPacket) bool {
	m.expire()
	fl := m.flows[about.slowKey]
	if fl == nil || fl.cut || fl.phase == "over" || fl.phase == "closed" {
		return false
	}
	if about.proto != acl.TCP {
		return about.out == fl.out || fl.replied
	}
	if fl.phase == "opening" && about.out != fl.out {
		return false
	}
	me, other := fl.end(about.out), fl.end(!about.out)
	seq := near(about.seg.seq, me.end)
	return seq <= me.end && seq >= me.end-max(other.window, 1<<16)-1<<16
}
