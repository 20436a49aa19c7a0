// Package filter turns compiled rules and a table of live flows into a verdict for each packet.
//
// What happens to a packet, in order, all of it on the caller's goroutine:
//
//	parse      packet.View refuses what cannot be read in one way only
//	find       the flow table, without a lock (table.go)
//	follow     a known flow, under its own lock: rules still those that admitted it, deadline, TCP state and window (flow.go, tcp.go)
//	judge      an unknown one: addresses, then rules, then room in the table; under the lock of a shard of the table (judge.go)
//	fragments  a first fragment is remembered once it passed, a later one is held against it (fragment.go)
//	tell       what was refused is recorded (denials.go); who watches is shown the packet (tap.go)
//
// Only a packet that passes writes state. The rules in force are one atomic pointer. A packet reads it under the lock of its flow, or of
// its shard when it opens one; Swap stores the new pointer first and takes each shard's lock after, and in it each flow's. So a flow
// admitted under old rules is always there for Swap to re-judge. And a packet that read the old rules was there before Swap came to its
// flow: once Swap has returned, none is followed under rules that no longer hold. What changes more than a flow itself (it is judged
// again, cut, replaced or forgotten) takes the shard's lock before the flow's; a flow that left the table says so to who found it before.
//
// Flows end idle after: TCP opening 30 s, half open 60 s, established 24 h, one side closed 10 min, both closed 60 s, reset 10 s;
// UDP, ICMP echo and other protocols 30 s without and 180 s with an answer. A cut flow's tombstone stays 60 s.
package filter

import (
	"sync"
	"sync/atomic"
	"time"

	"picket.internal/wgtun/packet"
)

// Verdict is what becomes of a packet. The zero Verdict is a refusal.
type Verdict uint8

// The verdicts.
const (
	Drop   Verdict = iota // refuse silently, counted
	Reject                // refuse, and answer the local sender at once (egress only): see AppendReject
	Pass
)

// Result is a verdict with what explains it.
type Result struct {
	Verdict Verdict
	Reason  Reason
}

// direction of travel of a packet, or of the one that opened a flow.
type direction uint8

const (
	egress direction = iota
	ingress
)

// Filter holds the rules in force and the flow table. All its methods are safe for concurrent use; Swap, Sweep and Extend wait for each other.
type Filter struct {
	rules   atomic.Pointer[ruling]
	table   table
	frags   fragments
	rejects bucket
	denied  [2][numReasons]atomic.Uint64
	clock   clock
	refused denials
	taps    atomic.Pointer[[]*Tap] // nil while nobody watches
	quiet   atomic.Int64           // until when refused packets are not answered: see AwaitRestore

	mu       sync.Mutex // held by Swap, Sweep and Extend
	registry *registry
	cursor   int // next shard for Sweep to look for idle flows in
}

// New returns a filter with DefaultLimits that refuses everything.
func New() *Filter { return NewWithLimits(DefaultLimits) }

// NewWithLimits is New with other bounds.
func NewWithLimits(limits Limits) *Filter {
	f := &Filter{registry: newRegistry()}
	f.clock.start()
	f.table.init(limits.Flows)
	f.frags.init(limits.Fragments)
	f.refused.init(maxDenials, f.clock.base)
	f.rules.Store(&ruling{})
	return f
}

// Egress judges an IP packet that the local host sends into the overlay. It keeps no reference to pkt and does not change it.
func (f *Filter) Egress(pkt []byte) Result { return f.judge(pkt, egress) }

// EgressCut is Egress for a packet that is to be cut into segments, at least 1, when it passes: as many are counted. A refused one is counted
// once, as it is never cut.
func (f *Filter) EgressCut(pkt []byte, segments int) Result { return f.judgeCut(pkt, egress, segments) }

// Ingress judges a decrypted IP packet from a peer. It keeps no reference to pkt and does not change it. That the source address
// belongs to the peer which sent the packet is for the tunnel to have checked.
func (f *Filter) Ingress(pkt []byte) Result { return f.judge(pkt, ingress) }

func (f *Filter) judge(pkt []byte, dir direction) Result { return f.judgeCut(pkt, dir, 1) }

func (f *Filter) judgeCut(pkt []byte, dir direction, segments int) Result {
	var v packet.View
	v.CutInto(segments)
	if taps := f.taps.Load(); taps != nil {
		return f.judgeWatched(*taps, &v, pkt, dir)
	}
	var reason Reason
	if v.ParsePlain(pkt) {
		// As route would, with fewer turns: this is what nearly every packet is.
		var k key
		k.setEnds(&v, dir)
		fl, h := f.table.find(&k)
		if fl != nil {
			var known bool
			if reason, known = f.follow(fl, &v, dir); known && reason == ReasonNone {
				return Result{Verdict: Pass}
			} else if known {
				return f.refuse(&v, dir, reason)
			}
		}
		reason = f.transportLocking(f.table.shard(h), &v, dir, &k, h, true)
	} else {
		reason = f.verdict(&v, pkt, dir)
	}
	if reason == ReasonNone {
		return Result{Verdict: Pass}
	}
	return f.refuse(&v, dir, reason)
}

