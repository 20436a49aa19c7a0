package review

import (
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
	texts, keys   [][]string    // of conditions
}

func newSide(s *Source, rs *acl.Ruleset, w *world, now time.Time) *side {
	over := func(r *acl.Rule) bool { return len(r.Ports) == 0 || r.Until != 0 && now.UnixMilli() >= r.Until }
	out := &side{
		source: s,
		rules:  newMatcher(rs.Rules, rs.Subjects, w.standIns, over), denies: newMatcher(rs.Denies, rs.Subjects, true, over),
	}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		list := out.alternatives(r, w)
		texts, keys := make([]string, len(list)), make([]string, len(list))
		for k, c := range list {
			texts[k], keys[k] = c.String(), c.key()
		}
		out.conditions, out.texts, out.keys = append(out.conditions, list), append(out.texts, texts), append(out.keys, keys)
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

// alternative is a way that one rule opens under one condition.
type alternative struct {
	rule int
	condition
	text string // of the condition
}

// open lists what rules open when denies have taken their part: all, or all until the last of them ends.
func (s *side) open(rules, denies []int) (out []alternative) {
	from := int64(0)
	for _, i := range denies {
		until := s.denies.rules[i].Until
		if until == 0 {
			return nil
		}
		from = max(from, until)
	}
	for _, i := range rules {
		for k, c := range s.conditions[i] {
			text := s.texts[i][k]
			if c.from = from; from != 0 {
				text = c.String()
			}
			if c.until == 0 || c.until > from {
				out = append(out, alternative{i, c, text})
			}
		}
	}
	return out
}

// coveredBy reports whether some alternative of list is open whenever a is.
func (a *alternative) coveredBy(list []alternative) bool {
	return slices.ContainsFunc(list, func(b alternative) bool { return a.impliedBy(b.condition) })
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

// effect is how the way between two places, to some ports, changes by one rule.
type effect struct {
	kind   Kind
	rule   int      // of the new policy where something is gained, else of the old
	under  []string // the rule's conditions, any of which must hold; "" for none
	other  []string // of Widened and Narrowed: the conditions on the other side
	denies []int    // of the new policy that take it away, or of the old that no longer do
}

// match is the rules and denies that concern a pair of places.
type match struct{ rules, denies []int }

// effects compares what two policies open between two places.
func effects(was, is *side, before, after match) []effect {
	old, next := was.open(before.rules, before.denies), is.open(after.rules, after.denies)
	out := onesided(Gained, Widened, next, old, was, before)
	return append(out, onesided(Lost, Narrowed, old, next, is, after)...)
}

// onesided lists what mine opens and theirs does not. The other side's denies are named where without them it would.
func onesided(whole, partly Kind, mine, theirs []alternative, them *side, theirMatch match) (out []effect) {
	kind, undenied := partly, []alternative(nil)
	if len(theirs) == 0 {
		kind = whole
	}
	if len(theirMatch.denies) > 0 {
		undenied = them.open(theirMatch.rules, nil)
	}
	for _, a := range mine {
		if a.coveredBy(theirs) {
			continue
		}
		e := effect{kind: kind, rule: a.rule, under: []string{a.text}, other: conditionsOf(theirs)}
		if a.coveredBy(undenied) {
			e.denies = theirMatch.denies
		}
		same := func(o effect) bool {
			return o.rule == e.rule && slices.Equal(o.denies, e.denies)
		}
		if i := slices.IndexFunc(out, same); i < 0 {
			out = append(out, e)
		} else if !slices.Contains(out[i].under, a.text) {
			out[i].under = append(out[i].under, a.text)
		}
	}
	return out
}

func conditionsOf(list []alternative) (out []string) {
	for _, b := range list {
		out = append(out, b.text)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
