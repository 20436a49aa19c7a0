package filter

import (
	"slices"
	"time"
)

// Recent are the live flows that were used last.
type Recent struct {
	Flows   []Flow // most recent first
	Matched int    // all that were asked for, also those that Flows leaves out
	Total   int    // all

	latest time.Time // so late is each of limit flows
}

// Recent lists the live flows for which want is true, at most limit of them (at least 1), those used last first. Each shard's lock is held
// only while its flows are copied out, so that no packet waits for want.
func (f *Filter) Recent(limit int, want func(*Flow) bool) Recent {
	var r Recent
	var copied []Flow // reused: one shard's at a time
	now := f.clock.read()
	for i := range f.table.shards {
		copied = f.flowsOf(&f.table.shards[i], copied[:0], now)
		r.Total += len(copied)
		for j := range copied {
			if want(&copied[j]) {
				r.add(&copied[j], limit)
			}
		}
	}
	r.cut(limit)
	return r
}

// add leaves a flow out that is no later than limit others.
func (r *Recent) add(fl *Flow, limit int) {
	r.Matched++
	if !r.latest.IsZero() && !fl.LastSeen.After(r.latest) {
		return
	}
	if r.Flows = append(r.Flows, *fl); len(r.Flows) >= 2*limit {
		r.cut(limit)
		r.latest = r.Flows[limit-1].LastSeen
	}
}

func (r *Recent) cut(limit int) {
	slices.SortFunc(r.Flows, func(a, b Flow) int { return b.LastSeen.Compare(a.LastSeen) })
	clear(r.Flows[min(limit, len(r.Flows)):])
	r.Flows = r.Flows[:min(limit, len(r.Flows))]
}

// flowsOf appends the shard's live flows.
func (f *Filter) flowsOf(s *shard, out []Flow, now int64) []Flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	for fl := range s.locked {
		if fl.standing(now) && !fl.ended() {
			out = append(out, f.clock.describe(&fl.entry))
		}
	}
	return out
}
