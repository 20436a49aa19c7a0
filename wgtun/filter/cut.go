package filter

import (
	"net/netip"
	"slices"

	"picket.internal/acl"
)

// Cut is a flow that was ended by a change of rules, a deadline or the lease. What is to be told of it is made when it is asked for: with many
// flows to cut, nothing else may keep them waiting.
type Cut struct {
	Generation uint64 // in force when it was cut
	Cause      string // "policy", "deadline", "lease"

	was   entry
	clock *clock
}

// Flow is what was cut, as it stood; the zero Flow of a zero Cut. When the host slept between the cut and this call, its times are early by that sleep.
func (c *Cut) Flow() Flow {
	if c.was.origin == nil {
		return Flow{}
	}
	return c.clock.describe(&c.was)
}

// AppendReset appends a TCP reset (whole IP packet) for the local end to b; nothing for other protocols.
func (c *Cut) AppendReset(b []byte) []byte { return c.was.appendReset(b) }

const (
	causePolicy   = "policy"
	causeDeadline = "deadline"
	causeLease    = "lease"
)

// cut ends a flow and leaves its tombstone. A flow that was over already is not reported.
func (f *Filter) cut(s *shard, r *ruling, fl *flow, cause string, now int64) {
	if !fl.ended() {
		s.cuts = append(s.cuts, Cut{Generation: r.generation, Cause: cause, was: fl.entry, clock: &f.clock})
	}
	f.release(fl)
	s.retire(fl, stateCut)
	fl.last, fl.until, fl.epoch = now, never, r.epoch
	f.table.tombs.Add(1)
}

// release gives back a flow's share; a tombstone holds none but its own count.
func (f *Filter) release(fl *flow) {
	if fl.state == stateCut {
		f.table.tombs.Add(-1)
	} else {
		f.table.release(&fl.peer.flows)
	}
}

// retire ends a flow, whose share was given back, as a tombstone or forgotten.
func (s *shard) retire(fl *flow, end state) {
	if fl.origin != nil {
		s.passed[egress] += fl.passed(egress)
		s.passed[ingress] += fl.passed(ingress)
	}
	// What rules it came from is history; keeping it would keep the whole ruleset.
	fl.state, fl.replied, fl.origin = end, false, nil
}

func (fl *entry) localEnd() netip.AddrPort {
	return netip.AddrPortFrom(fl.k.local.Netip(), fl.k.localPort())
}

func (fl *entry) remoteEnd() netip.AddrPort {
	return netip.AddrPortFrom(fl.k.remote.Netip(), fl.k.remotePort())
}

// Swap puts p in force, re-judges every live flow, and returns those that were cut. When it returns, no packet of theirs passes.
// A nil p refuses everything.
func (f *Filter) Swap(p *Policy) []Cut {
	if p == nil {
		p = &Policy{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.readAwake()
	r := f.prepare(p)
	r.succeed(f.rules.Load(), now)
	lease := len(r.sets) > 0 && now >= r.notAfter.Load()
	// The pointer first, each shard's lock after: see the package comment.
	f.rules.Store(r)
	var cuts []Cut
	for i := range f.table.shards {
		s := &f.table.shards[i]
		s.mu.Lock()
		if i == 1 {
			// Flows are spread evenly: as many go from one shard as from another.
			cuts = slices.Grow(cuts, len(cuts)*numShards*9/8)
		}
		s.cuts = append(cuts, s.cuts...)
		f.rejudgeShard(s, r, lease, now)
		cuts, s.cuts = s.cuts, nil
		s.mu.Unlock()
	}
	f.registry.prune(r)
	return cuts
}

func (f *Filter) rejudgeShard(s *shard, r *ruling, lease bool, now int64) {
	s.until = never
	for fl := range s.locked {
		if !fl.standing(now) {
			continue
		}
		if lease {
			f.cut(s, r, fl, causeLease, now)
		} else if fl.epoch != r.epoch {
			f.rejudge(s, r, fl, now)
		}
		s.until = min(s.until, fl.until)
	}
}

// prepare compiles a policy; rulesets that are in force already keep their compiled form.
func (f *Filter) prepare(p *Policy) *ruling {
	old := f.rules.Load()
	f.registry.serve(p.Self)
	r := &ruling{epoch: old.epoch + 1, generation: p.Generation, set: p.Rules != nil, deny: p.Deny}
	if p.Rules == nil {
		return r
	}
	r.notAfter.Store(f.clock.at(p.NotAfter))
	for _, rs := range append([]*acl.Ruleset{p.Rules}, p.Also...) {
		if rs == nil {
			r.sets = nil
			return r
		}
		r.sets = append(r.sets, f.compiled(old, rs, p))
	}
	return r
}

func (f *Filter) compiled(old *ruling, rs *acl.Ruleset, p *Policy) *ruleset {
	for _, have := range old.sets {
		if have.source == rs && have.self == p.Self && have.offset == p.ClockOffset {
			return have
		}
	}
	return f.clock.compile(rs, p.Self, p.ClockOffset, f.registry)
}
