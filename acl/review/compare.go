package review

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"picket.internal/acl"
)

// Stages of a comparison: the places are sorted into classes by which rules they match at which end; rules that match the same classes in
// both policies and open the same are set aside; the pairs of classes that any other rule concerns are compared, once for each combination
// of rules; pairs with equal effects are put together.

// comparison of two policies in one world.
type comparison struct {
	*world
	was, is  *side
	from, to bits // places that are looked at; nil for all
	classes  []*class
	owned    map[acl.UserID]bits // classes of untagged nodes, where an owner matters
	effects  map[string]*spread  // by the effect's text
	known    map[string][]*spread
}

// class is places that neither policy tells apart.
type class struct {
	places bits
	owner  acl.UserID // where an owner matters
	faces  []face
	asked  [2]bool // at which end it is looked at
}

// face is how a class looks at its addresses of one family, which rules see alike.
type face struct {
	family   int
	was, is  [2]bits // rules at whose src and dst it may stand
	wasD, iD [2]bits // denies
}

// spread is an effect with the pairs of classes that have it.
type spread struct {
	effect
	rows map[int]bits // destination classes, by source class
}

func (c *comparison) run() []*spread {
	c.classify()
	c.effects, c.known = map[string]*spread{}, map[string][]*spread{}
	for s, row := range c.candidates() {
		for d := range row.all() {
			if c.classes[s].asked[src] && c.classes[d].asked[dst] {
				c.compare(s, d)
			}
		}
	}
	return slices.Collect(maps.Values(c.effects))
}

func (c *comparison) classify() {
	byKey := map[string]int{}
	c.owned = map[acl.UserID]bits{}
	for i, p := range c.places {
		cl := &class{faces: c.facesOf(p), asked: [2]bool{c.from == nil || c.from.has(i), c.to == nil || c.to.has(i)}}
		if c.ownerMatters(cl) {
			cl.owner = p.owner
		}
		key := cl.key()
		at, known := byKey[key]
		if !known {
			at = len(c.classes)
			byKey[key] = at
			cl.places = newBits(len(c.places))
			c.classes = append(c.classes, cl)
		}
		c.classes[at].places.set(i)
	}
	for i, cl := range c.classes {
		if cl.owner != "" {
			if c.owned[cl.owner] == nil {
				c.owned[cl.owner] = newBits(len(c.classes))
			}
			c.owned[cl.owner].set(i)
		}
	}
}

// facesOf lists a place's faces, each once.
func (c *comparison) facesOf(p *place) (out []face) {
	seen := map[string]bool{}
	for _, a := range p.addresses {
		f := face{family: version(a)}
		f.was[src], f.was[dst] = c.was.rules.at(p, a)
		f.is[src], f.is[dst] = c.is.rules.at(p, a)
		f.wasD[src], f.wasD[dst] = c.was.denies.at(p, a)
		f.iD[src], f.iD[dst] = c.is.denies.at(p, a)
		if key := f.key(); !seen[key] {
			seen[key] = true
			out = append(out, f)
		}
	}
	return out
}

func (f *face) key() string {
	b := []byte{byte(f.family)}
	for _, ends := range [][2]bits{f.was, f.is, f.wasD, f.iD} {
		b = ends[dst].appendKey(ends[src].appendKey(b))
	}
	return string(b)
}

func (cl *class) key() string {
	keys := make([]string, len(cl.faces))
	for i := range cl.faces {
		keys[i] = cl.faces[i].key()
	}
	slices.Sort(keys)
	return fmt.Sprintf("%s|%v|%s", cl.owner, cl.asked, strings.Join(keys, ""))
}

// ownerMatters reports whether a rule for nodes of one owner may match.
func (c *comparison) ownerMatters(cl *class) bool {
	return slices.ContainsFunc(cl.faces, func(f face) bool {
		for end := range 2 {
			if !f.was[end].and(c.was.sameOwner).empty() || !f.is[end].and(c.is.sameOwner).empty() ||
				!f.wasD[end].and(c.was.sameOwnerDeny).empty() || !f.iD[end].and(c.is.sameOwnerDeny).empty() {
				return true
			}
		}
		return false
	})
}

// reach is where a rule stands among the faces, and what it opens: two rules with one text do the same.
type reach struct {
	text     string
	src, dst bits // classes
	self     bool
}

