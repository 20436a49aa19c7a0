package filter

// Stats counts packets since New.
type Stats struct {
	EgressPassed, IngressPassed uint64
	EgressDenied, IngressDenied map[string]uint64 // by reason; reasons that never occurred are absent
	Flows                       int               // in the table, tombstones not counted
	Fragmented                  int               // packets under way in fragments
	FlowTableFull               uint64            // packets refused because the table, or the peer's share of it, was full
}

// Stats returns a snapshot. It walks the flow table, where passed packets are counted.
func (f *Filter) Stats() Stats {
	st := Stats{
		EgressDenied: f.deniedBy(egress), IngressDenied: f.deniedBy(ingress),
		Flows: int(f.table.used.Load()), Fragmented: int(f.frags.used.Load()),
	}
	full := ReasonFlowsFull.String()
	st.FlowTableFull = st.EgressDenied[full] + st.IngressDenied[full]
	for i := range f.table.shards {
		s := &f.table.shards[i]
		s.mu.Lock()
		st.EgressPassed += s.passed[egress]
		st.IngressPassed += s.passed[ingress]
		for fl := range s.locked {
			if fl.origin != nil {
				st.EgressPassed += fl.passed(egress)
				st.IngressPassed += fl.passed(ingress)
			}
		}
		s.mu.Unlock()
	}
	return st
}

func (f *Filter) deniedBy(dir direction) map[string]uint64 {
	out := map[string]uint64{}
	for reason := range f.denied[dir] {
		if n := f.denied[dir][reason].Load(); n > 0 {
			out[Reason(reason).String()] = n
		}
	}
	return out
}
