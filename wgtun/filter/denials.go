package filter

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// maxDenials bounds the records of refused packets: about 1 MiB.
const maxDenials = 4096

// Denial is packets that were refused alike, for people.
type Denial struct {
	Out           bool       // sent by this host
	Peer          acl.NodeID // at the far end; empty when it is no peer's, or the packet cannot be read
	Local, Remote netip.Addr // zero when the packet cannot be read
	Proto         acl.Proto
	Port          uint16 // destination; 0 for protocols without ports and later fragments
	Reason        Reason
	Rule          acl.Ref // the deny, for ReasonDenied; else zero
	Bypass        bool    // a peer sent what by the same rules it would have refused itself: see Evidence
	First, Last   time.Time
	Count         uint64
	Seq           uint64 // rises with each refused packet of the filter: when the last one was
}

// Denials are the refused packets since New, summed up.
type Denials struct {
	Total    uint64 // all packets
	Unlisted uint64 // packets whose record made room for later ones
	Seq      uint64 // of the last refused packet; that of a filter made later is greater
	List     []Denial
}

// deniedKey is what packets in one record have in common. Without peer and addresses, it is of packets that cannot be read.
type deniedKey struct {
	peer          *peer
	local, remote packet.Addr
	deny          denyRef
	port          uint16
	proto         uint8
	dir           direction
	reason        Reason
	bypass        bool
}

// denyRef is where a deny stands, without its section; a pointer to it would keep all of an old policy's denies. Zero is none.
type denyRef struct{ index, line, column int32 }

func (d denyRef) ref() acl.Ref {
	if d == (denyRef{}) {
		return acl.Ref{}
	}
	return acl.Ref{Section: "denies", Index: int(d.index), Line: int(d.line), Column: int(d.column)}
}

// denied is one record, in the list of its holder.
type denied struct {
	deniedKey
	first, last  int64
	count, seq   uint64
	older, newer *denied
}

// holderKey names who is to blame for records: the peer whose they are, in one direction. So what this host itself sends to a peer
// takes no room from what the peer sends, and nobody's flood pushes out what is known of others.
type holderKey struct {
	peer *peer
	dir  direction
}

// holder is the list of its records by when they were last added to.
type holder struct {
	n              int
	oldest, newest *denied
}

// denials hold at most limit records. A holder may have as many as are still free for all others together, or floor: see Limits. Beyond
// that its least recent record makes room.
type denials struct {
	limit int

	mu       sync.Mutex
	records  map[deniedKey]*denied
	holders  map[holderKey]*holder
	total    uint64
	unlisted uint64
	seq      uint64
}

// init begins seq at the time, so that who has seen that of an older filter sees all of this one.
func (d *denials) init(limit int, now time.Time) {
	d.limit, d.seq = limit, uint64(now.UnixNano())
	d.records, d.holders = map[deniedKey]*denied{}, map[holderKey]*holder{}
}

// recordDenial notes a refused packet. It is called without any lock, and allocates nothing once there is a record.
func (f *Filter) recordDenial(v *packet.View, dir direction, reason Reason) {
	k := deniedKey{dir: dir, reason: reason}
	now := f.clock.coarse.Load()
	if reason < numFilterReasons {
		k.local, k.remote, k.proto, k.port = v.Src(), v.Dst(), v.Proto(), v.DstPort()
		if dir == ingress {
			k.local, k.remote = k.remote, k.local
		}
		f.rules.Load().blame(v, &k, now)
	}
	f.refused.note(&k, now)
}

// blame finds the peer at the far end of a refused packet and, where a deny refused it, which. Rules that came into force since the verdict
// may no longer have one.
func (r *ruling) blame(v *packet.View, k *deniedKey, now int64) {
	if k.reason == ReasonDenied {
		var of key
		of.set(v, k.dir)
		if j := r.judge(of.question(k.dir), now); j.reason == ReasonDenied {
			k.deny = denyRef{int32(j.rule.Ref.Index), int32(j.rule.Ref.Line), int32(j.rule.Ref.Column)}
		}
	}
	k.peer = r.whose(k.remote)
	k.bypass = k.peer != nil && r.proves(k.reason, k.dir)
}

func (d *denials) note(k *deniedKey, now int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total++
	d.seq++
	hk := holderKey{k.peer, k.dir}
	h, e := d.holders[hk], d.records[*k]
	if h == nil {
		h = &holder{}
		d.holders[hk] = h
	}
	if e == nil {
		e = d.room(h)
		*e = denied{deniedKey: *k, first: now}
		d.records[*k] = e
		h.n++
	} else {
		h.unlink(e)
	}
	e.last, e.seq = now, d.seq
	e.count++
	h.push(e)
}

// room returns a record to write over: a new one while h's share allows, else its least recent, or where it has none that of whoever has most.
func (d *denials) room(h *holder) *denied {
	used := len(d.records)
	if used < d.limit && h.n < max(floor, d.limit-used) {
		return &denied{}
	}
	from := h
	if h.n == 0 {
		from = d.fullest()
	}
	e := from.oldest
	from.unlink(e)
	if from.n--; from.n == 0 && from != h {
		delete(d.holders, holderKey{e.peer, e.dir})
	}
	delete(d.records, e.deniedKey)
	d.unlisted += e.count
	return e
}

// fullest is looked for only when everything is full and somebody new is refused.
func (d *denials) fullest() *holder {
	var most *holder
	for _, h := range d.holders {
		if most == nil || h.n > most.n {
			most = h
		}
	}
	return most
}

func (h *holder) push(e *denied) {
	e.older, e.newer = h.newest, nil
	if h.newest != nil {
		h.newest.newer = e
	} else {
		h.oldest = e
	}
	h.newest = e
}

func (h *holder) unlink(e *denied) {
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		h.oldest = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		h.newest = e.older
	}
}

// Denials returns the records added to since the one numbered after; 0 asks for all. They come in no order. Packets that are refused
// meanwhile wait for no more than one holder's records.
func (f *Filter) Denials(after uint64) Denials {
	d := &f.refused
	d.mu.Lock()
	out := Denials{Total: d.total, Unlisted: d.unlisted, Seq: d.seq}
	holders := slices.Collect(maps.Keys(d.holders))
	d.mu.Unlock()
	var copied []denied // reused: one holder's at a time
	for _, k := range holders {
		copied = d.since(copied[:0], k, after)
		for i := range copied {
			out.List = append(out.List, f.describeDenial(&copied[i]))
		}
	}
	return out
}

// since appends a holder's records that were added to after the one numbered so.
func (d *denials) since(out []denied, k holderKey, after uint64) []denied {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.holders[k]
	if h == nil {
		return out
	}
	for e := h.newest; e != nil && e.seq > after; e = e.older {
		out = append(out, *e)
	}
	return out
}

func (f *Filter) describeDenial(e *denied) Denial {
	d := Denial{
		Out: e.dir == egress, Proto: acl.Proto(e.proto), Port: e.port, Reason: e.reason, Rule: e.deny.ref(), Bypass: e.bypass,
		First: f.clock.time(e.first), Last: f.clock.time(e.last), Count: e.count, Seq: e.seq,
	}
	if e.reason < numFilterReasons {
		d.Local, d.Remote = e.local.Netip(), e.remote.Netip()
	}
	if e.peer != nil {
		d.Peer = e.peer.id
	}
	return d
}