// candidates returns, for each source class, the destinations between which anything may differ.
func (c *comparison) candidates() []bits {
	rows := make([]bits, len(c.classes))
	for i := range rows {
		rows[i] = newBits(len(c.classes))
	}
	rule := func(s *side) func(int) string {
		return func(i int) string {
			r := &s.rules.rules[i]
			text := fmt.Sprint(r.Ports, r.SameOwner)
			for _, k := range s.conditions[i] {
				text += k.key()
			}
			return text
		}
	}
	deny := func(s *side) func(int) string {
		return func(i int) string {
			r := &s.denies.rules[i]
			return fmt.Sprint(r.Ports, r.SameOwner, r.Until)
		}
	}
	differing := unmatched(
		c.reaches(c.was.rules, rule(c.was), func(f *face) [2]bits { return f.was }), c.reaches(c.is.rules, rule(c.is), func(f *face) [2]bits { return f.is }))
	differing = append(differing, unmatched(
		c.reaches(c.was.denies, deny(c.was), func(f *face) [2]bits { return f.wasD }), c.reaches(c.is.denies, deny(c.is), func(f *face) [2]bits { return f.iD }))...)
	for _, r := range differing {
		for s := range r.src.all() {
			switch owner := c.classes[s].owner; {
			case !r.self:
				rows[s].add(r.dst)
			case owner != "":
				rows[s].add(r.dst.and(c.owned[owner]))
			}
		}
	}
	return rows
}

// reaches lists where each rule stands. Faces, not classes, tell rules apart: one may match a class at its IPv4 addresses only.
func (c *comparison) reaches(m *matcher, text func(int) string, ends func(*face) [2]bits) []reach {
	out := make([]reach, len(m.rules))
	faces := 0
	for _, cl := range c.classes {
		faces += len(cl.faces)
	}
	at := make([][2]bits, len(m.rules)) // faces
	for i := range out {
		out[i] = reach{src: newBits(len(c.classes)), dst: newBits(len(c.classes)), self: m.rules[i].SameOwner}
		at[i] = [2]bits{newBits(faces), newBits(faces)}
	}
	n := 0
	for k, cl := range c.classes {
		for f := range cl.faces {
			e := ends(&cl.faces[f])
			for i := range e[src].all() {
				out[i].src.set(k)
				at[i][src].set(n)
			}
			for i := range e[dst].all() {
				out[i].dst.set(k)
				at[i][dst].set(n)
			}
			n++
		}
	}
	for i := range out {
		out[i].text = text(i) + at[i][src].key() + at[i][dst].key()
	}
	return out
}

// unmatched lists those of either list that have no twin in the other.
func unmatched(a, b []reach) (out []reach) {
	left := map[string]int{}
	for _, r := range b {
		left[r.text]++
	}
	for _, r := range a {
		if left[r.text] > 0 {
			left[r.text]--
		} else {
			out = append(out, r)
		}
	}
	for _, r := range b {
		if left[r.text] > 0 {
			left[r.text]--
			out = append(out, r)
		}
	}
	return out
}

// compare notes the effects from class s to class d.
func (c *comparison) compare(s, d int) {
	a, b := c.classes[s], c.classes[d]
	oneOwner := a.owner != "" && a.owner == b.owner
	last := ""
	for i := range a.faces {
		for j := range b.faces {
			f, g := &a.faces[i], &b.faces[j]
			if f.family != g.family {
				continue
			}
			before := match{f.was[src].and(g.was[dst]), f.wasD[src].and(g.wasD[dst])}
			after := match{f.is[src].and(g.is[dst]), f.iD[src].and(g.iD[dst])}
			if !oneOwner {
				before = match{before.rules.minus(c.was.sameOwner), before.denies.minus(c.was.sameOwnerDeny)}
				after = match{after.rules.minus(c.is.sameOwner), after.denies.minus(c.is.sameOwnerDeny)}
			}
			key := string(after.denies.appendKey(after.rules.appendKey(before.denies.appendKey(before.rules.appendKey(nil)))))
			if key == last {
				continue // IPv4 and IPv6 are mostly alike
			}
			last = key
			for _, e := range c.effectsOf(key, before, after) {
				if e.rows[s] == nil {
					e.rows[s] = newBits(len(c.classes))
				}
				e.rows[s].set(d)
			}
		}
	}
}

// effectsOf compares once what many pairs of classes have in common.
func (c *comparison) effectsOf(key string, before, after match) []*spread {
	known, ok := c.known[key]
	if ok {
		return known
	}
	for _, e := range effects(c.was, c.is, before, after) {
		text := fmt.Sprint(e.kind, e.rule, e.ports, e.denies) + fmt.Sprintf("%q%q", e.under, e.other)
		if c.effects[text] == nil {
			c.effects[text] = &spread{e, map[int]bits{}}
		}
		known = append(known, c.effects[text])
	}
	c.known[key] = known
	return known
}
