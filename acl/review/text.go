package review

import (
	"fmt"
	"io"
	"strings"

	"picket.internal/acl"
)

// titles of the kinds in reports, with the mark that their lines begin with.
var titles = map[Kind]struct{ mark, title string }{
	Gained:   {"+", "Gained"},
	Widened:  {"+", "Widened, under weaker or other conditions"},
	Narrowed: {"-", "Narrowed, under stronger or other conditions"},
	Lost:     {"-", "Lost"},
}

// maxParties bounds how many names of one end a line of text shows.
const maxParties = 8

// Text is a line without its mark: "group:eng -> tag:web tcp 8443 under mfa 15m (grants[3], line 17): 12 nodes to 4".
func (l *Line) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s %s", Parties(l.From, maxParties), Parties(l.To, maxParties), acl.FormatPorts(l.Ports))
	if len(l.Under) > 0 {
		b.WriteString(" under " + strings.Join(l.Under, " or "))
	}
	was := ""
	if l.Change == Narrowed || l.Change == Lost {
		was = "was "
	}
	fmt.Fprintf(&b, " (%s%s)", was, l.Rule)
	var notes []string
	switch l.Change {
	case Widened:
		notes = append(notes, "was "+orNone(l.Other))
	case Narrowed:
		notes = append(notes, "is "+orNone(l.Other))
	}
	for _, d := range l.Denies {
		verb := "now refused by"
		if l.Change == Gained || l.Change == Widened {
			verb = "no longer refused by"
		}
		notes = append(notes, fmt.Sprintf("%s %s: %s", verb, d.Ref, d.Reason))
	}
	switch { // what lies behind routers is no nodes
	case l.FromNodes > 0 && l.ToNodes > 0:
		notes = append(notes, fmt.Sprintf("%s to %d", number(l.FromNodes, "node"), l.ToNodes))
	case l.FromNodes > 0:
		notes = append(notes, "from "+number(l.FromNodes, "node"))
	case l.ToNodes > 0:
		notes = append(notes, "to "+number(l.ToNodes, "node"))
	}
	if len(notes) > 0 {
		b.WriteString(": " + strings.Join(notes, "; "))
	}
	return b.String()
}

func orNone(conditions []string) string {
	if len(conditions) == 0 {
		return "closed"
	}
	out := make([]string, len(conditions))
	for i, c := range conditions {
		out[i] = "under " + c
		if c == "" {
			out[i] = "without condition"
		}
	}
	return strings.Join(out, " or ")
}

// Parties joins at most max names; 0 is all.
func Parties(list []Party, max int) string {
	var names []string
	for i, p := range list {
		if i == max && max > 0 && len(list) > max+1 {
			names = append(names, fmt.Sprintf("%d more", len(list)-max))
			break
		}
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// text is an aside without its mark.
func (a *Aside) text() string {
	text := fmt.Sprintf("%s: %s", a.Section, a.Text)
	if !a.Added && (a.Section == "tests" || a.Section == "sshTests") {
		text += " (removed from line " + fmt.Sprint(a.Line) + ": no longer tested)"
	} else {
		text += fmt.Sprintf(" (line %d)", a.Line)
	}
	return text
}

// section of a report.
type section struct {
	title string
	lines []string // with their marks
}

func (c *Changes) report() (out []section) {
	for _, k := range kinds {
		s := section{title: titles[k].title}
		for i := range c.Lines {
			if c.Lines[i].Change == k {
				s.lines = append(s.lines, titles[k].mark+" "+c.Lines[i].Text())
			}
		}
		out = append(out, s)
	}
	worse, also := section{title: "Also changed, and more is allowed or less is tested"}, section{title: "Also changed"}
	for i := range c.Also {
		a := &c.Also[i]
		to, mark := &also, "-"
		if a.Widens {
			to = &worse
		}
		if a.Added {
			mark = "+"
		}
		to.lines = append(to.lines, mark+" "+a.text())
	}
	out = append(out, worse, also)
	if c.Live != nil {
		out = append(out, c.Live.section())
	}
	return out
}

// WriteText writes the changes for a terminal.
func (c *Changes) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%s (compared %s).\n", capital(c.Summary()), c.Basis())
	if c.Live != nil {
		fmt.Fprintf(w, "%s.\n", capital(c.Live.Summary()))
	}
	for _, s := range c.report() {
		if len(s.lines) > 0 {
			fmt.Fprintf(w, "\n%s:\n", s.title)
		}
		for _, l := range s.lines {
			fmt.Fprintln(w, "  "+l)
		}
	}
}

// Bounds on the Markdown form. Merge-request comments hold 65,536 bytes at the least generous host.
const (
	maxMarkdown   = 60_000
	maxOpenLines  = 20 // more are folded away
	maxLineOfText = 1000
)

// WriteMarkdown writes the changes as a comment on a merge request, at most 60,000 bytes. All words of the policies stand in code blocks,
// where nothing is markup or a mention; a backquote, which could end one, is shown as an apostrophe.
func (c *Changes) WriteMarkdown(w io.Writer) {
	head := "**No access widens**"
	if c.Widens() {
		head = "**Access widens**"
	}
	summary := c.Summary()
	if i := strings.Index(summary, ": "); i >= 0 {
		summary = summary[i+2:]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "### Policy review\n\n%s: %s (compared %s).\n", head, summary, c.Basis())
	if c.Live != nil {
		fmt.Fprintf(&b, "\n%s.\n", c.Live.markdown())
	}
	room := maxMarkdown - b.Len()
	for _, s := range c.report() {
		if len(s.lines) == 0 {
			continue
		}
		body, folded := block(s.lines, room-500), len(s.lines) > maxOpenLines
		title := fmt.Sprintf("%s (%d)", s.title, len(s.lines))
		if folded {
			body = fmt.Sprintf("\n<details><summary>%s</summary>\n%s\n</details>\n", title, body)
		} else {
			body = fmt.Sprintf("\n**%s**\n%s", title, body)
		}
		room -= len(body)
		b.WriteString(body)
	}
	io.WriteString(w, b.String())
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// block is a code block with those of lines that fit into room bytes, and the number of the others.
func block(lines []string, room int) string {
	var b strings.Builder
	for i, l := range lines {
		l = strings.ReplaceAll(l, "`", "'")
		if len(l) > maxLineOfText {
			l = strings.ToValidUTF8(l[:maxLineOfText], "") + "…"
		}
		if b.Len()+len(l) > room {
			fmt.Fprintf(&b, "  and %d more\n", len(lines)-i)
			break
		}
		b.WriteString(l + "\n")
	}
	return "\n```diff\n" + b.String() + "```\n"
}
