package filter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// A handover is what one filter tells the next of the flows that live, when an agent is stopped to be started again. Numbers are little-endian:
//
//	magic   8 bytes "pkflows" and version 1
//	peers   uint32 count, each: uint16 length, node id
//	rules   uint32 count, each: uint16 length, section; uint32 index, line, column
//	flows   uint32 count, each of flowSize bytes: see appendFlow
const (
	handoverMagic = "pkflows\x01"
	flowSize      = 139
	// maxHandedName bounds the text of a node id or a section's name.
	maxHandedName = 1 << 12
)

// ErrHandover is wrapped by what Restore returns when it cannot read a handover. No flow is taken from one that cannot be read whole.
var ErrHandover = errors.New("unreadable handover")

// Save returns the live flows and the tombstones of those cut lately, for Restore in a filter of the same host. Packets go on being judged meanwhile: a
// flow is as it was when its turn came.
func (f *Filter) Save() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := handoverWriter{now: f.clock.readAwake(), peers: map[acl.NodeID]uint32{}, rules: map[acl.Ref]uint32{}}
	for i := range f.table.shards {
		s := &f.table.shards[i]
		s.mu.Lock()
		for fl := range s.locked {
			if !fl.idle(w.now) && !fl.ended() && fl.state != stateForgotten {
				w.appendFlow(fl)
			}
		}
		s.mu.Unlock()
	}
	return w.bytes()
}

// handoverWriter collects a handover.
type handoverWriter struct {
	now                          int64
	peers                        map[acl.NodeID]uint32
	rules                        map[acl.Ref]uint32
	peerText, ruleText, flowText []byte
	count                        uint32
}

func (w *handoverWriter) bytes() []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, len(handoverMagic)+12+len(w.peerText)+len(w.ruleText)+len(w.flowText)), handoverMagic...)
	b = append(le.AppendUint32(b, uint32(len(w.peers))), w.peerText...)
	b = append(le.AppendUint32(b, uint32(len(w.rules))), w.ruleText...)
	return append(le.AppendUint32(b, w.count), w.flowText...)
}

func appendName(b []byte, name string) []byte {
	name = name[:min(len(name), maxHandedName)]
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(name))), name...)
}

func (w *handoverWriter) peer(p *peer) uint32 {
	n, known := w.peers[p.id]
	if !known {
		n = uint32(len(w.peers))
		w.peers[p.id] = n
		w.peerText = appendName(w.peerText, string(p.id))
	}
	return n
}

func (w *handoverWriter) rule(ref acl.Ref) uint32 {
	n, known := w.rules[ref]
	if !known {
		n = uint32(len(w.rules))
		w.rules[ref] = n
		w.ruleText = appendName(w.ruleText, ref.Section)
		for _, n := range []int{ref.Index, ref.Line, ref.Column} {
			w.ruleText = binary.LittleEndian.AppendUint32(w.ruleText, uint32(n))
		}
	}
	return n
}

// appendFlow writes key (40), state, direction, flags (3), idle and age in nanoseconds (16), peer and rule (8), packets and bytes (24), and of each end of
// a TCP connection end, ack, start, largest window, scale and flags (20 each); and the challenge and padding (8).
func (w *handoverWriter) appendFlow(fl *flow) {
	le, b := binary.LittleEndian, w.flowText
	for _, x := range []uint64{fl.k.local.Hi, fl.k.local.Lo, fl.k.remote.Hi, fl.k.remote.Lo, fl.k.meta} {
		b = le.AppendUint64(b, x)
	}
	b = append(b, byte(fl.state), byte(fl.dir), bits8(fl.replied, fl.challenged))
	o, ref := fl.origin, acl.Ref{}
	if o == nil { // a tombstone
		o = &origin{opened: w.now, peer: &peer{}}
	} else {
		ref = o.rule.Ref
	}
	b = le.AppendUint64(b, uint64(w.now-fl.last))
	b = le.AppendUint64(b, uint64(w.now-o.opened))
	b = le.AppendUint32(b, w.peer(o.peer))
	b = le.AppendUint32(b, w.rule(ref))
	for dir := range fl.packets {
		b = le.AppendUint64(b, uint64(o.carried[dir])<<32|uint64(fl.packets[dir]))
	}
	b = le.AppendUint64(b, fl.bytes)
	for i, e := range fl.ends {
		b = le.AppendUint32(b, e.end)
		b = le.AppendUint32(b, e.ack)
		b = le.AppendUint32(b, o.starts[i])
		b = le.AppendUint32(b, e.maxWin)
		b = append(b, e.scale, bits8(e.scaled, e.acked, e.fin), 0, 0)
	}
	b = le.AppendUint64(b, uint64(o.challenge))
	w.flowText = b
	w.count++
}

func bits8(flags ...bool) (b byte) {
	for i, set := range flags {
		if set {
			b |= 1 << i
		}
	}
	return b
}

// AwaitRestore says that Restore is to come, within the time given. Until it has come a refused packet is dropped without an answer, which would end the
// flow that it may be of.
func (f *Filter) AwaitRestore(within time.Duration) { f.quiet.Store(f.clock.read() + int64(within)) }

// Restore takes over the flows that another filter of this host saved so long ago, time asleep included. Each is judged by the rules in force, as by a
// Swap: those that may not be are cut, and returned. One that has begun anew meanwhile stays as it is now. The error wraps ErrHandover, and then
// nothing was taken.
func (f *Filter) Restore(b []byte, ago time.Duration) ([]Cut, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.quiet.Store(0)
	r := f.rules.Load()
	if len(r.sets) == 0 || ago < 0 {
		return nil, fmt.Errorf("%w: no rules are in force, or it is of the future", ErrHandover)
	}
	now := f.clock.readAwake()
	saved, err := f.readHandover(b, now-int64(ago))
	if err != nil {
		return nil, err
	}
	var cuts []Cut
	for _, fl := range saved {
		cuts = append(cuts, f.restore(r, fl, now)...)
	}
	f.registry.prune(r)
	return cuts, nil
}

