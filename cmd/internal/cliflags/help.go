package cliflags

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// helpWidth is how many columns help has: those of the narrowest terminal people use.
const helpWidth = 80

// The library's only seam for its help is this variable; its own templates do not wrap the texts of flags.
func init() {
	cli.HelpPrinter = func(w io.Writer, _ string, of any) { io.WriteString(w, helpOf(of)) }
}

// helpOf is the help of a *cli.App or a *cli.Command.
func helpOf(of any) string {
	var h help
	subcommands := func(all []*cli.Command) []*cli.Command { // without the "help" that the library puts into every command
		return slices.DeleteFunc(all, func(c *cli.Command) bool { return c.Name == "help" })
	}
	switch of := of.(type) {
	case *cli.App:
		h = help{of.Name, of.Usage, of.UsageText, of.Description, subcommands(of.VisibleCommands()), of.VisibleFlags()}
		if h.form == "" {
			h.form = of.Name + " COMMAND [FLAGS] [ARGUMENTS]"
		}
	case *cli.Command:
		h = help{of.HelpName, of.Usage, of.UsageText, of.Description, subcommands(of.VisibleCommands()), of.VisibleFlags()}
		if h.form == "" && len(h.commands) > 0 {
			h.form = of.HelpName + " COMMAND [FLAGS] [ARGUMENTS]"
		} else if h.form == "" {
			h.form = strings.TrimSpace(of.HelpName + " [FLAGS] " + of.ArgsUsage)
		}
	}
	return h.String()
}

// help is what is said of a command.
type help struct {
	name, usage, form, description string
	commands                       []*cli.Command
	flags                          []cli.Flag
}

func (h help) String() string {
	var b strings.Builder
	b.WriteString(fold(strings.TrimSuffix(h.name+" - "+h.usage, " - "), 0))
	b.WriteString("\nUsage:\n" + fold("   "+h.form, 6))
	if h.description != "" {
		b.WriteString("\n" + paragraphs(h.description))
	}
	var rows [][2]string
	for _, c := range h.commands {
		rows = append(rows, [2]string{c.Name, c.Usage})
	}
	writeColumns(&b, "Commands", rows)
	rows = nil
	for _, f := range h.flags {
		rows = append(rows, flagRow(f))
	}
	writeColumns(&b, "Flags", rows)
	return b.String()
}

// repeated is how the library writes a flag that may stand more than once.
var repeated = regexp.MustCompile(` \[ .* \]$`)

func flagRow(f cli.Flag) [2]string {
	left, right, _ := strings.Cut(f.String(), "\t")
	return [2]string{repeated.ReplaceAllString(left, ""), strings.TrimSuffix(strings.TrimSuffix(right, "(default: false)"), " ")}
}

// maxLeft is the width of the left column beyond which its texts get lines of their own.
const maxLeft = 22

func writeColumns(b *strings.Builder, title string, rows [][2]string) {
	if len(rows) == 0 {
		return
	}
	left := 0
	for _, r := range rows {
		if n := utf8.RuneCountInString(r[0]); n <= maxLeft {
			left = max(left, n)
		}
	}
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, r := range rows {
		if utf8.RuneCountInString(r[0]) > left {
			fmt.Fprintf(b, "   %s\n%s", r[0], fold(strings.Repeat(" ", left+6)+r[1], left+6))
			continue
		}
		b.WriteString(fold(fmt.Sprintf("   %-*s   %s", left, r[0], r[1]), left+6))
	}
}

// paragraphs folds the lines of each paragraph together; lines that begin with a blank, such as examples, stay as they are.
func paragraphs(text string) string {
	var b strings.Builder
	var open []string
	closeOpen := func() {
		if len(open) > 0 {
			b.WriteString(fold(strings.Join(open, " "), 0))
			open = nil
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line != "" && line[0] != ' ' {
			open = append(open, line)
			continue
		}
		closeOpen()
		b.WriteString(line + "\n")
	}
	closeOpen()
	return b.String()
}

// fold breaks text between words into lines of at most helpWidth columns, each but the first indented.
func fold(text string, indent int) string {
	var b strings.Builder
	rest := strings.TrimLeft(text, " ")
	line := text[:len(text)-len(rest)]
	fresh := true
	for word := range strings.FieldsSeq(keepGaps(strings.TrimRight(rest, " "))) {
		word = strings.ReplaceAll(word, "\x00", " ")
		if !fresh && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > helpWidth {
			b.WriteString(line + "\n")
			line, fresh = strings.Repeat(" ", indent), true
		}
		if !fresh {
			line += " "
		}
		line, fresh = line+word, false
	}
	b.WriteString(line + "\n")
	return b.String()
}

// keepGaps ties runs of blanks, which stand between columns, to the word before.
func keepGaps(s string) string {
	return gaps.ReplaceAllStringFunc(s, func(gap string) string { return strings.Repeat("\x00", len(gap)-1) + " " })
}

var gaps = regexp.MustCompile(` {2,}`)
