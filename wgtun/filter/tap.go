package filter

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// Tap watches packets as they are judged.
type Tap struct {
	Passed, Denied bool // which packets it is shown
	// See is called for each, from where the packet is judged and concurrently: the packet waits for it. It must not block, nor keep or change
	// Sighting.Packet. It may still be under way when the tap has been removed.
	See func(Sighting)
}

// Sighting is one judged packet.
type Sighting struct {
	Packet        []byte // valid until See returns
	At            time.Time
	Out           bool           // sent by this host
	Local, Remote netip.AddrPort // zero when the packet cannot be read; ports are 0 where there are none
	Proto         acl.Proto
	Result
	Peer acl.NodeID // at the far end; empty when it is no peer's
	// Rule is that which admitted the packet's flow, or for ReasonDenied the deny; else zero. It is also zero of a packet whose flow ended in the
	// instant between the verdict and the look.
	Rule acl.Ref
}

// Watch has a tap see packets until stop is called, which may be called twice. The filter keeps the tap. Without any, a packet costs one
// load more; with one, a packet that it is shown costs another look into the flow table.
func (f *Filter) Watch(t *Tap) (stop func()) {
	f.changeTaps(func(taps []*Tap) []*Tap { return append(taps, t) })
	return sync.OnceFunc(func() {
		f.changeTaps(func(taps []*Tap) []*Tap { return slices.DeleteFunc(taps, func(other *Tap) bool { return other == t }) })
	})
}

// changeTaps swaps in a changed copy, or nil when none is left.
func (f *Filter) changeTaps(change func([]*Tap) []*Tap) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var taps []*Tap
	if have := f.taps.Load(); have != nil {
		taps = slices.Clone(*have)
	}
	if taps = change(taps); len(taps) == 0 {
		f.taps.Store(nil)
		return
	}
	f.taps.Store(&taps)
}

// judgeWatched judges a packet and shows it to the taps that want it.
func (f *Filter) judgeWatched(taps []*Tap, v *packet.View, pkt []byte, dir direction) Result {
	var early admission
	if v.Parse(pkt) == packet.FaultNone && v.IsLaterFragment() {
		// The last one of a packet takes the record of the whole with it.
		early = f.admissionOf(v, dir)
	}
	result := Result{Verdict: Pass}
	if reason := f.verdict(v, pkt, dir); reason != ReasonNone {
		result = f.refuse(v, dir, reason)
	}
	wants := func(t *Tap) bool { return result.Verdict == Pass && t.Passed || result.Verdict != Pass && t.Denied }
	if !slices.ContainsFunc(taps, wants) {
		return result
	}
	s := f.sight(v, dir, result, early)
	s.Packet = pkt
	for _, t := range taps {
		if wants(t) {
			t.See(s)
		}
	}
	return result
}

func (f *Filter) sight(v *packet.View, dir direction, result Result, early admission) Sighting {
	now := f.clock.read()
	s := Sighting{At: f.clock.time(now), Out: dir == egress, Result: result}
	if result.Reason >= numFilterReasons {
		return s
	}
	s.Local, s.Remote = netip.AddrPortFrom(v.Src().Netip(), v.SrcPort()), netip.AddrPortFrom(v.Dst().Netip(), v.DstPort())
	if dir == ingress {
		s.Local, s.Remote = s.Remote, s.Local
	}
	s.Proto = acl.Proto(v.Proto())
	by := early
	if result.Verdict != Pass {
		by = f.refuserOf(v, dir, result.Reason, now)
	} else if late := f.admissionOf(v, dir); late.peer != nil {
		by = late
	}
	s.Rule = by.rule
	if by.peer == nil {
		by.peer = f.rules.Load().whose(packet.AddrOf(s.Remote.Addr()))
	}
	if by.peer != nil {
		s.Peer = by.peer.id
	}
	return s
}

// admission is who and what a verdict goes back to.
type admission struct {
	peer *peer
	rule acl.Ref
}

// refuserOf finds whose packet was refused and, where a deny did, which.
func (f *Filter) refuserOf(v *packet.View, dir direction, reason Reason, now int64) admission {
	k := deniedKey{dir: dir, reason: reason, remote: v.Dst()}
	if dir == ingress {
		k.remote = v.Src()
	}
	f.rules.Load().blame(v, &k, now)
	return admission{k.peer, k.deny.ref()}
}

// admissionOf finds the flow that a packet belongs to; zero when there is none.
func (f *Filter) admissionOf(v *packet.View, dir direction) admission {
	if v.IsLaterFragment() {
		return f.admissionOfFragment(v, dir)
	}
	if v.IsICMP() {
		if kind, _, _ := v.ICMP(); kind == packet.ICMPError {
			var q packet.View
			if v.Quote(&q) != packet.FaultNone {
				return admission{}
			}
			v, dir = &q, dir^1
		}
	}
	var k key
	k.set(v, dir)
	h := f.table.hash(&k)
	return f.table.shard(h).find(h, &k).admission()
}

func (f *Filter) admissionOfFragment(v *packet.View, dir direction) admission {
	t := &f.frags
	t.mu.Lock()
	w := t.wholes[fragmentKeyOf(v, dir)]
	t.mu.Unlock()
	if w == nil {
		return admission{}
	}
	return w.fl.admission() // a whole keeps its flow
}

// admission takes the flow's lock; of none, or one that has ended, there is nothing to tell.
func (fl *flow) admission() (a admission) {
	if fl == nil {
		return admission{}
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.origin != nil {
		a = admission{fl.peer, fl.rule.Ref}
	}
	return a
}
