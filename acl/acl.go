// Package acl reads the policy language: text in, verdicts out.
package acl

import (
	"net/netip"
	"time"
)

// Severity of a Diagnostic.
type Severity string

// The two severities.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Diagnostic is one thing wrong, or suspicious, in a policy's text.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	Line     int      `json:"line"`   // from 1; 0 when it concerns the whole file
	Column   int      `json:"column"` // from 1, in bytes
	Message  string   `json:"message"`
	Hint     string   `json:"hint,omitempty"` // what was probably meant
}

// Errors is every error of one file, in the file's order. It is an error; its text has a line for each.
type Errors []Diagnostic

func (e Errors) Error() string { panic("unimplemented") }

// Policy is a parsed and checked policy file.
type Policy struct{}

// Parse reads a policy. On failure the error is an Errors holding every mistake, not only the first.
func Parse(text []byte) (*Policy, error) { panic("unimplemented") }

// Deny returns the policy in force where there is none: it allows nothing.
func Deny() *Policy { panic("unimplemented") }

// Groups lists the groups (sorted) that name login directly or through another group.
func (p *Policy) Groups(login string) []string { panic("unimplemented") }

// HasTag reports whether the policy's tagOwners defines tag ("tag:db").
func (p *Policy) HasTag(tag string) bool { panic("unimplemented") }

// OwnsTag reports whether login may put tag on a node (tagOwners, directly or by group).
func (p *Policy) OwnsTag(login, tag string) bool { panic("unimplemented") }

// TestFailure is one expectation of the policy's own tests that did not hold.
type TestFailure struct {
	Line, Column int
	Message      string // "tests[2]: alice@example.com -> tag:db:22/tcp is refused, but the test accepts it: no rule ..."
}

// Test runs the policy's own tests against the directory: every failure, in the file's order.
func (p *Policy) Test(d *Directory, now time.Time) []TestFailure { panic("unimplemented") }

// Compiled is a policy joined with a directory.
type Compiled struct{}

// Compile joins a policy with a directory. salt makes role ids unguessable and must stay the same for the life of a network.
// It fails only when two selectors' role ids collide.
func Compile(p *Policy, d *Directory, salt []byte) (*Compiled, error) { panic("unimplemented") }

// View is what one node may know: itself, the peers it has a permitted flow with, and the rules between them, narrowed to them.
type View struct {
	Self  Subject
	Peers []Subject
	Rules []Rule
}

// View computes node's view; false when the directory has no such node.
func (c *Compiled) View(node NodeID) (View, bool) { panic("unimplemented") }

// Ruleset is the view as one ruleset, self included among the subjects.
func (v View) Ruleset() *Ruleset { panic("unimplemented") }

// Ruleset is the whole network's.
func (c *Compiled) Ruleset() *Ruleset { panic("unimplemented") }

// Allows is the slow, obvious reading of the rules. now decides deadlines.
func (rs *Ruleset) Allows(f Flow, now time.Time) Decision { panic("unimplemented") }

// SubjectOf returns the subject that owns addr, or serves the most specific route to it (routed true); nil when nobody does.
func (rs *Ruleset) SubjectOf(addr netip.Addr) (s *Subject, routed bool) { panic("unimplemented") }

// ParseProto reads a protocol name ("tcp", "icmp") or number.
func ParseProto(s string) (Proto, bool) { panic("unimplemented") }

func (p Proto) String() string { panic("unimplemented") }

// HasPorts reports whether the protocol has destination ports.
func (p Proto) HasPorts() bool { panic("unimplemented") }
