package filter

import (
	"cmp"
	"slices"
	"sort"
	"sync"

	"picket.internal/acl"
)

// pairKey names what decides over port ranges: who asks whom, through whom, and whether rules for one owner's nodes count.
type pairKey struct {
	src, dst  int32
	servers   int32 // end.servers of dst
	sameOwner bool
}

// pairCache holds compiled pairs; it starts again from nothing when it grows beyond maxPairs or maxSpans.
type pairCache struct {
	mu    sync.Mutex
	pairs map[pairKey]pair
	spans int
}

const (
	maxPairs = 16 << 10
	maxSpans = 1 << 20
)

// pair is what one class may open to another, and what of it denies refuse.
type pair struct{ allow, deny ports }

// ports are port ranges for each protocol.
type ports []protoSpans

type protoSpans struct {
	proto acl.Proto
	spans []span // sorted, apart
}

// span is a range of ports, both ends included, under the same rules.
type span struct {
	first, last uint16
	steps       []step
}

// step is a rule that allows until its deadline. Of a span's rules, in file order, only those that outlast all before them are kept: the
// first step that still holds is the first rule that allows, and the last one says how long any does.
type step struct {
	until int64
	rule  int32
}

// find finds the first rule in force, and when the last of those that are ends.
func (p ports) find(proto acl.Proto, port uint16, now int64) (rule int32, until int64, ok bool) {
	for i := range p {
		if p[i].proto != proto {
			continue
		}
		spans := p[i].spans
		at := sort.Search(len(spans), func(i int) bool { return spans[i].last >= port })
		if at == len(spans) || spans[at].first > port {
			return 0, 0, false
		}
		steps := spans[at].steps
		first := sort.Search(len(steps), func(i int) bool { return steps[i].until > now })
		if first == len(steps) {
			return 0, 0, false
		}
		return steps[first].rule, steps[len(steps)-1].until, true
	}
	return 0, 0, false
}

// pair returns the compiled form of a pair of classes.
func (rs *ruleset) pair(k pairKey) pair {
	c := &rs.pairs
	c.mu.Lock()
	p, ok := c.pairs[k]
	c.mu.Unlock()
	if ok {
		return p
	}
	p = rs.compilePair(k)
	spans := 0
	for _, list := range []ports{p.allow, p.deny} {
		for i := range list {
			spans += len(list[i].spans)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pairs == nil || len(c.pairs) >= maxPairs || c.spans+spans > maxSpans {
		c.pairs, c.spans = map[pairKey]pair{}, 0
	}
	c.pairs[k] = p
	c.spans += spans
	return p
}

// portRange is one rule's range of one protocol.
type portRange struct {
	first, last uint16
	rule        int32
}

func (rs *ruleset) compilePair(k pairKey) pair {
	return pair{allow: rs.compilePorts(&rs.allow, k, rs.passes), deny: rs.compilePorts(&rs.deny, k, func(pairKey, *acl.Rule) bool { return true })}
}

// passes reports whether the destination is reached the way that the rule demands.
func (rs *ruleset) passes(k pairKey, r *acl.Rule) bool {
	return len(r.Via) == 0 || k.servers != nobody && shares(rs.classes.all[k.servers].roles, r.Via)
}

func shares(a, b []acl.RoleID) bool {
	return slices.ContainsFunc(a, func(id acl.RoleID) bool { return slices.Contains(b, id) })
}

func (rs *ruleset) compilePorts(in *rules, k pairKey, passes func(pairKey, *acl.Rule) bool) ports {
	from, to := rs.classes.all[k.src], rs.classes.all[k.dst]
	src := in.of(rs, from, func(u *uses) []int32 { return u.src })
	dst := in.of(rs, to, func(u *uses) []int32 { return u.dst })
	byProto := map[acl.Proto][]portRange{}
	for _, i := range intersect(src, dst) {
		r := &in.list[i]
		if r.SameOwner && !k.sameOwner || len(r.SrcPosture) > 0 && !shares(from.roles, r.SrcPosture) || !passes(k, r) {
			continue
		}
		for _, p := range r.Ports {
			if p.First <= p.Last {
				byProto[p.Proto] = append(byProto[p.Proto], portRange{p.First, p.Last, i})
			}
		}
	}
	out := make(ports, 0, len(byProto))
	for proto, ranges := range byProto {
		out = append(out, protoSpans{proto, in.spansOf(ranges)})
	}
	slices.SortFunc(out, func(a, b protoSpans) int { return cmp.Compare(a.proto, b.proto) })
	return out
}

// intersect returns what two sorted lists share.
func intersect(a, b []int32) []int32 {
	var out []int32
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			a = a[1:]
		case a[0] > b[0]:
			b = b[1:]
		default:
			out = append(out, a[0])
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// spansOf sweeps over the ports from 0 up, keeping the sorted list of rules that hold at each.
func (r *rules) spansOf(ranges []portRange) []span {
	type event struct {
		at    int
		opens bool
		rule  int32
	}
	events := make([]event, 0, 2*len(ranges))
	for _, p := range ranges {
		events = append(events, event{int(p.first), true, p.rule}, event{int(p.last) + 1, false, p.rule})
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	var spans []span
	var active []int32
	for i, e := range events {
		at, _ := slices.BinarySearch(active, e.rule)
		if e.opens {
			active = slices.Insert(active, at, e.rule)
		} else {
			active = slices.Delete(active, at, at+1)
		}
		if i+1 == len(events) || events[i+1].at == e.at || len(active) == 0 {
			continue
		}
		spans = appendSpan(spans, span{uint16(e.at), uint16(events[i+1].at - 1), r.stepsOf(active)})
	}
	return spans
}

// appendSpan joins s to the last span when it continues it under the same rules.
func appendSpan(spans []span, s span) []span {
	if n := len(spans); n > 0 {
		last := &spans[n-1]
		if int(last.last)+1 == int(s.first) && slices.Equal(last.steps, s.steps) {
			last.last = s.last
			return spans
		}
	}
	return append(spans, s)
}

func (r *rules) stepsOf(rules []int32) []step {
	var steps []step
	for _, i := range rules {
		until := r.until[i]
		if len(steps) == 0 || until > steps[len(steps)-1].until {
			steps = append(steps, step{until, i})
		}
		if until == never {
			break
		}
	}
	return steps
}
