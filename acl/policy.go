package acl

import (
	"fmt"
	"slices"

	"github.com/tailscale/hujson"
)

// Policy is a parsed and checked policy file. It is read-only and safe for concurrent use. The zero Policy allows nothing.
type Policy struct {
	groups   map[string]*group   // by name, "group:…"
	memberOf map[string][]string // the groups of a login, nested ones included, sorted
	hosts    map[string]host
	tags     map[string]*tagOwners // by name, "tag:…"
	rules    []statement           // in the file's order
	tests    []test
	warnings []Diagnostic
}

// statement is one entry of acls or grants.
type statement struct {
	ref     Ref
	src     []selector
	targets []target
}

// target is the part of a statement's dst that shares ports.
type target struct {
	dst   []selector
	ports []Ports
}

// Parse reads a policy. On failure the error is an Errors holding every mistake, not only the first; the Policy is then nil.
func Parse(text []byte) (*Policy, error) {
	root, bad := parseText(text)
	if bad != nil {
		return nil, bad
	}
	r := &reader{src: newSource(text), pol: Deny()}
	r.policy(root)
	if bad := r.failed(r.src); bad != nil {
		return nil, bad
	}
	r.pol.warnings = locate(r.src, r.warnings, SeverityWarning)
	return r.pol, nil
}

// Deny returns the policy in force where there is none: it allows nothing.
func Deny() *Policy { return &Policy{} }

// Warnings lists what is legal but probably not meant, in the file's order.
func (p *Policy) Warnings() []Diagnostic { return slices.Clone(p.warnings) }

// policy reads the whole file: first what names things, then what refers to them, wherever each stands.
func (r *reader) policy(root *hujson.Value) {
	r.object(root, "the policy", []field{
		{"groups", r.groups},
		{"hosts", r.hosts},
		{"tagOwners", r.tagOwners},
		{"acls", func(v *hujson.Value) { r.rules(v, "acls", r.acl) }},
		{"grants", func(v *hujson.Value) { r.rules(v, "grants", r.grant) }},
		{"tests", r.tests},
	}, laterSections)
	slices.SortStableFunc(r.pol.rules, func(a, b statement) int { return a.ref.compare(b.ref) })
	r.budget()
}

// rules reads a section of rules with one.
func (r *reader) rules(v *hujson.Value, section string, one func(v *hujson.Value, what string) ([]selector, []target, bool)) {
	elems, _ := r.array(v, quote(section))
	for i := range elems {
		at := r.src.at(elems[i].StartOffset)
		src, targets, ok := one(&elems[i], fmt.Sprintf("%s[%d]", section, i))
		if ok {
			r.pol.rules = append(r.pol.rules, statement{Ref{section, i, at.line, at.column}, src, targets})
		}
	}
}

// maxExpanded bounds what a policy may grow to, in entries of compiled rules and in memberships of groups: a hostile megabyte must not
// become gigabytes.
const maxExpanded = 1_000_000

// budget refuses policies whose rules multiply beyond maxExpanded.
func (r *reader) budget() {
	n := 0
	for _, s := range r.pol.rules {
		for _, t := range s.targets {
			n += len(s.src) + len(t.dst) + len(t.ports)
		}
	}
	if n > maxExpanded {
		r.err(0, "use groups and tags, and the same ports for several dst", "the rules come to %d entries, at most %d are compiled", n, maxExpanded)
	}
}
