package acl

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/tailscale/hujson"
)

// maxApp bounds one app with everything in it, in bytes. It is carried to every node that the grant is for.
const maxApp = 64 << 10

// app reads the application capabilities of a grant or of nodeAttrs: by name, the JSON texts of their parameters in the file's order, each
// in one form: no white space, members sorted by name, strings with the fewest escapes, numbers as written (a large one would lose digits
// in any other form). The names are Tailscale's "domain/name"; what they and the parameters mean is for the applications to say, those of
// tailscale.com too. A name without parameters is a capability all the same.
func (r *reader) app(v *hujson.Value, what string) map[string][]string {
	what += ".app"
	members, _ := r.members(v, what)
	out := make(map[string][]string, len(members))
	size := 0
	for _, m := range members {
		r.capabilityName(m)
		elems, _ := r.array(m.value, quote(m.name))
		params := make([]string, 0, len(elems))
		size += len(m.name)
		for i := range elems {
			if text, ok := r.opaque(&elems[i], quote(m.name)); ok {
				params = append(params, text)
				size += len(text)
			}
		}
		out[m.name] = params
	}
	if size > maxApp {
		r.err(v.StartOffset, "", "%s has %d bytes, at most %d are carried", what, size, maxApp)
	}
	return out
}

// capabilityName holds names to "domain/name", as Tailscale does. A URL would look like one and be another.
func (r *reader) capabilityName(m member) {
	if scheme, rest, isURL := strings.Cut(m.name, "://"); isURL {
		r.err(m.at, fmt.Sprintf("did you mean %s?", quote(rest)), "%s is not the name of a capability: %s is too much", quote(m.name), quote(scheme+"://"))
		return
	}
	domain, path, _ := strings.Cut(m.name, "/")
	bad := func(s, marks string) bool {
		return s == "" || strings.ContainsFunc(s, func(c rune) bool { return !isAlnum(c) && !strings.ContainsRune(marks, c) })
	}
	if len(m.name) > maxName || bad(domain, ".-") || bad(path, "/.-_~:+@") {
		r.err(m.at, "names are a domain and a path, `example.com/cap/edit`", "%s is not the name of a capability", quote(m.name))
	}
}

// opaque reads a value that is none of Picket's business and returns its one text. Names given twice and escapes that stand for no
// character are refused in it as everywhere: whoever decodes it would read another value than the reviewer.
func (r *reader) opaque(v *hujson.Value, what string) (text string, ok bool) {
	before := r.found()
	r.unambiguous(v, what)
	if r.found() != before {
		return "", false
	}
	c := v.Clone()
	c.Minimize()
	b := jsontext.Value(c.Pack())
	if err := b.Format(jsontext.ReorderRawObjects(true), jsontext.PreserveRawStrings(false)); err != nil {
		r.err(v.StartOffset, "", "%s has a parameter that is no JSON: %v", what, err)
		return "", false
	}
	return string(b), true
}

// unambiguous refuses what two decoders could read differently. The text's bound on depth bounds the recursion.
func (r *reader) unambiguous(v *hujson.Value, what string) {
	switch x := v.Value.(type) {
	case *hujson.Object:
		members, _ := r.members(v, what)
		for _, m := range members {
			r.unambiguous(m.value, what)
		}
	case *hujson.Array:
		for i := range x.Elements {
			r.unambiguous(&x.Elements[i], what)
		}
	case hujson.Literal:
		if x.Kind() == '"' {
			r.text(v, "a string in "+what)
		}
	}
}
