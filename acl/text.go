package acl

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"
)

// Bounds on a policy's text. They hold before the text reaches hujson, which recurses once a level: a megabyte of '[' would end the
// whole process, and no recover helps against that.
const (
	maxText  = 1 << 20
	maxDepth = 64
)

// parseText checks the bounds and returns the syntax tree. The error is nil or has exactly one Diagnostic.
func parseText(text []byte) (*hujson.Value, Errors) {
	if len(text) > maxText {
		return nil, Errors{{Severity: SeverityError, Message: fmt.Sprintf("the policy has %d bytes: at most %d (1 MiB) are read", len(text), maxText)}}
	}
	if at, message, hint := scan(text); message != "" {
		pos := newSource(text).at(at)
		return nil, Errors{{SeverityError, pos.line, pos.column, message, hint}}
	}
	v, err := hujson.Parse(text)
	if err != nil {
		return nil, Errors{syntaxError(err)}
	}
	return &v, nil
}

// scan finds what must not reach the parser, or a reviewer: broken UTF-8, depth, and characters that show another text than is read.
func scan(text []byte) (at int, message, hint string) {
	if at := invalidUTF8(text); at >= 0 {
		return at, fmt.Sprintf("byte 0x%02x is not UTF-8", text[at]), "save the file as UTF-8"
	}
	if bytes.HasPrefix(text, []byte("\ufeff")) {
		return 0, "the file begins with a byte order mark", "save it as UTF-8 without one"
	}
	if at, r := hidden(text); at >= 0 {
		return at, fmt.Sprintf("character %U shows a reader another text than is read", r), "remove it"
	}
	if at := tooDeep(text); at >= 0 {
		return at, fmt.Sprintf("nested more than %d deep", maxDepth), ""
	}
	return 0, "", ""
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// hidden finds characters with which a reviewer sees something else than the machine: direction overrides, control characters, and what
// many editors show as a new line although it does not end a comment, a carriage return alone and the separators U+2028 and U+2029.
func hidden(text []byte) (int, rune) {
	for i, r := range string(text) {
		switch {
		case r == '\n' || r == '\t' || r == '\r' && i+1 < len(text) && text[i+1] == '\n':
		case r < ' ' || r >= 0x7f && r <= 0x9f,
			r == 0x061c || r == 0x200e || r == 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return i, r
		}
	}
	return -1, 0
}

// tooDeep returns the offset of the bracket that opens level maxDepth+1, or -1. It reads strings and comments as hujson does; where the
// two might differ hujson has met a syntax error before.
func tooDeep(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = stringEnd(text, i)
		case '/':
			i = commentEnd(text, i)
		case '[', '{':
			if depth++; depth > maxDepth {
				return i
			}
		case ']', '}':
			depth--
		}
	}
	return -1
}

// stringEnd returns the offset of the quote that closes the string opened at i.
func stringEnd(text []byte, i int) int {
	for i++; i < len(text) && text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i
}

// commentEnd returns the offset of the last byte of the comment at i, or i when there is none.
func commentEnd(text []byte, i int) int {
	end := ""
	switch {
	case bytes.HasPrefix(text[i:], []byte("//")):
		end = "\n"
	case bytes.HasPrefix(text[i:], []byte("/*")):
		end = "*/"
	default:
		return i
	}
	n := bytes.Index(text[i+2:], []byte(end))
	if n < 0 {
		return len(text)
	}
	return i + 2 + n + len(end) - 1
}

// syntaxHints is what usually lies behind a part of hujson's message.
var syntaxHints = []struct{ part, hint string }{
	{"parsing string", "is a closing quote missing?"},
	{"parsing comment", "is the end of the comment missing?"},
	{"parsing value", "is a closing } or ] missing? The least policy is {}, which allows nothing"},
	{"parsing object", "is a closing } missing?"},
	{"parsing array", "is a closing ] missing?"},
	{"(expecting", "is a comma missing before it?"},
	{"after object name", "is a colon missing before it?"},
	{"after top-level value", "a policy is one object { … } and nothing follows it"},
	{"at start of object name", "names stand in double quotes"},
	{"invalid character '}'", "is a ] missing before it, or a value?"},
	{"invalid character ']'", "is a } missing before it, or a value?"},
	{"at start of value", "names and values stand in double quotes"},
	{"invalid literal", "is a quote missing, a line broken inside a string, or an escape wrong?"},
}

// syntaxError turns hujson's "hujson: line 3, column 5: what" into a Diagnostic.
func syntaxError(err error) Diagnostic {
	d := Diagnostic{Severity: SeverityError, Line: 1, Column: 1}
	rest := strings.TrimPrefix(err.Error(), "hujson: ")
	rest = cutNumber(rest, "line ", ", ", &d.Line)
	rest = cutNumber(rest, "column ", ": ", &d.Column)
	for _, h := range syntaxHints {
		if strings.Contains(rest, h.part) {
			d.Hint = h.hint
			break
		}
	}
	if lit, ok := strings.CutPrefix(rest, "invalid literal: "); ok {
		rest = "invalid literal " + quote(lit)
		if lit[0] != '"' {
			d.Hint = "names and values stand in double quotes"
		}
	}
	d.Message = "syntax error, " + strings.ReplaceAll(rest, "unexpected EOF", "the text ends")
	return d
}

// cutNumber reads "PREFIX NUMBER SUFFIX" off the front of s into n; s is returned whole when it has another form.
func cutNumber(s, prefix, suffix string, n *int) string {
	after, ok := strings.CutPrefix(s, prefix)
	digits, rest, found := strings.Cut(after, suffix)
	v, err := strconv.Atoi(digits)
	if !ok || !found || err != nil {
		return s
	}
	*n = v
	return rest
}
