package filter

import (
	"sync"

	"picket.internal/wgtun/packet"
)

// BatchSize is how many packets one IngressBatch takes at most.
const BatchSize = 16

// IngressBatch judges packets that came together, each behind offset bytes of its slice, at most BatchSize, as Ingress would one after the other.
// It sets as many verdicts. With more flows than the processor's caches hold, the memory of all packets' flows is fetched at the same time.
func (f *Filter) IngressBatch(pkts [][]byte, offset int, verdicts []Verdict) {
	f.judgeBatch(pkts, offset, ingress, verdicts)
}

func (f *Filter) judgeBatch(pkts [][]byte, offset int, dir direction, verdicts []Verdict) {
	if len(pkts) == 1 || f.taps.Load() != nil {
		for i, b := range pkts {
			verdicts[i] = f.judge(b[min(offset, len(b)):], dir).Verdict
		}
		return
	}
	batch := batches.Get().(*[BatchSize]ahead)
	defer batches.Put(batch)
	for i, b := range pkts {
		batch[i].read(&f.table, b[min(offset, len(b)):], dir)
	}
	f.table.fetch(batch[:len(pkts)])
	for i := range pkts {
		a := &batch[i]
		if verdicts[i] = Pass; a.keyed {
			s := f.table.shard(a.h)
			known := false
			if fl := s.find(a.h, &a.k); fl != nil {
				a.reason, known = f.follow(fl, &a.v, dir)
			}
			if !known {
				a.reason = f.transportLocking(s, &a.v, dir, &a.k, a.h, true)
			}
		} else if a.reason == ReasonNone {
			a.reason = f.route(&a.v, dir)
		}
		if a.reason != ReasonNone {
			verdicts[i] = f.refuse(&a.v, dir, a.reason).Verdict
		}
	}
}

// batches spares the clearing of 2 KB for each batch: a packet overwrites what the one before it in its place left.
var batches = sync.Pool{New: func() any { return new([BatchSize]ahead) }}

// ahead is a packet that was read before its turn.
type ahead struct {
	v      packet.View
	k      key
	h      uint64
	reason Reason // of a packet that cannot be read
	keyed  bool   // k and h are set: not so for ICMP and fragments
}

func (a *ahead) read(t *table, pkt []byte, dir direction) {
	a.reason = ReasonNone
	if a.keyed = a.v.ParsePlain(pkt); a.keyed {
		a.k.setEnds(&a.v, dir)
		a.h = t.hash(&a.k)
		return
	}
	a.v = packet.View{} // Parse leaves it half read where it finds a fault
	if fault := a.v.Parse(pkt); fault != packet.FaultNone {
		a.reason = reasonOfFault(fault)
		return
	}
	if a.keyed = !a.v.IsFragment() && !a.v.IsICMP(); a.keyed {
		a.k.setEnds(&a.v, dir)
		a.h = t.hash(&a.k)
	}
}

// fetch looks at what find will, one loop for slots and one for flows, so that no look waits for another. What it finds is of no matter; it
// reads only what never changes. The sum keeps the compiler from leaving the looks out.
//
//go:noinline
func (t *table) fetch(batch []ahead) (sum uint64) {
	var flows [BatchSize]*flow
	for i := range batch {
		if a := &batch[i]; a.keyed {
			s := t.shard(a.h).slots.Load()
			flows[i] = s.at[a.h&s.mask].fl.Load()
		}
	}
	for _, fl := range flows {
		if fl != nil {
			sum += fl.k.local.Hi + fl.k.meta // in both lines of the flow
		}
	}
	return sum
}