// restore puts one flow into the table, and has it judged.
func (f *Filter) restore(r *ruling, fl *flow, now int64) []Cut {
	h := f.table.hash(&fl.k)
	s := f.table.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if fl.idle(now) || s.find(h, &fl.k) != nil || !f.hold(fl) {
		return nil
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	s.insert(h, fl)
	if fl.state == stateCut {
		return nil
	}
	if now >= r.notAfter.Load() {
		f.cut(s, r, fl, causeLease, now)
	} else {
		f.rejudge(s, r, fl, now)
	}
	var cuts []Cut
	cuts, s.cuts = s.cuts, nil
	return cuts
}

// hold takes a restored flow's share.
func (f *Filter) hold(fl *flow) bool {
	if fl.state == stateCut {
		if f.table.tombs.Load() >= f.table.limit {
			return false
		}
		f.table.tombs.Add(1)
		return true
	}
	return f.table.take(&fl.peer.flows)
}

// handoverReader reads a handover; bad is set at the first thing that cannot be.
type handoverReader struct {
	b   []byte
	bad bool
}

func (r *handoverReader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *handoverReader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *handoverReader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

// count reads how many things of at least size bytes follow.
func (r *handoverReader) count(size int) int {
	n := int(r.u32())
	if n > len(r.b)/size {
		r.bad = true
		return 0
	}
	return n
}

func (r *handoverReader) name() string {
	n := int(binary.LittleEndian.Uint16(r.take(2)))
	if n > maxHandedName {
		r.bad = true
		return ""
	}
	return string(r.take(n))
}

// readHandover makes flows of what was saved at an instant of this filter's clock, before its start.
func (f *Filter) readHandover(b []byte, at int64) ([]*flow, error) {
	r := handoverReader{b: b}
	if string(r.take(len(handoverMagic))) != handoverMagic {
		return nil, fmt.Errorf("%w: of another version", ErrHandover)
	}
	peers := make([]*peer, r.count(2))
	for i := range peers {
		peers[i] = f.registry.get(acl.NodeID(r.name()))
	}
	rules := make([]*acl.Rule, r.count(14))
	for i := range rules {
		rules[i] = &acl.Rule{Ref: acl.Ref{Section: r.name(), Index: int(r.u32()), Line: int(r.u32()), Column: int(r.u32())}}
	}
	flows := make([]*flow, r.count(flowSize))
	for i := range flows {
		flows[i] = r.flow(at, peers, rules)
	}
	if r.bad || len(r.b) > 0 {
		return nil, fmt.Errorf("%w: damaged", ErrHandover)
	}
	return flows, nil
}

// flow reads what appendFlow wrote. Its epoch is that of no ruling.
func (r *handoverReader) flow(at int64, peers []*peer, rules []*acl.Rule) *flow {
	fl := &flow{entry: entry{until: never, origin: &origin{}}}
	fl.k = key{local: packet.Addr{Hi: r.u64(), Lo: r.u64()}, remote: packet.Addr{Hi: r.u64(), Lo: r.u64()}, meta: r.u64()}
	head := r.take(3)
	fl.state, fl.dir = state(head[0]), direction(head[1])
	fl.replied, fl.challenged = head[2]&1 != 0, head[2]&2 != 0
	idle, age := int64(r.u64()), int64(r.u64())
	fl.last, fl.opened = at-idle, at-age
	who, which := int(r.u32()), int(r.u32())
	for dir := range fl.packets {
		n := r.u64()
		fl.packets[dir], fl.carried[dir] = uint32(n), uint32(n>>32)
	}
	fl.bytes = r.u64()
	for i := range fl.ends {
		e := &fl.ends[i]
		e.end, e.ack, fl.starts[i], e.maxWin = r.u32(), r.u32(), r.u32(), r.u32()
		tail := r.take(4)
		e.scale, e.scaled, e.acked, e.fin = tail[0], tail[1]&1 != 0, tail[1]&2 != 0, tail[1]&4 != 0
	}
	fl.challenge = uint32(r.u64())
	if !r.sound(fl, idle, age) || who >= len(peers) || which >= len(rules) {
		r.bad = true
		return fl
	}
	fl.peer, fl.rule = peers[who], rules[which]
	if fl.state == stateCut {
		fl.origin = nil
	}
	return fl
}

// sound refuses what no filter writes, and other code relies on.
func (r *handoverReader) sound(fl *flow, idle, age int64) bool {
	const maxScale, century = 14, int64(100 * 365 * 24 * time.Hour)
	tcp := fl.k.proto() == packet.ProtoTCP
	switch {
	case fl.k.local.Netip().Is4() != fl.k.remote.Netip().Is4(), fl.k.local.Netip().Is6() != (fl.k.meta>>48 == 1), fl.k.meta>>49 != 0:
		return false
	case fl.dir > ingress, idle < 0, idle > century, age < 0, age > century, fl.ends[0].scale > maxScale, fl.ends[1].scale > maxScale:
		return false
	case !fl.ends[0].offered(), !fl.ends[1].offered():
		return false
	case fl.state == stateCut:
		return true
	case fl.state == stateDatagram:
		return !tcp
	}
	return tcp && fl.state > stateDatagram && fl.state < stateClosed
}
