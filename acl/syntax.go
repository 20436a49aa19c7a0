package acl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/tailscale/hujson"
)

// reader walks the syntax tree and collects what is wrong. Walking the tree, rather than decoding into structs, is what gives every
// error its place, and what refuses duplicate names, case variants and unknown fields (R28).
type reader struct {
	findings
	suggester
	src source
	pol *Policy
	// what is defined, in the file's order, to suggest from
	groupNames, tagNames, hostNames, setNames, postureNames []string
	sets                                                    map[string]*ipset // by name, "ipset:…"
	setWork                                                 int               // prefixes that ipsets took so far
	setsExhausted                                           bool
	expanded                                                int // prefixes that rules have of ipsets
	values                                                  int // literals in postures
}

// member is one member of an object, its name unescaped.
type member struct {
	name  string
	at    int // offset of the name
	value *hujson.Value
}

// members returns an object's members in order, each name once. what is the object's name in errors.
func (r *reader) members(v *hujson.Value, what string) ([]member, bool) {
	obj, ok := v.Value.(*hujson.Object)
	if !ok {
		r.err(v.StartOffset, "", "%s must be an object { … }, not %s", what, kindName(v))
		return nil, false
	}
	seen := make(map[string]int, len(obj.Members))
	out := make([]member, 0, len(obj.Members))
	for i := range obj.Members {
		m := &obj.Members[i]
		name, ok := r.text(&m.Name, "the name of a member")
		if !ok {
			continue
		}
		at := m.Name.StartOffset
		if first, twice := seen[name]; twice {
			r.err(at, "one of the two would be read over; keep one", "%s is given twice in %s, first on line %d", quote(name), what, r.src.at(first).line)
			continue
		}
		seen[name] = at
		out = append(out, member{name, at, &m.Value})
	}
	return out, true
}

// field is one member that an object may have.
type field struct {
	name string
	read func(v *hujson.Value)
}

// object reads an object of known fields, in the order of fields and not of the file, so that what later ones refer to is there.
func (r *reader) object(v *hujson.Value, what string, fields []field) bool {
	members, ok := r.members(v, what)
	if !ok {
		return false
	}
	for _, f := range fields {
		if i := slices.IndexFunc(members, func(m member) bool { return m.name == f.name }); i >= 0 {
			f.read(members[i].value)
		}
	}
	for _, m := range members {
		if !slices.ContainsFunc(fields, func(f field) bool { return f.name == m.name }) {
			r.unknownField(m, what, fields)
		}
	}
	return true
}

func (r *reader) unknownField(m member, what string, fields []field) {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	hint := "known are " + strings.Join(names, ", ")
	if near := r.nearest(m.name, names); strings.EqualFold(near, m.name) {
		hint = fmt.Sprintf("names are case-sensitive, did you mean %s?", quote(near))
	} else if near != "" {
		hint = fmt.Sprintf("did you mean %s?", quote(near))
	}
	r.err(m.at, hint, "unknown field %s in %s", quote(m.name), what)
}

// list calls each for the elements of an array. An empty one is suspicious: it matches nothing.
func (r *reader) list(v *hujson.Value, what string, each func(v *hujson.Value)) {
	arr, ok := r.array(v, what)
	if ok && len(arr) == 0 {
		r.warn(v.StartOffset, "an empty list matches nothing; name something or remove the rule", "%s is empty", what)
	}
	for i := range arr {
		each(&arr[i])
	}
}

// array returns the elements of an array.
func (r *reader) array(v *hujson.Value, what string) ([]hujson.Value, bool) {
	arr, ok := v.Value.(*hujson.Array)
	if !ok {
		hint := ""
		if v.Value.Kind() == '"' {
			hint = "put it in brackets"
		}
		r.err(v.StartOffset, hint, "%s must be a list [ … ], not %s", what, kindName(v))
		return nil, false
	}
	return arr.Elements, true
}

// text returns a string's value. Escapes that stand for no character (a lone surrogate) are refused: the usual decoders turn them all
// into U+FFFD, and different names become equal.
func (r *reader) text(v *hujson.Value, what string) (string, bool) {
	lit, ok := v.Value.(hujson.Literal)
	if !ok || lit.Kind() != '"' {
		r.err(v.StartOffset, "", "%s must be a string, not %s", what, kindName(v))
		return "", false
	}
	b, err := jsontext.AppendUnquote(nil, []byte(lit))
	if err != nil {
		r.err(v.StartOffset, "", "%s has an escape that stands for no character", what)
		return "", false
	}
	return string(b), true
}

func kindName(v *hujson.Value) string {
	switch v.Value.Kind() {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 'n':
		return "null"
	}
	return "true or false"
}
