package review

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"picket.internal/acl"
)

// Line is one change as a reviewer thinks of it: from whom to whom, on which ports, by which rule.
type Line struct {
	Change    Kind        `json:"change,omitempty"`
	From      []Party     `json:"from"`
	To        []Party     `json:"to"`
	FromNodes int         `json:"fromNodes"` // 0 where stand-ins were compared
	ToNodes   int         `json:"toNodes"`
	Ports     []acl.Ports `json:"ports"`
	Rule      acl.Ref     `json:"rule"`             // of the new policy where something is gained, else of the old
	Under     []string    `json:"under,omitempty"`  // the rule's conditions, any of which must hold; none: it has none
	Other     []string    `json:"other,omitempty"`  // of widened what it was under, of narrowed what it is under; "" is no condition
	Denies    []Deny      `json:"denies,omitempty"` // that now refuse it, or, of what is gained, that no longer do
}

// Deny is one of a policy's denies.
type Deny struct {
	Ref    acl.Ref `json:"ref"`
	Reason string  `json:"reason"`
}

// product is all of one set of places to all of another; where each is for its owner, to those of the owner.
type product struct {
	from, to bits
	own      bool
}

func (p *product) key() string {
	key := p.to.appendKey(p.from.appendKey(nil))
	if p.own {
		key = append(key, 1)
	}
	return string(key)
}

// lines puts findings into words. names are those of the old policy and of the new.
func (c *comparison) lines(found []*finding, names [2]*namer) (out []Line) {
	// One entry of the file may be several rules, and effects may differ in what is no matter to people.
	joined := map[string]*finding{}
	for _, f := range found {
		mine, theirs := c.sides(f)
		key := fmt.Sprintf("%s %v %q %q ", f.kind, mine.rules.rules[f.rule].Ref, conditions(f.under), f.other)
		for _, i := range f.denies {
			key += theirs.denies.rules[i].Ref.String()
		}
		if key += f.product.key(); joined[key] == nil {
			joined[key] = f
		} else {
			joined[key].ports = append(joined[key].ports, f.ports...)
		}
	}
	for _, f := range joined {
		out = append(out, c.line(f, names))
	}
	slices.SortFunc(out, compareLines)
	return out
}

func compareLines(a, b Line) int {
	return cmp.Or(
		cmp.Compare(slices.Index(kinds, a.Change), slices.Index(kinds, b.Change)),
		cmp.Compare(a.Rule.Line, b.Rule.Line), cmp.Compare(a.Rule.Column, b.Rule.Column),
		slices.CompareFunc(a.From, b.From, compareParties), slices.CompareFunc(a.To, b.To, compareParties),
		strings.Compare(acl.FormatPorts(a.Ports), acl.FormatPorts(b.Ports)),
		slices.Compare(a.Under, b.Under), slices.Compare(a.Other, b.Other),
	)
}

// sides returns whose rule an effect is of, and the other.
func (c *comparison) sides(f *finding) (mine, theirs *side) {
	if f.kind == Gained || f.kind == Widened {
		return c.is, c.was
	}
	return c.was, c.is
}

// products parts the pairs of an effect into as few products as have all sources of equal destinations. What only leads from a node to
// itself is left out. Where a rule is for one owner's nodes, the sources that reach all of their owner's stand together.
func (c *cut) products(e *spread) (out []product) {
	rules := c.is.rules
	if e.kind == Lost || e.kind == Narrowed {
		rules = c.was.rules
	}
	byRow := map[string]*product{}
	for s, row := range e.rows {
		key, to, own := row.key(), c.expand(row), false
		if rules.rules[e.rule].SameOwner {
			own = row.key() == c.ownersAll(e, s).key()
			if self := c.classes[s].places; self.count() == 1 && to.key() == self.key() {
				continue
			}
		}
		if own {
			key = "own"
		}
		if byRow[key] == nil {
			byRow[key] = &product{newBits(len(c.places)), newBits(len(c.places)), own}
		}
		byRow[key].from.add(c.classes[s].places)
		byRow[key].to.add(to)
	}
	for _, p := range byRow {
		if p.from.count() > 1 || p.from.key() != p.to.key() {
			out = append(out, *p)
		}
	}
	return out
}

// ownersAll are the classes of the owner of s that an effect's rule goes to.
func (c *cut) ownersAll(e *spread, s int) bits {
	l := isRules
	if e.kind == Lost || e.kind == Narrowed {
		l = wasRules
	}
	out := newBits(len(c.classes))
	for i := range c.owned[c.classes[s].owner].all() {
		if slices.ContainsFunc(c.classes[i].faces, func(f face) bool { return f.ends[l][dst].has(e.rule) }) {
			out.set(i)
		}
	}
	return out
}

func (c *cut) expand(classes bits) bits {
	out := newBits(len(c.places))
	for i := range classes.all() {
		out.add(c.classes[i].places)
	}
	return out
}

func (c *comparison) line(f *finding, names [2]*namer) Line {
	mine, theirs := c.sides(f)
	r := &mine.rules.rules[f.rule]
	name, words := names[1], mine.source.rules[ruleAt{r.Ref.Section, r.Ref.Index}]
	if mine == c.was {
		name = names[0]
	}
	var denied []string // how denies call who is concerned
	l := Line{Change: f.kind, Ports: acl.UnionPorts(f.ports), Rule: r.Ref, Under: conditions(f.under), Other: f.other}
	for _, i := range f.denies {
		d := &theirs.denies.rules[i]
		l.Denies = append(l.Denies, Deny{d.Ref, visible(d.Reason)})
		t := theirs.source.rules[ruleAt{d.Ref.Section, d.Ref.Index}]
		denied = append(append(denied, t.src...), t.dst...)
	}
	l.From = name.name(f.from, src, slices.Concat(words.src, denied))
	if f.own {
		l.To = []Party{{Name: "autogroup:self"}}
	} else {
		l.To = name.name(f.to, dst, slices.Concat(words.dst, denied))
	}
	if !c.standIns {
		l.FromNodes, l.ToNodes = c.nodes(f.from), c.nodes(f.to)
	}
	return l
}

// conditions is nil where one of them is none.
func conditions(under []string) []string {
	if slices.Contains(under, "") {
		return nil
	}
	out := slices.Clone(under)
	slices.Sort(out)
	return out
}
