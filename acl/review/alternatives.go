package review

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"picket.internal/acl"
)

// side is one of the two policies, joined with the world.
type side struct {
	source        *Source
	rules, denies *matcher
	conditions    [][]condition // of each rule, any one of which must hold
	sameOwner     bits          // rules that are for nodes of one owner
	sameOwnerDeny bits
}

func newSide(s *Source, rs *acl.Ruleset, w *world, now time.Time) *side {
	over := func(r *acl.Rule) bool { return len(r.Ports) == 0 || r.Until != 0 && now.UnixMilli() >= r.Until }
	out := &side{
		source: s,
		rules:  newMatcher(rs.Rules, rs.Subjects, w.standIns, over), denies: newMatcher(rs.Denies, rs.Subjects, true, over),
		sameOwner: newBits(len(rs.Rules)), sameOwnerDeny: newBits(len(rs.Denies)),
	}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		out.conditions = append(out.conditions, out.alternatives(r, w))
		if r.SameOwner {
			out.sameOwner.set(i)
		}
	}
	for i := range rs.Denies {
		if rs.Denies[i].SameOwner {
			out.sameOwnerDeny.set(i)
		}
	}
	return out
}

// alternatives lists a rule's conditions: one for each of the postures of which its source must meet one, and, where routers are only
// stood in for, for each tag that a router may have.
func (s *side) alternatives(r *acl.Rule, w *world) []condition {
	base := condition{until: r.Until}
	for _, x := range r.Restrictions {
		base.demand(x)
	}
	out := []condition{base}
	if len(r.SrcPosture) > 0 {
		out = nil
		for _, name := range r.Postures {
			c := base
			c.posture, c.assertions = name, s.source.assertions(name)
			out = append(out, c)
		}
	}
	if w.standIns && len(r.Via) > 0 {
		var through []condition
		for _, c := range out {
			for _, tag := range s.source.rules[ruleAt{r.Ref.Section, r.Ref.Index}].via {
				c.via = tag
				through = append(through, c)
			}
		}
		out = through
	}
	return out
}

// assertions of a posture, each with its blanks in one form, sorted.
func (s *Source) assertions(posture string) (out []string) {
	for _, a := range strs(members(s.sections["postures"])[posture]) {
		out = append(out, strings.Join(strings.Fields(a), " "))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// alternative is ports that one rule opens under one condition.
type alternative struct {
	rule   int
	listed []acl.Ports // all that the rule opens
	ports  []acl.Ports
	condition
}

// open lists what rules open when denies have taken their part.
func (s *side) open(rules, denies bits) (out []alternative) {
	var order []*acl.Rule
	for i := range denies.all() {
		order = append(order, &s.denies.rules[i])
	}
	lasting := func(r *acl.Rule) int64 {
		if r.Until == 0 {
			return 1<<63 - 1
		}
		return r.Until
	}
	slices.SortStableFunc(order, func(a, b *acl.Rule) int { return cmp.Compare(lasting(b), lasting(a)) })
	for i := range rules.all() {
		left := s.rules.rules[i].Ports
		add := func(ports []acl.Ports, from int64) {
			for _, c := range s.conditions[i] {
				if c.from = from; len(ports) > 0 && (c.until == 0 || c.until > from) {
					out = append(out, alternative{i, s.rules.rules[i].Ports, ports, c})
				}
			}
		}
		for _, d := range order {
			if d.Until != 0 {
				add(common(left, d.Ports), d.Until)
			}
			left = without(left, d.Ports)
		}
		add(left, 0)
	}
	return out
}

// uncovered is what of a's ports no alternative of list opens under a condition that a's implies.
func (a alternative) uncovered(list []alternative) []acl.Ports {
	left := a.ports
	for _, b := range list {
		if len(left) > 0 && a.impliedBy(b.condition) {
			left = without(left, b.ports)
		}
	}
	return left
}

// Kind of a change.
type Kind string

// The kinds. The first two widen access.
const (
	Gained   Kind = "gained"   // there was no way
	Widened  Kind = "widened"  // there was one, under conditions that were stronger or others
	Narrowed Kind = "narrowed" // there is one left, under conditions that are stronger or others
	Lost     Kind = "lost"     // no way is left
)

var kinds = []Kind{Gained, Widened, Narrowed, Lost}

// effect is how the way between two places changes by one rule.
type effect struct {
	kind   Kind
	rule   int // of the new policy where something is gained, else of the old
	ports  []acl.Ports
	under  []string // the rule's conditions, any of which must hold; "" for none
	other  []string // of Widened and Narrowed: the conditions on the other side
	denies []int    // of the new policy that take it away, or of the old that no longer do
}

// match is the rules and denies that concern a pair of places.
type match struct{ rules, denies bits }

// effects compares what two policies open between two places.
func effects(was, is *side, before, after match) []effect {
	old, next := was.open(before.rules, before.denies), is.open(after.rules, after.denies)
	out := onesided(Gained, Widened, next, old, was, before)
	return append(out, onesided(Lost, Narrowed, old, next, is, after)...)
}

// onesided lists what mine opens and theirs does not. The other side's denies are named where without them it would.
func onesided(whole, partly Kind, mine, theirs []alternative, them *side, theirMatch match) (out []effect) {
	var ever []acl.Ports
	for _, b := range theirs {
		ever = union(ever, b.ports)
	}
	var undenied []alternative
	for _, a := range mine {
		rest := a.uncovered(theirs)
		if len(rest) == 0 {
			continue
		}
		if undenied == nil {
			undenied = them.open(theirMatch.rules, newBits(len(them.denies.rules)))
		}
		byRules := alternative{a.rule, a.listed, rest, a.condition}.uncovered(undenied)
		for _, part := range []struct {
			ports  []acl.Ports
			denied bool
		}{{byRules, false}, {without(rest, byRules), true}} {
			var denies []int
			if part.denied {
				for i := range theirMatch.denies.all() {
					if len(common(part.ports, them.denies.rules[i].Ports)) > 0 {
						denies = append(denies, i)
					}
				}
			}
			for _, fresh := range apart(without(part.ports, ever), a.listed) {
				out = append(out, effect{whole, a.rule, fresh, []string{a.condition.String()}, nil, denies})
			}
			for _, some := range apart(common(part.ports, ever), a.listed) {
				out = append(out, effect{partly, a.rule, some, []string{a.condition.String()}, conditionsOn(some, theirs), denies})
			}
		}
	}
	return joinConditions(out)
}

// apart parts ports by those that a rule lists: who is denied one of them still is among those who may use the others.
func apart(ports, listed []acl.Ports) (out [][]acl.Ports) {
	for _, p := range listed {
		if some := common(ports, []acl.Ports{p}); len(some) > 0 {
			out = append(out, some)
		}
	}
	return out
}

// conditionsOn lists the conditions of the alternatives that open any of ports.
func conditionsOn(ports []acl.Ports, list []alternative) (out []string) {
	for _, b := range list {
		if len(common(ports, b.ports)) > 0 {
			out = append(out, b.condition.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// joinConditions makes one effect of those that differ in their conditions only.
func joinConditions(in []effect) (out []effect) {
	for _, e := range in {
		same := func(o effect) bool {
			return o.kind == e.kind && o.rule == e.rule && slices.Equal(o.ports, e.ports) && slices.Equal(o.other, e.other) && slices.Equal(o.denies, e.denies)
		}
		if i := slices.IndexFunc(out, same); i < 0 {
			out = append(out, e)
		} else if !slices.Contains(out[i].under, e.under[0]) {
			out[i].under = append(out[i].under, e.under[0])
		}
	}
	return out
}
