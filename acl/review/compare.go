package review

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"picket.internal/acl"
)

// Stages of a comparison: (1) which rules may match at which end is found for each place. (2) The ports are cut into slices that each rule
// opens all or none of. For each slice, so with its few rules only, (3) the places are sorted into classes that none of them tells apart;
// (4) rules that match the same classes under the same conditions in both policies are set aside, and the pairs of classes that any other
// rule concerns are compared, once for each combination of rules; (5) the pairs of an effect are put together to products. (6) Equal products
// of all slices become one finding.

// Lists of rules, in the order in which a face and a slice have them.
const (
	wasRules = iota
	isRules
	wasDenies
	isDenies
)

// comparison of two policies in one world.
type comparison struct {
	*world
	was, is  *side
	from, to bits        // places that are looked at; nil for all
	only     []acl.Ports // that are looked at; nil for all
	matchers [4]*matcher
	faces    [][]face // of each place
}

// face is how a place looks at its addresses of one family that rules see alike.
type face struct {
	family int
	ends   [4][2]bits // by list: the rules at whose src and dst it may stand
}

// finding is an effect that goes from all of one set of places to all of another.
type finding struct {
	effect
	product
	ports []acl.Ports
}

func (c *comparison) run() []*finding {
	c.matchers = [4]*matcher{c.was.rules, c.is.rules, c.was.denies, c.is.denies}
	for _, p := range c.places {
		c.faces = append(c.faces, c.facesOf(p))
	}
	found := map[string]*finding{}
	for _, s := range sliced(c.matchers) {
		if c.only != nil {
			s.ports = common(s.ports, c.only)
		}
		if len(s.ports) > 0 {
			newCut(c, s).compareAll(func(e *effect, p product) {
				key := e.key() + p.key()
				if found[key] == nil {
					found[key] = &finding{effect: *e, product: p}
				}
				found[key].ports = append(found[key].ports, s.ports...)
			})
		}
	}
	return slices.Collect(maps.Values(found))
}

// facesOf lists a place's faces, each once.
func (c *comparison) facesOf(p *place) (out []face) {
	seen := map[string]bool{}
	for _, a := range p.addresses {
		f := face{family: version(a)}
		key := []byte{byte(f.family)}
		for l, m := range c.matchers {
			f.ends[l][src], f.ends[l][dst] = m.at(p, a)
			key = f.ends[l][dst].appendKey(f.ends[l][src].appendKey(key))
		}
		if !seen[string(key)] {
			seen[string(key)] = true
			out = append(out, f)
		}
	}
	return out
}

// key is one text for equal effects.
func (e *effect) key() string {
	return fmt.Sprintf("%s %d %d %q %q ", e.kind, e.rule, e.denies, e.under, e.other)
}

// cut is the comparison of one slice.
type cut struct {
	*comparison
	*slice
	words   [4][]word
	classes []*class
	owned   map[acl.UserID]bits // classes of untagged nodes, where an owner matters
	known   map[string][]*spread
}

// word is where rules of the slice stand in a set of rules.
type word struct {
	at   int
	mask uint64
}

// class is places that the slice's rules do not tell apart.
type class struct {
	places bits
	owner  acl.UserID // where an owner matters
	faces  []face     // of one of the places
	asked  [2]bool    // at which end it is looked at
}

// spread is an effect with the pairs of classes that have it.
type spread struct {
	effect
	rows map[int]bits // destination classes, by source class
}

func newCut(c *comparison, s *slice) *cut {
	out := &cut{comparison: c, slice: s, owned: map[acl.UserID]bits{}, known: map[string][]*spread{}}
	for l, rules := range s.lists {
		for _, i := range rules {
			w := out.words[l]
			if n := len(w); n > 0 && w[n-1].at == i/64 {
				w[n-1].mask |= 1 << (i % 64)
			} else {
				out.words[l] = append(w, word{i / 64, 1 << (i % 64)})
			}
		}
	}
	return out
}

func (c *cut) compareAll(report func(*effect, product)) {
	c.classify()
	spreads := map[*spread]bool{}
	for s, row := range c.candidates() {
		for d := range row.all() {
			if c.classes[s].asked[src] && c.classes[d].asked[dst] {
				c.compare(s, d, spreads)
			}
		}
	}
	for e := range spreads {
		for _, p := range c.products(e) {
			report(&e.effect, p)
		}
	}
}

