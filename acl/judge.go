package acl

import (
	"iter"
	"math/bits"
	"net/netip"
	"time"
)

// Judge explains many flows by one Ruleset, each as Ruleset.Explain does, but remembers of every address which rules it matches: where
// Explain costs by rules times subjects, Judge does so once an address. It is not safe for concurrent use.
type Judge struct {
	rules *Ruleset
	ends  map[netip.Addr]*judgedEnd
	most  int // of ends
}

// judgedEnd is an address with the rules and denies at whose ends it may stand.
type judgedEnd struct {
	end
	src, dst         indexSet
	denySrc, denyDst indexSet
}

// maxJudged bounds what a Judge remembers, in addresses times rules; each takes two bits, and an address as
// much as a thousand more rules.
const maxJudged = 1 << 29

// NewJudge returns a Judge by rs, which must not change.
func NewJudge(rs *Ruleset) *Judge {
	return &Judge{rs, map[netip.Addr]*judgedEnd{}, maxJudged / (1000 + len(rs.Rules) + len(rs.Denies))}
}

// Explain is Ruleset.Explain.
func (j *Judge) Explain(f Flow, now time.Time) Explanation {
	src, dst := j.end(f.Src), j.end(f.Dst)
	e, open := explanation(f, j.decide(src, dst, f, now), src.end, dst.end)
	if !open {
		return e
	}
	for i := range src.src.either(dst.dst) {
		r := &j.rules.Rules[i]
		if miss, near := r.missed(src.src.has(i), dst.dst.has(i), src.end, dst.end, r.covers(f.Proto, f.Port), now); near {
			e.Near = append(e.Near, NearMiss{r, miss})
		}
	}
	e.Near = nearest(e.Near)
	return e
}

// decide is Ruleset.decide.
func (j *Judge) decide(src, dst *judgedEnd, f Flow, now time.Time) (d Decision) {
	if src.subject == nil || dst.subject == nil || f.Src.Is4() != f.Dst.Is4() {
		return Decision{}
	}
	for i := range src.src.both(dst.dst) {
		r := &j.rules.Rules[i]
		if r.postured(src.end) && r.owners(src.end, dst.end) && r.passes(dst.end) && r.covers(f.Proto, f.Port) && r.inForce(now) {
			d.allowedBy(r)
		}
	}
	if !d.Allow {
		return d
	}
	for i := range src.denySrc.both(dst.denyDst) {
		r := &j.rules.Denies[i]
		if r.postured(src.end) && r.owners(src.end, dst.end) && r.covers(f.Proto, f.Port) && !r.over(now) {
			return Decision{Deny: r}
		}
	}
	return d
}

func (j *Judge) end(a netip.Addr) *judgedEnd {
	if e, known := j.ends[a]; known {
		return e
	}
	if len(j.ends) >= max(2, j.most) {
		clear(j.ends)
	}
	e := &judgedEnd{end: j.rules.resolve(a)}
	e.src, e.dst = matching(j.rules.Rules, e.end)
	e.denySrc, e.denyDst = matching(j.rules.Denies, e.end)
	j.ends[a] = e
	return e
}

// matching lists the rules whose Src, and whose Dst, match e.
func matching(rules []Rule, e end) (src, dst indexSet) {
	src, dst = newIndexSet(len(rules)), newIndexSet(len(rules))
	for i := range rules {
		if rules[i].Src.matches(e) {
			src.add(i)
		}
		if rules[i].Dst.matches(e) {
			dst.add(i)
		}
	}
	return src, dst
}

// indexSet is a set of places in a list, a bit each. Sets are combined with those of lists as long.
type indexSet []uint64

func newIndexSet(length int) indexSet { return make(indexSet, (length+63)/64) }

func (s indexSet) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s indexSet) has(i int) bool { return s[i/64]>>(i%64)&1 != 0 }

// both lists what is in s and in o, in order; either, what is in one of them.
func (s indexSet) both(o indexSet) iter.Seq[int] {
	return places(len(s), func(i int) uint64 { return s[i] & o[i] })
}
func (s indexSet) either(o indexSet) iter.Seq[int] {
	return places(len(s), func(i int) uint64 { return s[i] | o[i] })
}

func places(words int, word func(i int) uint64) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range words {
			for w := word(i); w != 0; w &= w - 1 {
				if !yield(i*64 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}
