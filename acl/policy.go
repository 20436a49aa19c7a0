package acl

import (
	"fmt"
	"slices"

	"github.com/tailscale/hujson"
)

// Policy is a parsed and checked policy file. It is read-only and safe for concurrent use. The zero Policy allows nothing.
type Policy struct {
	groups         map[string]*group   // by name, "group:…"
	memberOf       map[string][]string // the groups of a login, sorted
	hosts          map[string]host
	tags           map[string]*tagOwners // by name, "tag:…"
	rules          []statement           // of acls and grants, in the file's order
	denies         []statement           // in the file's order
	tests          []test
	warnings       []Diagnostic
	postures       map[string]*posture // by name, "posture:…"
	defaultPosture []string            // any one of which a rule's source must satisfy, where the rule has none of its own
	ssh            []sshRule
	sshTests       []sshTest
	nodeAttrs      []nodeAttr
	approvers      approvers
}

// statement is one entry of acls, grants or denies.
type statement struct {
	ref          Ref
	deny         bool
	src          []selector
	targets      []target
	postures     []string // any of them must hold for the source; sorted
	via          []string // tags of routers
	app          map[string][]string
	restrictions []Restriction
	until        int64 // Unix milliseconds; 0 never ends
	log          string
	reason       string
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
	fields := []field{
		{"groups", r.groups},
		{"hosts", r.hosts},
		{"ipsets", r.ipsets},
		{"tagOwners", r.tagOwners},
		{"postures", r.postures},
		{"defaultSrcPosture", r.defaultSrcPosture},
		{"acls", func(v *hujson.Value) { r.rules(v, "acls", r.acl) }},
		{"grants", func(v *hujson.Value) { r.rules(v, "grants", r.grant) }},
		{"denies", func(v *hujson.Value) { r.rules(v, "denies", r.deny) }},
		{"ssh", r.ssh},
		{"nodeAttrs", r.nodeAttrs},
		{"autoApprovers", r.autoApprovers},
		{"tests", r.tests},
		{"sshTests", r.sshTests},
	}
	r.object(root, "the policy", append(fields, r.settings()...))
	slices.SortStableFunc(r.pol.rules, func(a, b statement) int { return a.ref.compare(b.ref) })
	r.budget()
	if r.found() == 0 {
		r.suspectRules()
	}
}

// rules reads a section of rules with one.
func (r *reader) rules(v *hujson.Value, section string, one func(v *hujson.Value, what string) (statement, bool)) {
	elems, _ := r.array(v, quote(section))
	for i := range elems {
		at := r.src.at(elems[i].StartOffset)
		s, ok := one(&elems[i], fmt.Sprintf("%s[%d]", section, i))
		if !ok {
			continue
		}
		s.ref = Ref{section, i, at.line, at.column}
		if s.deny {
			r.pol.denies = append(r.pol.denies, s)
		} else {
			r.pol.rules = append(r.pol.rules, s)
		}
	}
}

// maxExpanded bounds what a policy may grow to, in entries of compiled rules: a hostile megabyte must not
// become gigabytes.
const maxExpanded = 1_000_000

// budget refuses policies whose rules multiply beyond maxExpanded.
func (r *reader) budget() {
	n := 0
	for _, s := range slices.Concat(r.pol.rules, r.pol.denies) {
		for _, t := range s.targets {
			n += len(s.src) + len(t.dst) + len(t.ports)
		}
	}
	if n > maxExpanded {
		r.err(0, "use groups and tags, and the same ports for several dst", "the rules come to %d entries, at most %d are compiled", n, maxExpanded)
	}
}
