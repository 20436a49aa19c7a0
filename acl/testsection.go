package acl

import (
	"fmt"

	"github.com/tailscale/hujson"
)

// test is one entry of tests.
type test struct {
	index   int
	src     selector
	protos  []Proto // any of them counts; TCP and UDP where the file names none
	expects []expectation
}

// expectation is one element of accept or deny. Several ports make several expectations.
type expectation struct {
	at     position
	accept bool
	text   string // as written
	dst    selector
	port   uint16
}

// maxTestPorts bounds the ports of one element.
const maxTestPorts = 64

// tests reads the section.
func (r *reader) tests(v *hujson.Value) {
	elems, _ := r.array(v, quote("tests"))
	for i := range elems {
		r.test(&elems[i], i)
	}
}

func (r *reader) test(v *hujson.Value, i int) {
	what := fmt.Sprintf("tests[%d]", i)
	t := test{index: i, protos: []Proto{TCP, UDP}}
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"src", func(v *hujson.Value) { seen["src"] = true; t.src = r.testSource(v, what) }},
		{"proto", func(v *hujson.Value) { t.protos = r.proto(v, what) }},
		{"accept", func(v *hujson.Value) { seen["accept"] = true; r.expect(v, what+".accept", &t, true) }},
		{"deny", func(v *hujson.Value) { seen["deny"] = true; r.expect(v, what+".deny", &t, false) }},
	}, laterInTest)
	if isObject {
		r.require(v, what, seen, "src")
		if !seen["accept"] && !seen["deny"] {
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
		if !ok {
			return
		}
		ports, ok := singlePorts(spans)
		if portless(t.protos) {
			ports, ok = []uint16{0}, true
		}
		if !ok {
			r.err(v.StartOffset, "", "%s: a test asks about single ports, at most %d", quote(s), maxTestPorts)
		}
		for _, p := range ports {
			t.expects = append(t.expects, expectation{r.src.at(v.StartOffset), accept, s, dst, p})
		}
	})
}

// singlePorts returns the ports of spans, false when one is a range.
func singlePorts(spans []span) (ports []uint16, ok bool) {
	for _, s := range spans {
		if s.first != s.last {
			return nil, false
		}
		ports = append(ports, s.first)
	}
	return ports, len(ports) <= maxTestPorts
}
