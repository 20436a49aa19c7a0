// Package migrate turns the policy files of Tailscale and Headscale into Picket's.
//
// Most of such a file is a Picket policy as it is. The rest is rewritten in the file's syntax tree, so that comments stay where they are,
// in these steps: fields get the names they have today; users get logins; nested groups are expanded; ports and protocols get their one
// spelling. What Picket's parser then still refuses is taken out, with a comment in its place, until it refuses nothing.
//
// An import never widens: only what allows something is taken out, and what restricts (a posture, a set that removes, a section that is
// not known) is either carried over or the import fails.
package migrate

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"picket.internal/acl"
)

// Origin is whose file is read.
type Origin string

// The origins.
const (
	Tailscale Origin = "tailscale"
	Headscale Origin = "headscale"
)

// Options of an import.
type Options struct {
	Origin Origin
	// Domain makes logins of Headscale's user names: alice@ and alice become alice@DOMAIN. Empty refuses such names.
	Domain string
	// KeepAllowAll writes out the rule that a file without rules implies. Otherwise it allows nothing.
	KeepAllowAll bool
}

// Kind of a Note.
type Kind string

// The kinds.
const (
	Carried Kind = "carried over"
	Rewrite Kind = "rewritten" // in other words, with the same meaning
	Differs Kind = "differs"   // it means less than it did
	LeftOut Kind = "left out"
)

var kinds = []Kind{LeftOut, Differs, Rewrite, Carried}

// Note is one thing that people should know of an import.
type Note struct {
	Kind Kind   `json:"kind"`
	Line int    `json:"line,omitempty"` // of the original, from 1; 0 concerns all of it
	Text string `json:"text"`
}

// String is "left out, line 12: acls[3]: …".
func (n Note) String() string {
	if n.Line == 0 {
		return fmt.Sprintf("%s: %s", n.Kind, n.Text)
	}
	return fmt.Sprintf("%s, line %d: %s", n.Kind, n.Line, n.Text)
}

// Result is an imported policy.
type Result struct {
	Text  []byte // acl.Parse accepts it
	Notes []Note // by kind, what matters most first, then by line
}

// maxText is acl's bound.
const maxText = 1 << 20

// importer is one import under way.
type importer struct {
	Options
	starts []int // of the original's lines
	root   *hujson.Value
	notes  []Note
	noted  map[Note]bool // without their lines
	bad    acl.Errors
	packed []byte       // what the parser was last asked about
	read   hujson.Value // the tree of packed, with offsets in it
}

// Import reads a policy of Tailscale or Headscale. The error is an acl.Errors, whose places are the original's.
func Import(text []byte, o Options) (*Result, error) {
	if len(text) > maxText {
		return nil, acl.Errors{{Severity: acl.SeverityError, Message: fmt.Sprintf("the policy has %d bytes: at most %d (1 MiB) are read", len(text), maxText)}}
	}
	if tooDeep(text) {
		return nil, acl.Errors{{Severity: acl.SeverityError, Message: "the policy is nested too deep"}}
	}
	root, err := hujson.Parse(slices.Clone(text))
	if err != nil || object(&root) == nil {
		_, err := acl.Parse(text) // says it in words, and where
		if err == nil {
			err = acl.Errors{{Severity: acl.SeverityError, Message: "the policy cannot be read"}}
		}
		return nil, err
	}
	im := &importer{Options: o, starts: lineStarts(text), root: &root, noted: map[Note]bool{}}
	for _, step := range []func(){im.renameFields, im.nameUsers, im.expandGroups, im.spellRules, im.allowAll} {
		if step(); len(im.bad) > 0 {
			return nil, im.bad
		}
	}
	return im.finish()
}