// verdict says why pkt may not pass, and makes v a view of it.
func (f *Filter) verdict(v *packet.View, pkt []byte, dir direction) Reason {
	if fault := v.Parse(pkt); fault != packet.FaultNone {
		return reasonOfFault(fault)
	}
	return f.route(v, dir)
}

// refuse counts and records a refusal.
func (f *Filter) refuse(v *packet.View, dir direction, reason Reason) Result {
	f.denied[dir][reason].Add(1)
	f.recordDenial(v, dir, reason)
	if dir == egress && reason.answered() && f.clock.read() >= f.quiet.Load() {
		return Result{Verdict: Reject, Reason: reason}
	}
	return Result{Verdict: Drop, Reason: reason}
}

// route hands the packet to what knows its kind.
func (f *Filter) route(v *packet.View, dir direction) Reason {
	var k key
	switch {
	case v.IsLaterFragment():
		return f.laterFragment(v, dir)
	case v.IsICMP():
		return f.icmp(v, dir)
	case v.IsFragment():
		k.setEnds(v, dir)
		return f.firstFragment(v, dir, &k, true)
	}
	k.setEnds(v, dir)
	return f.transport(v, dir, &k, true)
}

// transport judges a packet with its flow's key; mayOpen tells whether this packet could open a flow at all.
func (f *Filter) transport(v *packet.View, dir direction, k *key, mayOpen bool) Reason {
	fl, h := f.table.find(k)
	if fl != nil {
		if reason, known := f.follow(fl, v, dir); known {
			return reason
		}
	}
	return f.transportLocking(f.table.shard(h), v, dir, k, h, mayOpen)
}

// transportLocking judges a packet of no flow, or of one that only the holder of its shard's lock may change as it must be.
func (f *Filter) transportLocking(s *shard, v *packet.View, dir direction, k *key, h uint64, mayOpen bool) Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := f.clock.tick(&s.ticks)
	r := f.rules.Load()
	if now >= r.notAfter.Load() {
		return r.lapsed()
	}
	fl := s.find(h, k)
	if fl != nil {
		// Until it is replaced, or a packet could be counted in a flow that has left the table.
		fl.mu.Lock()
		defer fl.mu.Unlock()
		if reason, known := f.followLocked(s, r, fl, v, dir, now); known {
			return reason
		}
	}
	return f.open(s, r, &opening{v: v, dir: dir, k: k, h: h, mayOpen: mayOpen, old: fl}, now)
}

// clock is time in nanoseconds since base: monotonic, and going on while the host sleeps, which Go's own does not on Linux; else a
// machine that was put to sleep would keep each lease and deadline for so long after it woke. Reading the true time costs as much as all
// the rest of a known flow's verdict, so packets read a value that Sweep, Swap and every 32nd packet of each flow and shard bring up to date.
type clock struct {
	base      time.Time
	suspended func() time.Duration // since some start; tests put theirs
	awake     time.Duration        // suspended as base was read
	coarse    atomic.Int64
	slept     atomic.Int64 // since base; written under Filter.mu
}

const (
	ticksPerRead = 32
	leastTick    = 100 * time.Microsecond
	// leastSleep is told from what passes between the readings of two clocks.
	leastSleep = time.Second
)

func (c *clock) start() {
	c.base, c.suspended = time.Now(), suspended
	c.awake = c.suspended()
}

func (c *clock) tick(ticks *uint32) int64 {
	if *ticks++; *ticks%ticksPerRead == 0 {
		return c.read()
	}
	return c.coarse.Load()
}

// read returns the true time and updates the coarse one. Concurrent readers may set it back by the time between their own readings.
func (c *clock) read() int64 {
	now := int64(time.Since(c.base)) + c.slept.Load()
	// All cores read it with each packet: it is not to leave their caches for next to nothing.
	if d := now - c.coarse.Load(); d >= int64(leastTick) || d < 0 {
		c.coarse.Store(now)
	}
	return now
}

// readAwake is read after a look at whether the host has slept. The caller holds Filter.mu.
func (c *clock) readAwake() int64 {
	if slept := c.suspended() - c.awake; slept-time.Duration(c.slept.Load()) >= leastSleep {
		c.slept.Store(int64(slept))
	}
	return c.read()
}

// at converts an instant that was computed since the host last woke; one that carries a monotonic reading is converted exactly, whatever
// the wall clock did since.
func (c *clock) at(t time.Time) int64 { return int64(t.Sub(c.base)) + c.slept.Load() }

func (c *clock) time(ns int64) time.Time { return c.base.Add(time.Duration(ns - c.slept.Load())) }
