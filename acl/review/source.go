package review

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/tailscale/hujson"

	"picket.internal/acl"
)

// Source is a policy with the words it is written in. It is read-only.
type Source struct {
	Policy   *acl.Policy
	starts   []int // offset of each line's first byte
	sections map[string]*hujson.Value
	rules    map[ruleAt]ruleText
}

// ruleAt is where a rule stands in its file.
type ruleAt struct {
	section string
	index   int
}

// ruleText is how a rule names its ends.
type ruleText struct{ src, dst, via []string }

// Read parses a policy. The error is an acl.Errors.
func Read(text []byte) (*Source, error) {
	p, err := acl.Parse(text)
	if err != nil {
		return nil, err
	}
	// What acl.Parse took has no name twice and no escape that stands for nothing, so nothing below can be read in two ways.
	root, err := hujson.Parse(slices.Clone(text))
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	s := &Source{Policy: p, starts: []int{0}, sections: members(&root), rules: map[ruleAt]ruleText{}}
	for i, c := range text {
		if c == '\n' {
			s.starts = append(s.starts, i+1)
		}
	}
	for _, section := range []string{"acls", "grants", "denies"} {
		for i, v := range elements(s.sections[section]) {
			s.rules[ruleAt{section, i}] = readRule(section, v)
		}
	}
	return s, nil
}

// Nothing is the policy that allows nothing, to compare with.
func Nothing() *Source {
	s, err := Read([]byte("{}"))
	if err != nil {
		panic("the empty policy does not parse: " + err.Error())
	}
	return s
}

func readRule(section string, v *hujson.Value) ruleText {
	m := members(v)
	either := func(name, former string) []string {
		if m[name] == nil {
			name = former
		}
		return strs(m[name])
	}
	t := ruleText{src: either("src", "users"), dst: either("dst", "ports"), via: strs(m["via"])}
	if section == "acls" {
		for i, d := range t.dst {
			t.dst[i] = cutPorts(d)
		}
	}
	return t
}

// cutPorts returns the selector of an acl's "SELECTOR:PORTS".
func cutPorts(s string) string {
	host := s[:max(strings.LastIndexByte(s, ':'), 0)]
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// line of a value in the file, from 1.
func (s *Source) line(v *hujson.Value) int {
	n, _ := slices.BinarySearch(s.starts, v.StartOffset+1)
	return n
}

// members of an object; none of what is no object, or absent.
func members(v *hujson.Value) map[string]*hujson.Value {
	out := map[string]*hujson.Value{}
	for _, m := range object(v) {
		out[str(&m.Name)] = &m.Value
	}
	return out
}

func object(v *hujson.Value) []hujson.ObjectMember {
	if v == nil {
		return nil
	}
	obj, _ := v.Value.(*hujson.Object)
	if obj == nil {
		return nil
	}
	return obj.Members
}

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

// str is a string's value, "" of anything else.
func str(v *hujson.Value) string {
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

// plain is a value as JSON without comments, members sorted by name: one text for all spellings of it.
func plain(v *hujson.Value) string {
	if v == nil {
		return ""
	}
	c := v.Clone()
	c.Minimize()
	b := jsontext.Value(c.Pack())
	if err := b.Format(jsontext.ReorderRawObjects(true), jsontext.PreserveRawStrings(false)); err != nil {
		return string(c.Pack())
	}
	return string(b)
}

// definitions is a policy's text with s's names and, as its grants, one for each selector: those in src first.
func (s *Source) definitions(src, dst []string) ([]byte, error) {
	doc := map[string]any{}
	for _, name := range []string{"groups", "hosts", "ipsets", "tagOwners"} {
		if v := s.sections[name]; v != nil {
			doc[name] = json.RawMessage(plain(v))
		}
	}
	grants := []map[string][]string{}
	for _, sel := range src {
		grants = append(grants, map[string][]string{"src": {sel}, "dst": {"*"}, "ip": {"*"}})
	}
	for _, sel := range dst {
		grants = append(grants, map[string][]string{"src": {"*"}, "dst": {sel}, "ip": {"*"}})
	}
	doc["grants"] = grants
	return json.Marshal(doc)
}

// selectors lists what stands in the rules' src, and in their dst, each once and sorted. autogroup:self is no set of its own.
func (s *Source) selectors() (src, dst []string) {
	for _, r := range s.rules {
		src, dst = append(src, r.src...), append(dst, r.dst...)
	}
	dst = slices.DeleteFunc(dst, func(s string) bool { return s == "autogroup:self" })
	slices.Sort(src)
	slices.Sort(dst)
	return slices.Compact(src), slices.Compact(dst)
}

// logins lists the logins in groups and rules, sorted.
func (s *Source) logins() (out []string) {
	src, dst := s.selectors()
	named := slices.Concat(src, dst)
	for _, g := range members(s.sections["groups"]) {
		named = append(named, strs(g)...)
	}
	for _, n := range named {
		if strings.Contains(n, "@") && !strings.Contains(n, ":") {
			out = append(out, strings.ToLower(n))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
