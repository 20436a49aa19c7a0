package acl

import (
	"math"
	"slices"
	"time"
)

// A rule with an end lets nothing through after it, wherever it is known: each node minds the time itself. What is over all the same keeps
// two nodes in each other's views, so a Compiled can be moved on to a later time, at which it is what its policy would be without what
// has ended by then.

// NextEnd returns when the next rule or deny ends, after the time that c is as of; false when none is left that does.
func (c *Compiled) NextEnd() (time.Time, bool) {
	i := c.endedAt(c.at)
	if i == len(c.ends) {
		return time.Time{}, false
	}
	return time.UnixMilli(c.ends[i]).UTC(), true
}

// At returns c as of t, to the millisecond: its Views leave out the rules and denies that have ended by then. Its Ruleset still has them, for
// explanations. Compile makes one in which nothing has ended, and Update keeps the time. t may also be earlier than the time c is as of.
// touched lists, sorted, whose View may differ from c's: who may stand at an end of what ended. c stays as it is.
func (c *Compiled) At(t time.Time) (next *Compiled, touched []NodeID) {
	at := t.UnixMilli()
	if c.endedAt(c.at) == c.endedAt(at) {
		return c, nil
	}
	c.updating.Lock()
	next = &Compiled{program: c.program, population: c.population.copied(), at: at}
	c.updating.Unlock()
	seen := map[NodeID]bool{}
	for _, list := range [][]compiledRule{c.rules, c.denies} {
		for i := range list {
			if r := &list[i]; c.ended(&r.Rule) != next.ended(&r.Rule) {
				c.touchEnds(r, seen)
			}
		}
	}
	return next, sortedIDs(seen)
}

// Ended lists, in the file's order, the rules and then the denies that end after the time that c is as of, and by t.
func (c *Compiled) Ended(t time.Time) (refs []Ref) {
	for _, list := range [][]compiledRule{c.rules, c.denies} {
		for i := range list {
			if r := &list[i].Rule; r.over(t) && !c.ended(r) && !slices.Contains(refs, r.Ref) {
				refs = append(refs, r.Ref)
			}
		}
	}
	return refs
}

// never is earlier than every end.
const never = math.MinInt64

// ended reports whether a rule has ended at the time that c is as of.
func (c *Compiled) ended(r *Rule) bool { return r.Until != 0 && c.at >= r.Until }

// endedAt is how many of the ends lie at or before at.
func (g *program) endedAt(at int64) int {
	i, _ := slices.BinarySearchFunc(g.ends, at, func(end, at int64) int {
		if end <= at {
			return -1
		}
		return 1
	})
	return i
}

// noteEnds collects when rules and denies end.
func (g *program) noteEnds() {
	for _, list := range [][]compiledRule{g.rules, g.denies} {
		for i := range list {
			if until := list[i].Until; until != 0 {
				g.ends = append(g.ends, until)
			}
		}
	}
	slices.Sort(g.ends)
	g.ends = slices.Compact(g.ends)
}

// touchEnds notes who may stand at either end of r, by itself or by what lies behind it.
func (c *Compiled) touchEnds(r *compiledRule, seen map[NodeID]bool) {
	for _, s := range []Set{r.Src, r.Dst} {
		for _, id := range s.Roles {
			for e := range c.members.at(roleKey(id)) {
				seen[e.subject.Node] = true
			}
		}
		for _, p := range s.Prefixes {
			for e := range c.within(p) {
				seen[e.subject.Node] = true
			}
		}
	}
	for e := range c.routers.at("") {
		seen[e.subject.Node] = true
	}
}
