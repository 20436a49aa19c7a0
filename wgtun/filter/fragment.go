package filter

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"picket.internal/wgtun/packet"
)

const (
	fragmentLife = 5 * time.Second
	// maxPieces bounds the fragments of one packet: 65535 bytes in the pieces of a link with an MTU of 576.
	maxPieces = 120
)

// fragmentKey names a packet that comes in fragments. IPv6 identifies without the protocol (RFC 8200 section 4.5).
type fragmentKey struct {
	src, dst packet.Addr
	id       uint32
	proto    uint8
	dir      direction
}

// piece is a range of bytes, to excluded.
type piece struct{ from, to uint16 }

// whole is a packet under way in fragments, from its admitted first one.
type whole struct {
	fl     *flow // that it belongs to: another one under the same key is not it
	peer   *peer // in whose share it is
	ends   int64 // when it is forgotten
	pieces []piece
	got    int
	length int  // known from the last fragment; 0 before
	clash  bool // its fragments contradict each other: the rest is dropped
}

// fragments is the table of packets under way. Its lock is taken before a shard's, never after.
type fragments struct {
	share
	mu     sync.Mutex
	wholes map[fragmentKey]*whole
}

func (t *fragments) init(limit int) {
	t.limit = int64(limit)
	t.wholes = map[fragmentKey]*whole{}
}

func fragmentKeyOf(v *packet.View, dir direction) fragmentKey {
	id, _, _, _ := v.Fragment()
	k := fragmentKey{src: v.Src(), dst: v.Dst(), id: id, dir: dir}
	if !v.IsIPv6() {
		k.proto = v.Proto()
	}
	return k
}

// firstFragment judges a first fragment like a whole packet, and remembers it when it passes.
func (f *Filter) firstFragment(v *packet.View, dir direction, k *key, mayOpen bool) Reason {
	fk := fragmentKeyOf(v, dir)
	t := &f.frags
	t.mu.Lock()
	defer t.mu.Unlock()
	now := f.clock.read()
	if old := t.live(fk, now); old != nil {
		return old.add(v)
	}
	peer := f.rules.Load().whose(k.remote)
	if peer == nil {
		return cmp.Or(f.transport(v, dir, k, mayOpen), ReasonFragment)
	}
	// Its place first: a fragment that is refused for want of one must not have opened a flow.
	if !t.take(&peer.frags) {
		return ReasonFragmentsFull
	}
	fl, reason := f.admit(v, dir, k, mayOpen)
	if fl == nil {
		t.release(&peer.frags)
		return reason
	}
	w := &whole{fl: fl, peer: peer, ends: now + int64(fragmentLife)}
	w.add(v)
	t.wholes[fk] = w
	return ReasonNone
}

// admit judges a first fragment like a whole packet, and returns the flow of one that passes.
func (f *Filter) admit(v *packet.View, dir direction, k *key, mayOpen bool) (*flow, Reason) {
	if reason := f.transport(v, dir, k, mayOpen); reason != ReasonNone {
		return nil, reason
	}
	// There is none after a reset in fragments, or a Swap in between: nothing more of it is wanted.
	return f.alive(k), ReasonFragment
}

// laterFragment passes a fragment that fits an admitted first one whose flow still lives.
func (f *Filter) laterFragment(v *packet.View, dir direction) Reason {
	fk := fragmentKeyOf(v, dir)
	t := &f.frags
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.live(fk, f.clock.read())
	if w == nil {
		if reason := classReason(v); reason != ReasonNone {
			return reason
		}
		return ReasonFragment
	}
	if f.alive(&w.fl.k) != w.fl {
		t.drop(fk, w)
		return ReasonCut
	}
	reason := w.add(v)
	if reason == ReasonNone {
		f.countFragment(w, v, dir)
		if w.complete() {
			t.drop(fk, w)
		}
	}
	return reason
}

// live finds a packet under way that is not too old.
func (t *fragments) live(fk fragmentKey, now int64) *whole {
	w := t.wholes[fk]
	if w != nil && now >= w.ends {
		t.drop(fk, w)
		return nil
	}
	return w
}

func (t *fragments) drop(fk fragmentKey, w *whole) {
	t.release(&w.peer.frags)
	delete(t.wholes, fk)
}

// sweep forgets what is too old.
func (t *fragments) sweep(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for fk, w := range t.wholes {
		if now >= w.ends {
			t.drop(fk, w)
		}
	}
}

// add notes a fragment. Fragments that overlap, or disagree about the length of the whole, spoil the whole (RFC 5722): receivers
// would read different packets. An exact repetition is dropped alone.
func (w *whole) add(v *packet.View) Reason {
	_, from, to, more := v.Fragment()
	p := piece{uint16(from), uint16(to)} // packet.View allows no more
	if w.clash {
		return ReasonFragmentClash
	}
	if slices.Contains(w.pieces, p) {
		return ReasonFragmentClash
	}
	overlaps := slices.ContainsFunc(w.pieces, func(q piece) bool { return p.from < q.to && q.from < p.to })
	beyond := w.length != 0 && (to > w.length || !more)
	short := !more && slices.ContainsFunc(w.pieces, func(q piece) bool { return q.to > p.to })
	if overlaps || beyond || short || len(w.pieces) == maxPieces {
		w.clash = true
		return ReasonFragmentClash
	}
	w.pieces = append(w.pieces, p)
	w.got += to - from
	if !more {
		w.length = to
	}
	return ReasonNone
}

func (w *whole) complete() bool { return w.length != 0 && w.got == w.length }

// alive returns the flow under k when it lives under the rules now in force, nil otherwise. Of it only what never changes may be read.
func (f *Filter) alive(k *key) *flow {
	h := f.table.hash(k)
	s := f.table.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := f.clock.tick(&s.ticks)
	r := f.rules.Load()
	fl := s.find(h, k)
	if now >= r.notAfter.Load() || fl == nil {
		return nil
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.idle(now) || fl.state == stateCut || fl.state == stateClosed {
		return nil
	}
	if (fl.epoch != r.epoch || now >= fl.until) && !f.rejudge(s, r, fl, now) {
		return nil
	}
	return fl
}

func (f *Filter) countFragment(w *whole, v *packet.View, dir direction) {
	fl := w.fl
	fl.mu.Lock()
	if fl.origin != nil {
		fl.count(dir, v, f.clock.coarse.Load())
	}
	fl.mu.Unlock()
}
