package acl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// posture is one member of postures: what a device must be like. It holds when all its assertions do.
type posture struct {
	at         int
	assertions []assertion // at least one
}

// posturePrefix begins every posture's name.
const posturePrefix = "posture:"

// MaxPostures bounds the postures of a policy.
const MaxPostures = 1000

// Bounds on what postures assert: every device is judged by every assertion.
const (
	maxAssertions = 100    // of one posture
	maxValues     = 10_000 // that the assertions of all postures compare with
)

// holds reports whether a device with these attributes is so. A posture without assertions never holds: nothing asked is not a yes (R1).
func (p *posture) holds(attributes map[string]string) bool {
	return p != nil && len(p.assertions) > 0 && !slices.ContainsFunc(p.assertions, func(a assertion) bool { return !a.holds(attributes) })
}

// failing lists the assertions that do not hold, each with the value there is: "node:osVersion >= '13.4', but it is `12.6`".
func (p *posture) failing(attributes map[string]string) (out []string) {
	for _, a := range p.assertions {
		if a.holds(attributes) {
			continue
		}
		state := "it is not set"
		if value, set := attributes[a.attribute]; set {
			state = "it is " + quote(value)
		}
		out = append(out, fmt.Sprintf("%s, but %s", a, state))
	}
	return out
}

// postures reads the section.
func (r *reader) postures(v *hujson.Value) {
	members, _ := r.members(v, quote("postures"))
	r.pol.postures = make(map[string]*posture, len(members))
	if len(members) > MaxPostures {
		r.err(v.StartOffset, "", "%s has %d postures, at most %d are read", quote("postures"), len(members), MaxPostures)
		return
	}
	members = slices.DeleteFunc(members, func(m member) bool { return !r.newPosture(m) })
	r.refuseCaseVariants(members)
	for _, m := range members {
		r.assertions(m.value, m.name, r.pol.postures[m.name])
	}
}

// newPosture checks a posture's name and, if it is one, notes it.
func (r *reader) newPosture(m member) bool {
	rest, ok := strings.CutPrefix(m.name, posturePrefix)
	if !ok {
		r.err(m.at, fmt.Sprintf("did you mean %s?", quote("posture:"+lastPart(m.name))), "%s is not the name of a posture", quote(m.name))
		return false
	}
	if problem := badPosture(rest); problem != "" {
		r.err(m.at, "", "%s is not the name of a posture: %s", quote(m.name), problem)
		return false
	}
	r.pol.postures[m.name] = &posture{at: m.at}
	r.postureNames = append(r.postureNames, m.name)
	return true
}

// badPosture says what is wrong with the name of a posture, less its prefix; "" when nothing is.
func badPosture(rest string) string {
	bad := strings.IndexFunc(rest, func(c rune) bool { return !isAlnum(c) && !strings.ContainsRune("-_.", c) })
	switch {
	case rest == "":
		return "it is empty"
	case len(rest) > maxName:
		return fmt.Sprintf("it is longer than %d bytes", maxName)
	case bad >= 0:
		return fmt.Sprintf("%s may not stand in it", quote(string([]rune(rest[bad:])[0])))
	}
	return ""
}

// IsPostureName reports whether a policy can define a posture of this name: "posture:" and 1 to 254 letters, digits and "-_.", all ASCII.
func IsPostureName(s string) bool {
	rest, ok := strings.CutPrefix(s, posturePrefix)
	return ok && badPosture(rest) == ""
}

// assertions reads the value of one posture.
func (r *reader) assertions(v *hujson.Value, name string, p *posture) {
	elems, ok := r.array(v, quote(name))
	switch {
	case ok && len(elems) == 0:
		r.err(v.StartOffset, "assert something, as in `node:os == 'linux'`, or remove the posture", "%s asserts nothing", quote(name))
	case len(elems) > maxAssertions:
		r.err(v.StartOffset, "", "%s has %d assertions, at most %d are read", quote(name), len(elems), maxAssertions)
		return
	}
	for i := range elems {
		s, ok := r.text(&elems[i], "an assertion of "+quote(name))
		if !ok {
			continue
		}
		at := elems[i].StartOffset
		a, m := r.suggester.assertion(s)
		if m.problem != "" {
			r.err(at, m.hint, "%s: %s", quote(s), m.problem)
			continue
		}
		if m := r.doubt(a); m.problem != "" {
			r.warn(at, m.hint, "%s: %s", quote(s), m.problem)
		}
		p.assertions = append(p.assertions, a)
		before := r.values
		if r.values += max(1, len(a.values)); r.values > maxValues && before <= maxValues {
			r.err(at, "", "the postures compare with more than %d values", maxValues)
		}
	}
}