// classify sorts the places that any of the slice's rules may match.
func (c *cut) classify() {
	byKey := map[string]int{}
	var buffer []byte
	for i, p := range c.places {
		key, matched := c.placeKey(buffer[:0], i)
		if buffer = key; !matched {
			continue
		}
		cl := class{faces: c.faces[i], asked: [2]bool{c.from == nil || c.from.has(i), c.to == nil || c.to.has(i)}}
		if c.ownerMatters(&cl) {
			cl.owner = p.owner
		}
		key = fmt.Appendf(key, "%v%s", cl.asked, cl.owner)
		at, known := byKey[string(key)]
		if !known {
			at = len(c.classes)
			byKey[string(key)] = at
			cl.places = newBits(len(c.places))
			c.classes = append(c.classes, &cl)
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

// placeKey appends what a place is to the slice's rules; false when it is nothing.
func (c *cut) placeKey(to []byte, i int) (key []byte, matched bool) {
	for f := range c.faces[i] {
		from := len(to)
		var some bool
		to, some = c.faceKey(append(to, byte(c.faces[i][f].family)), &c.faces[i][f])
		if !some {
			to = to[:from]
		}
		matched = matched || some
	}
	return to, matched
}

func (c *cut) faceKey(to []byte, f *face) (key []byte, matched bool) {
	for l, words := range c.words {
		for _, w := range words {
			for end := range 2 {
				x := f.ends[l][end][w.at] & w.mask
				to = binary.LittleEndian.AppendUint64(to, x)
				matched = matched || x != 0
			}
		}
	}
	return to, matched
}

// ownerMatters reports whether a rule for nodes of one owner may match.
func (c *cut) ownerMatters(cl *class) bool {
	for l, rules := range c.lists {
		for _, i := range rules {
			if c.matchers[l].rules[i].SameOwner && slices.ContainsFunc(cl.faces, func(f face) bool { return f.ends[l][src].has(i) || f.ends[l][dst].has(i) }) {
				return true
			}
		}
	}
	return false
}

// reach is which classes a rule matches, and what it opens: two rules with one text do the same.
type reach struct {
	text     string
	src, dst bits // classes
	self     bool
}

// candidates returns, for each source class, the destinations between which anything may differ.
func (c *cut) candidates() []bits {
	rows := make([]bits, len(c.classes))
	for i := range rows {
		rows[i] = newBits(len(c.classes))
	}
	for _, r := range append(unmatched(c.reaches(wasRules), c.reaches(isRules)), unmatched(c.reaches(wasDenies), c.reaches(isDenies))...) {
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

// reaches lists what each rule matches. Faces, not classes, tell rules apart: one may match a class at its IPv4 addresses only.
func (c *cut) reaches(l int) (out []reach) {
	for _, i := range c.lists[l] {
		r := &c.matchers[l].rules[i]
		x := reach{src: newBits(len(c.classes)), dst: newBits(len(c.classes)), self: r.SameOwner}
		var text strings.Builder
		switch l {
		case wasRules, isRules:
			for _, k := range [2]*side{c.was, c.is}[l].keys[i] {
				text.WriteString(k)
			}
		default:
			fmt.Fprint(&text, r.Until)
		}
		fmt.Fprint(&text, r.SameOwner)
		for k, cl := range c.classes {
			for f := range cl.faces {
				at := byte('0')
				if cl.faces[f].ends[l][src].has(i) {
					x.src.set(k)
					at |= 1
				}
				if cl.faces[f].ends[l][dst].has(i) {
					x.dst.set(k)
					at |= 2
				}
				text.WriteByte(at)
			}
		}
		x.text = text.String()
		out = append(out, x)
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
func (c *cut) compare(s, d int, spreads map[*spread]bool) {
	a, b := c.classes[s], c.classes[d]
	oneOwner := a.owner != "" && a.owner == b.owner
	last := ""
	for i := range a.faces {
		for j := range b.faces {
			f, g := &a.faces[i], &b.faces[j]
			if f.family != g.family {
				continue
			}
			key := c.pairKey(f, g, oneOwner)
			if key == last {
				continue // IPv4 and IPv6 are mostly alike
			}
			last = key
			for _, e := range c.effectsOf(key, f, g, oneOwner) {
				if e.rows[s] == nil {
					e.rows[s] = newBits(len(c.classes))
				}
				e.rows[s].set(d)
				spreads[e] = true
			}
		}
	}
}

// pairKey is one text for pairs of faces between which the same rules go.
func (c *cut) pairKey(f, g *face, oneOwner bool) string {
	key := make([]byte, 0, 64)
	if oneOwner {
		key = append(key, 1)
	}
	for l, words := range c.words {
		for _, w := range words {
			key = binary.LittleEndian.AppendUint64(key, f.ends[l][src][w.at]&g.ends[l][dst][w.at]&w.mask)
		}
	}
	return string(key)
}

// effectsOf compares once what many pairs of classes have in common.
func (c *cut) effectsOf(key string, f, g *face, oneOwner bool) []*spread {
	known, ok := c.known[key]
	if ok {
		return known
	}
	var rules [4][]int
	for l := range rules {
		for _, i := range c.lists[l] {
			if f.ends[l][src].has(i) && g.ends[l][dst].has(i) && (oneOwner || !c.matchers[l].rules[i].SameOwner) {
				rules[l] = append(rules[l], i)
			}
		}
	}
	for _, e := range effects(c.was, c.is, match{rules[wasRules], rules[wasDenies]}, match{rules[isRules], rules[isDenies]}) {
		known = append(known, &spread{e, map[int]bits{}})
	}
	c.known[key] = known
	return known
}
