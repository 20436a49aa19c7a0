package acl

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
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

// String is "line 4, column 9: unknown group `group:enginering`: did you mean `group:engineering`, line 2?".
func (d Diagnostic) String() string {
	s := d.Message
	if d.Hint != "" {
		s += ": " + d.Hint
	}
	if d.Severity == SeverityWarning {
		s = "warning: " + s
	}
	if d.Line == 0 {
		return s
	}
	return fmt.Sprintf("line %d, column %d: %s", d.Line, d.Column, s)
}

// Errors is every error of one file, in the file's order, at most 100 and then a last one that says how many more there are.
// It is an error; its text has a line for each.
type Errors []Diagnostic

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, d := range e {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

// Bounds on what is reported. A hostile text makes an error every few bytes.
const (
	maxReported  = 100
	maxCollected = 1000 // kept for sorting; the rest is only counted
)

// position is a place in the file for people, both from 1.
type position struct{ line, column int }

// source finds positions.
type source struct {
	text   []byte
	starts []int // offset of each line's first byte
}

func newSource(text []byte) source {
	s := source{text: text, starts: make([]int, 1, 1+bytes.Count(text, []byte("\n")))}
	for i, c := range text {
		if c == '\n' {
			s.starts = append(s.starts, i+1)
		}
	}
	return s
}

func (s source) at(offset int) position {
	line := sort.SearchInts(s.starts, offset+1)
	return position{line: line, column: offset - s.starts[line-1] + 1}
}

// finding is a Diagnostic that is not yet placed.
type finding struct {
	at            int // offset
	message, hint string
}

// findings collects errors and warnings in the order of discovery.
type findings struct {
	errors   []finding
	more     int // errors that were only counted
	warnings []finding
}

func (f *findings) err(at int, hint, format string, args ...any) {
	if len(f.errors) >= maxCollected {
		f.more++
		return
	}
	f.errors = append(f.errors, finding{at, fmt.Sprintf(format, args...), hint})
}

func (f *findings) warn(at int, hint, format string, args ...any) {
	if len(f.warnings) < maxReported {
		f.warnings = append(f.warnings, finding{at, fmt.Sprintf(format, args...), hint})
	}
}

// failed returns the errors in the file's order, nil when there are none.
func (f *findings) failed(s source) Errors {
	if len(f.errors) == 0 {
		return nil
	}
	more := f.more + max(0, len(f.errors)-maxReported)
	out := locate(s, f.errors, SeverityError)
	if more > 0 {
		out = append(out[:maxReported:maxReported], Diagnostic{Severity: SeverityError, Message: fmt.Sprintf("and %d more errors", more)})
	}
	return out
}

func locate(s source, found []finding, sev Severity) []Diagnostic {
	slices.SortStableFunc(found, func(a, b finding) int { return cmp.Compare(a.at, b.at) })
	out := make([]Diagnostic, len(found))
	for i, f := range found {
		pos := s.at(f.at)
		out[i] = Diagnostic{sev, pos.line, pos.column, f.message, f.hint}
	}
	return out
}

// maxQuoted bounds how much of the file's own words an error repeats.
const maxQuoted = 80

// quote shows s in backquotes, shortened, with what a terminal would act on escaped.
func quote(s string) string {
	if s == "" {
		return "`\"\"`"
	}
	end := ""
	if len(s) > maxQuoted {
		s, end = strings.ToValidUTF8(s[:maxQuoted], ""), "…"
	}
	q := strconv.Quote(s)
	return "`" + strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) + end + "`"
}
