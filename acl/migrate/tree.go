package migrate

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/tailscale/hujson"
)

// maxDepth bounds nesting before the text reaches hujson, which recurses once a level and would end the process. It is far above acl's own
// bound, which then says where.
const maxDepth = 1000

// tooDeep reads strings and comments as hujson does.
func tooDeep(text []byte) bool {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case bytes.HasPrefix(text[i:], []byte("//")), bytes.HasPrefix(text[i:], []byte("/*")):
			end := []byte("\n")
			if text[i+1] == '*' {
				end = []byte("*/")
			}
			n := bytes.Index(text[i+2:], end)
			if n < 0 {
				return depth > maxDepth
			}
			i += 2 + n + len(end) - 1
		case text[i] == '[' || text[i] == '{':
			if depth++; depth > maxDepth {
				return true
			}
		case text[i] == ']' || text[i] == '}':
			depth--
		}
	}
	return false
}

// object is an object's members; nil of what is none.
func object(v *hujson.Value) []hujson.ObjectMember {
	if v == nil {
		return nil
	}
	obj, ok := v.Value.(*hujson.Object)
	if !ok {
		return nil
	}
	if obj.Members == nil {
		return []hujson.ObjectMember{}
	}
	return obj.Members
}

// member is the value of an object's member; nil when there is none.
func member(v *hujson.Value, name string) *hujson.Value {
	members := object(v)
	for i := range members {
		if str(&members[i].Name) == name {
			return &members[i].Value
		}
	}
	return nil
}

// elements of an array; nil of what is none.
func elements(v *hujson.Value) (out []*hujson.Value) {
	if v == nil {
		return nil
	}
	if arr, ok := v.Value.(*hujson.Array); ok {
		for i := range arr.Elements {
			out = append(out, &arr.Elements[i])
		}
	}
	return out
}

// str is a string's value; "" of what is none.
func str(v *hujson.Value) string {
	if v == nil {
		return ""
	}
	lit, ok := v.Value.(hujson.Literal)
	if !ok || lit.Kind() != '"' {
		return ""
	}
	b, err := jsontext.AppendUnquote(nil, []byte(lit))
	if err != nil {
		return ""
	}
	return string(b)
}

func strs(v *hujson.Value) (out []string) {
	for _, e := range elements(v) {
		out = append(out, str(e))
	}
	return out
}

func isNull(v *hujson.Value) bool { return v.Value.Kind() == 'n' }

func literal(s string) hujson.Literal {
	b, err := json.Marshal(s)
	if err != nil {
		panic("a string has no JSON: " + err.Error())
	}
	return hujson.Literal(b)
}

// setStr changes a string in place.
func setStr(v *hujson.Value, s string) { v.Value = literal(s) }

// replace puts several strings where one element of an array stands. They have its comments and its place in the original.
func replace(arr *hujson.Value, i int, with []string) {
	a := arr.Value.(*hujson.Array)
	old := a.Elements[i]
	var in []hujson.Value
	for k, s := range with {
		v := hujson.Value{Value: literal(s), StartOffset: old.StartOffset}
		if k == 0 {
			v.BeforeExtra = old.BeforeExtra
		} else {
			v.BeforeExtra = hujson.Extra(" ")
		}
		in = append(in, v)
	}
	if len(in) > 0 {
		in[len(in)-1].AfterExtra = old.AfterExtra
	}
	a.Elements = append(a.Elements[:i:i], append(in, a.Elements[i+1:]...)...)
}

// removeElement takes element i out of an array. comment, unless "", is left in its place.
func removeElement(arr *hujson.Value, i int, comment string) {
	a := arr.Value.(*hujson.Array)
	before := a.Elements[i].BeforeExtra
	a.Elements = append(a.Elements[:i:i], a.Elements[i+1:]...)
	next := &a.AfterExtra
	if i < len(a.Elements) {
		next = &a.Elements[i].BeforeExtra
	}
	*next = commented(before, comment, *next, i < len(a.Elements))
}

// removeMember is removeElement for an object.
func removeMember(obj *hujson.Value, i int, comment string) {
	o := obj.Value.(*hujson.Object)
	before := o.Members[i].Name.BeforeExtra
	o.Members = append(o.Members[:i:i], o.Members[i+1:]...)
	next := &o.AfterExtra
	if i < len(o.Members) {
		next = &o.Members[i].Name.BeforeExtra
	}
	*next = commented(before, comment, *next, i < len(o.Members))
}

// commented is a comment between what stood before a value and what stands behind it, which is another one if follows says so.
func commented(before hujson.Extra, comment string, next hujson.Extra, follows bool) hujson.Extra {
	if comment == "" {
		if follows && !strings.Contains(string(next), "/") {
			return before
		}
		return next
	}
	indent := ""
	if at := strings.LastIndexByte(string(before), '\n'); at >= 0 {
		indent = string(before[at+1:])
	}
	out := strings.TrimRight(string(before), " \t")
	if !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	out += indent + "// " + comment
	if !strings.HasPrefix(string(next), "\n") {
		out += "\n" + indent
	}
	return append(hujson.Extra(out), next...)
}

// addMember adds a member to the whole policy.
func (im *importer) addMember(name, value string) {
	v, err := hujson.Parse([]byte(value))
	if err != nil {
		panic("a value of ours does not parse: " + err.Error())
	}
	for at := range v.All() {
		at.StartOffset = 0 // it has no place in the original
	}
	o := im.root.Value.(*hujson.Object)
	v.BeforeExtra = hujson.Extra(" ")
	m := hujson.ObjectMember{Name: hujson.Value{BeforeExtra: hujson.Extra("\n\t"), Value: literal(name)}, Value: v}
	o.Members = append(o.Members, m)
	if len(o.AfterExtra) == 0 {
		o.AfterExtra = hujson.Extra("\n")
	}
}