// fail notes why nothing can be imported.
func (im *importer) fail(v *hujson.Value, hint, format string, args ...any) {
	line, column := im.position(v)
	im.bad = append(im.bad, acl.Diagnostic{Severity: acl.SeverityError, Line: line, Column: column, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (im *importer) note(k Kind, v *hujson.Value, format string, args ...any) {
	line := 0
	if v != nil {
		line, _ = im.position(v)
	}
	n := Note{k, line, visible(fmt.Sprintf(format, args...))}
	if key := (Note{Kind: k, Text: n.Text}); !im.noted[key] { // once, where it is first
		im.noted[key] = true
		im.notes = append(im.notes, n)
	}
}

// position is where a value stands in the original.
func (im *importer) position(v *hujson.Value) (line, column int) {
	line, _ = slices.BinarySearch(im.starts, v.StartOffset+1)
	return line, v.StartOffset - im.starts[line-1] + 1
}

// lineStarts are the offsets of each line's first byte.
func lineStarts(text []byte) []int {
	out := []int{0}
	for i, c := range text {
		if c == '\n' {
			out = append(out, i+1)
		}
	}
	return out
}

// finish takes out what the parser refuses, and says what the policy means less here than there.
func (im *importer) finish() (*Result, error) {
	p, err := im.prune()
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings() {
		v := im.originalAt(w)
		text := w.Message
		if w.Hint != "" {
			text += ": " + w.Hint
		}
		im.note(Differs, v, "%s", withoutLines(text))
	}
	im.comparePings()
	im.count()
	im.heading()
	slices.SortStableFunc(im.notes, func(a, b Note) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Line, b.Line), strings.Compare(a.Text, b.Text))
	})
	text := im.root.Pack()
	if _, err := acl.Parse(text); err != nil {
		return nil, fmt.Errorf("the imported policy does not parse: %w", err)
	}
	return &Result{Text: text, Notes: im.notes}, nil
}

// comparePings says once what the rules for one protocol do not allow here.
func (im *importer) comparePings() {
	var at *hujson.Value
	n := 0
	for _, section := range []string{"acls", "grants"} {
		for _, rule := range elements(member(im.root, section)) {
			narrow := member(rule, "proto") != nil
			for _, s := range strs(member(rule, "ip")) {
				narrow = narrow || strings.Contains(s, ":")
			}
			if narrow {
				if n++; at == nil {
					at = rule
				}
			}
		}
	}
	if n > 0 {
		im.note(Differs, at, "%s for one protocol: %s lets pings through wherever any rule applies, Picket only where a rule allows ICMP", number(n, "rule is", "rules are"), im.title())
	}
}

func number(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// count says how much of each section is there.
func (im *importer) count() {
	for _, m := range object(im.root) {
		if n := len(elements(&m.Value)) + len(object(&m.Value)); n > 0 {
			im.note(Carried, &m.Name, "%s: %s", str(&m.Name), number(n, "entry", "entries"))
		}
	}
}

// heading says on top where the file is from, and what was done to it.
func (im *importer) heading() {
	im.root.BeforeExtra = append(hujson.Extra("// Imported from a policy of "+im.title()+".\n"), im.root.BeforeExtra...)
}

func (im *importer) title() string {
	return map[Origin]string{Tailscale: "Tailscale", Headscale: "Headscale"}[im.Origin]
}

// allowAll is about a file without rules: there it allows everything, here nothing.
func (im *importer) allowAll() {
	acls, grants := member(im.root, "acls"), member(im.root, "grants")
	empty := len(elements(acls))+len(elements(grants)) == 0
	switch {
	case acls == nil && grants == nil && im.KeepAllowAll:
		im.addMember("grants", `[{"src": ["*"], "dst": ["*"], "ip": ["*"]}]`)
		im.note(Rewrite, nil, "THE FILE HAS NO RULES, so there everybody may reach everything. The rule that says so is written out")
	case acls == nil && grants == nil:
		im.note(Differs, nil, "THE FILE HAS NO RULES, so there everybody may reach everything. Here it ALLOWS NOTHING; --keep-allow-all writes out the rule")
	case empty && im.Origin == Headscale:
		im.note(Differs, nil, "THE FILE'S RULES ARE EMPTY. Headscale allowed everything then until 2026; here it ALLOWS NOTHING")
	}
}

// visible takes out what a terminal would act on.
func visible(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c <= 0x9f || c >= 0x2028 && c <= 0x202e || c >= 0x2066 && c <= 0x2069 || c == 0x061c || c == 0x200e || c == 0x200f {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
}

// withoutLines takes out of the parser's words the lines that they mention, which are not the original's.
func withoutLines(s string) string { return mentionedLine.ReplaceAllString(s, "") }

var mentionedLine = regexp.MustCompile(`,( first on)? line [0-9]+`)

// asErrors is err's diagnostics; nil when it has none.
func asErrors(err error) (all acl.Errors) {
	errors.As(err, &all)
	return all
}
