package filter

import (
	"slices"
	"time"
)

// sweepShards is how many shards one Sweep searches for idle flows: all in 16 calls, 1.6 s at 100 ms.
const sweepShards = numShards / 16

// Sweep forgets idle flows and cuts those whose deadline, or the lease, has passed. Call it at least every 100 ms: it also keeps the
// clock by which packets are judged. It returns the flows cut since the last Swap or Sweep.
func (f *Filter) Sweep() []Cut {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.readAwake()
	r := f.rules.Load()
	r.trim(now)
	lapsed := now >= r.notAfter.Load()
	var cuts [numShards][]Cut
	for i := range f.table.shards {
		s := &f.table.shards[i]
		s.mu.Lock()
		switch {
		case lapsed:
			f.cutShard(s, r, now)
		case now >= s.until:
			f.cutOverdue(s, r, now)
		}
		if (i-f.cursor+numShards)%numShards < sweepShards {
			f.forgetIdle(s, now)
		}
		cuts[i], s.cuts = s.cuts, nil
		s.mu.Unlock()
	}
	f.cursor = (f.cursor + sweepShards) % numShards
	f.frags.sweep(now)
	return slices.Concat(cuts[:]...)
}

func (f *Filter) cutShard(s *shard, r *ruling, now int64) {
	for fl := range s.locked {
		if fl.standing(now) {
			f.cut(s, r, fl, causeLease, now)
		}
	}
	s.until = never
}

// cutOverdue judges again the flows whose deadline has passed: another rule may allow them still.
func (f *Filter) cutOverdue(s *shard, r *ruling, now int64) {
	s.until = never
	for fl := range s.locked {
		if !fl.standing(now) {
			continue
		}
		if now >= fl.until {
			f.rejudge(s, r, fl, now)
		}
		s.until = min(s.until, fl.until)
	}
}

// forgetIdle drops flows and tombstones whose time is over, and tombstones beyond their bound.
func (f *Filter) forgetIdle(s *shard, now int64) {
	s.forget(func(fl *flow) bool {
		if !fl.idle(now) && (fl.state != stateCut || f.table.tombs.Load() <= f.table.limit) {
			return false
		}
		f.release(fl)
		s.retire(fl, stateForgotten)
		return true
	})
}

// Extend moves the lease of the policy in force without judging anything again. It never shortens it. Flows already cut by the end of
// the lease stay cut, and new ones may be opened.
func (f *Filter) Extend(notAfter time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.rules.Load()
	if len(r.sets) == 0 {
		return
	}
	f.clock.readAwake()
	r.notAfter.Store(max(r.notAfter.Load(), f.clock.at(notAfter)))
}
