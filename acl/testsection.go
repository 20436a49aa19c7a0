package acl

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tailscale/hujson"
)

// test is one entry of tests.
type test struct {
	index   int
	src     selector
	protos  []Proto           // any of them counts; TCP and UDP where the file names none
	attrs   map[string]string // what the source's device is taken to be like; nil: as it is
	expects []expectation
}

// expectation is one element of accept or deny.
type expectation struct {
	at     position
	accept bool
	text   string // as written
	dst    selector
	port   uint16
}

// tests reads the section.
func (r *reader) tests(v *hujson.Value) {
	elems, _ := r.array(v, quote("tests"))
	for i := range elems {
		r.test(&elems[i], i)
	}
}

func (r *reader) test(v *hujson.Value, i int) {
	what := fmt.Sprintf("tests[%d]", i)
	before := r.found()
	t := test{index: i, protos: []Proto{TCP, UDP}}
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"src", func(v *hujson.Value) { seen["src"] = true; t.src = r.testSource(v, what) }},
		{"proto", func(v *hujson.Value) { t.protos = r.proto(v, what) }},
		{"accept", func(v *hujson.Value) { seen["accept"] = true; r.expect(v, what+".accept", &t, true) }},
		{"allow", func(v *hujson.Value) {
			r.former(v, what, "allow", "accept", seen, func() { r.expect(v, what+".accept", &t, true) })
		}},
		{"srcPostureAttrs", func(v *hujson.Value) { t.attrs = r.postureAttrs(v, what) }},
		{"deny", func(v *hujson.Value) { seen["deny"] = true; r.expect(v, what+".deny", &t, false) }},
	})
	if isObject {
		r.require(v, what, seen, "src")
		if len(t.expects) == 0 && r.found() == before {
			r.err(v.StartOffset, "give it `accept` or `deny`", "%s expects nothing", what)
		}
	}
	r.pol.tests = append(r.pol.tests, t)
}

func (r *reader) testSource(v *hujson.Value, what string) selector {
	s, ok := r.text(v, what+".src")
	if !ok {
		return selector{}
	}
	sel, _ := r.selector(s, v.StartOffset, inTest)
	return sel
}

// expect reads accept or deny.
func (r *reader) expect(v *hujson.Value, what string, t *test, accept bool) {
	r.list(v, what, func(v *hujson.Value) {
		s, ok := r.text(v, "an element of "+what)
		if !ok {
			return
		}
		dst, spans, ok := r.selectorPorts(s, v.StartOffset, inTest, t.protos)
		switch {
		case !ok:
		case len(spans) != 1 || spans[0].first != spans[0].last:
			r.err(v.StartOffset, "write an element for each port", "%s: a test asks about one port", quote(s))
		default:
			t.expects = append(t.expects, expectation{r.src.at(v.StartOffset), accept, s, dst[0], spans[0].first})
		}
	})
}

// Expectation is one thing that the policy's own tests expect.
type Expectation struct {
	Line, Column int
	Text         string // "tests[2] alice@example.com accept tag:db:22"
}

// Expectations lists what Test judges, in the file's order: a TestFailure has the place of one of them.
func (p *Policy) Expectations() (out []Expectation) {
	for _, t := range p.tests {
		for _, e := range t.expects {
			verb := map[bool]string{true: "accept", false: "deny"}[e.accept]
			out = append(out, Expectation{e.at.line, e.at.column, fmt.Sprintf("tests[%d] %s %s %s", t.index, t.src.text, verb, e.text)})
		}
	}
	for _, t := range p.sshTests {
		for _, e := range t.expects {
			verb := map[sshVerdict]string{sshDenied: "deny", sshAccepted: "accept", sshChecked: "check"}[e.want]
			out = append(out, Expectation{e.at.line, e.at.column, fmt.Sprintf("sshTests[%d] %s %s %s", t.index, t.src.text, verb, e.user)})
		}
	}
	slices.SortStableFunc(out, func(a, b Expectation) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return out
}
