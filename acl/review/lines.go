package review

import (
	"cmp"
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

// product is all of one set to all of another.
type product struct{ from, to bits } // places

// lines puts effects into words. names are those of the old policy and of the new.
func (c *comparison) lines(spreads []*spread, names [2]*namer) (out []Line) {
	type entry struct {
		product
		e     *spread
		ports []acl.Ports
	}
	joined := map[string]*entry{}
	for _, e := range spreads {
		s, _ := c.sides(e)
		r := &s.rules.rules[e.rule]
		for _, p := range c.products(e, r.SameOwner) {
			ref := []byte(r.Ref.String() + string(e.kind) + strings.Join(slices.Concat(e.under, []string{"\x00"}, e.other), "\x01"))
			for _, d := range e.denies {
				ref = append(ref, byte(d), byte(d>>8), byte(d>>16))
			}
			if r.SameOwner {
				ref = append(ref, 's')
			}
			key := string(p.to.appendKey(p.from.appendKey(ref)))
			if joined[key] == nil {
				joined[key] = &entry{product: p, e: e}
			}
			joined[key].ports = union(joined[key].ports, e.ports)
		}
	}
	for _, j := range joined {
		out = append(out, c.line(j.e, j.product, j.ports, names))
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
func (c *comparison) sides(e *spread) (mine, theirs *side) {
	if e.kind == Gained || e.kind == Widened {
		return c.is, c.was
	}
	return c.was, c.is
}

// products parts the pairs of an effect into as few products as have all sources of equal destinations. What only leads from a node to
// itself is left out. For a rule of one owner's nodes the sources stand together although each has destinations of its own.
func (c *comparison) products(e *spread, sameOwner bool) (out []product) {
	byRow := map[string]*product{}
	for s, row := range e.rows {
		key := row.key()
		to := c.expand(row)
		if sameOwner {
			if key = "own"; c.classes[s].places.count() == 1 && to.count() == 1 && c.classes[s].places.has(first(to)) {
				continue
			}
		}
		if byRow[key] == nil {
			byRow[key] = &product{newBits(len(c.places)), newBits(len(c.places))}
		}
		byRow[key].from.add(c.classes[s].places)
		byRow[key].to.add(to)
	}
	for _, p := range byRow {
		if p.from.count() > 1 || p.to.count() > 1 || p.from.key() != p.to.key() {
			out = append(out, *p)
		}
	}
	return out
}

func (c *comparison) expand(classes bits) bits {
	out := newBits(len(c.places))
	for i := range classes.all() {
		out.add(c.classes[i].places)
	}
	return out
}

func (c *comparison) line(e *spread, p product, ports []acl.Ports, names [2]*namer) Line {
	mine, theirs := c.sides(e)
	r := &mine.rules.rules[e.rule]
	name, words := names[1], mine.source.rules[ruleAt{r.Ref.Section, r.Ref.Index}]
	if mine == c.was {
		name = names[0]
	}
	var denied []string // how denies call who is concerned
	l := Line{Change: e.kind, Ports: ports, Rule: r.Ref, Under: conditions(e.under), Other: e.other}
	for _, i := range e.denies {
		d := &theirs.denies.rules[i]
		l.Denies = append(l.Denies, Deny{d.Ref, visible(d.Reason)})
		t := theirs.source.rules[ruleAt{d.Ref.Section, d.Ref.Index}]
		denied = append(append(denied, t.src...), t.dst...)
	}
	l.From = name.name(p.from, src, slices.Concat(words.src, denied))
	if r.SameOwner {
		l.To = []Party{{Name: "autogroup:self"}}
	} else {
		l.To = name.name(p.to, dst, slices.Concat(words.dst, denied))
	}
	if !c.standIns {
		l.FromNodes, l.ToNodes = c.nodes(p.from), c.nodes(p.to)
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