// srcPosture reads a rule's list of postures, of which its source must satisfy one: sorted, each once. An empty list is refused, as by
// Tailscale (its API answers 400): it could be read as no posture, as any, or as the default. Assertions stand in postures only.
func (r *reader) srcPosture(v *hujson.Value, what string) []string {
	return r.postureList(v, what+".srcPosture", "name postures, or leave `srcPosture` out and `defaultSrcPosture` applies")
}

// defaultSrcPosture reads the section: what holds for every rule that has no srcPosture of its own. It is replaced by one, not added to.
func (r *reader) defaultSrcPosture(v *hujson.Value) {
	r.pol.defaultPosture = r.postureList(v, quote("defaultSrcPosture"), "name postures, or leave `defaultSrcPosture` out to demand none")
}

// postureList reads a list of names of postures. whenEmpty is the hint for an empty one.
func (r *reader) postureList(v *hujson.Value, what, whenEmpty string) []string {
	names := map[string]bool{}
	r.nonempty(v, what, whenEmpty, func(v *hujson.Value) {
		if s, ok := r.text(v, "an element of "+what); ok && r.knownPosture(s, v.StartOffset) {
			names[s] = true
		}
	})
	return sortedKeys(names)
}

// knownPosture reports whether s, "posture:…", is defined, and says so when not.
func (r *reader) knownPosture(s string, at int) bool {
	if _, ok := r.pol.postures[s]; ok {
		return true
	}
	hint := "define it in `postures`"
	if !strings.HasPrefix(s, "posture:") {
		if _, m := new(suggester).assertion(s); m.problem == "" {
			r.err(at, "define a posture with it in `postures` and name that here", "%s is an assertion, not the name of a posture", quote(s))
			return false
		}
		hint = fmt.Sprintf("write %s and define it in `postures`", quote("posture:"+lastPart(s)))
	}
	near := r.nearest(s, r.postureNames)
	if near == "" && r.pol.postures["posture:"+s] != nil {
		near = "posture:" + s
	}
	if near != "" {
		hint = fmt.Sprintf("did you mean %s, line %d?", quote(near), r.src.at(r.pol.postures[near].at).line)
	}
	r.err(at, hint, "unknown posture %s", quote(s))
	return false
}

// postureAttrs reads the attributes that a test gives its source: {"node:os": "windows", "custom:managed": true, "custom:score": 3}. The
// values are in the form in which assertions compare them. what is the test.
func (r *reader) postureAttrs(v *hujson.Value, what string) map[string]string {
	what += ".srcPostureAttrs"
	members, _ := r.members(v, what)
	out := make(map[string]string, len(members))
	for _, m := range members {
		if bad := r.suggester.attribute(m.name); bad.problem != "" {
			r.err(m.at, bad.hint, "%s", bad.problem)
			continue
		}
		if value, ok := r.postureAttr(m); ok {
			out[m.name] = value
		}
	}
	r.refuseCaseVariants(members)
	return out
}

// postureAttr reads one value and holds it to the attribute's type, where that is known: a test of what no device reports tests nothing.
func (r *reader) postureAttr(m member) (string, bool) {
	known, _ := typeOf(m.name)
	at := m.value.StartOffset
	lit, _ := m.value.Value.(hujson.Literal)
	switch m.value.Value.Kind() {
	case '"':
		s, ok := r.text(m.value, quote(m.name))
		if !ok {
			return "", false
		}
		bad := badText(s)
		if s == "" {
			bad = mistakef("leave the attribute out: then it is not set", "it is empty")
		} else if bad.problem == "" && known == boolValue {
			bad = mistakef("write `true` or `false` without quotes", "it is true or false")
		}
		if bad.problem == "" {
			return s, true
		}
		r.err(at, bad.hint, "%s is not a value of %s: %s", quote(s), quote(m.name), bad.problem)
	case 't', 'f', '0':
		typ, value, ok := bareValue(string(lit))
		switch {
		case !ok:
			r.err(at, fmt.Sprintf("write it in decimal, in at most %d digits", maxNumber-2), "%s is not a number that attributes have", quote(string(lit)))
		case known != 0 && known != typ:
			r.err(at, "write it in quotes", "%s is text, never %s", quote(m.name), quote(string(lit)))
		default:
			return value, true
		}
	default:
		r.err(at, "", "%s must be a string, a number, true or false, not %s", quote(m.name), kindName(m.value))
	}
	return "", false
}
