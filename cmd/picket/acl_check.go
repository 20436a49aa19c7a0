package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/cmd/internal/cliflags"
)

func aclCheckCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "say what is wrong or suspicious in policy files",
		ArgsUsage: "FILE...",
		Description: "- is standard input. With --directory or --coordinator, rules that match no node there are warned of. Exit status 1 when a file has errors, where warnings count with --strict; 2 when the directory or the coordinator cannot be read.\n\nExamples:\n\n" +
			"   picket acl check policy.hujson\n   picket acl check --strict --format github policies/*.hujson\n" +
			"   git show HEAD:policy.hujson | picket acl check -\n   picket acl check --format sarif policy.hujson >policy.sarif\n" +
			"   picket acl check --coordinator 'https://…#…' --token-file token policy.hujson",
		Flags: append([]cli.Flag{
			formatFlag("text", "json", "github", "sarif", "junit"),
			&cli.BoolFlag{Name: "strict", Usage: "fail on warnings, too"},
		}, whereFlags()...),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, c.NArg(), "FILE"); err != nil {
				return err
			}
			write, err := format(c, map[string]func(io.Writer, []checked) error{
				"text": checkText, "json": checkJSON, "github": checkGitHub, "sarif": checkSARIF, "junit": checkJUnit,
			})
			if err != nil {
				return err
			}
			a, err := askerIfGiven(c)
			if err != nil {
				return err
			}
			d, err := directoryIfGiven(c, a)
			if err != nil {
				return err
			}
			var files []checked
			failed := false
			for _, path := range c.Args().Slice() {
				f := check(c, path, d)
				files = append(files, f)
				failed = failed || f.failed
			}
			if err := write(c.App.Writer, files); err != nil || !failed {
				return err
			}
			return cli.Exit("", cliflags.ExitFailed)
		},
	}
}

// formatFlag chooses among formats, of which the first is the default. See format.
func formatFlag(formats ...string) cli.Flag {
	return &cli.StringFlag{Name: "format", Value: formats[0], Usage: "write it as `FORMAT`: " + strings.Join(formats, ", ")}
}

// format is the writer of the format that --format names.
func format[T any](c *cli.Context, writers map[string]func(io.Writer, T) error) (func(io.Writer, T) error, error) {
	if write := writers[c.String("format")]; write != nil {
		return write, nil
	}
	var known []string
	for name := range writers {
		known = append(known, name)
	}
	slices.Sort(known)
	return nil, cliflags.Usage(c, "--format %.40q is none of %s", c.String("format"), strings.Join(known, ", "))
}

// checked is a file with what was found in it.
type checked struct {
	path   string
	text   []byte
	found  []acl.Diagnostic
	failed bool
}

// check reads a file and judges it, and by d, unless nil, whether its rules name anybody. A file that cannot be read has that as its one error.
func check(c *cli.Context, path string, d *acl.Directory) checked {
	f := checked{path: path}
	var err error
	if f.text, err = readFile(c, path); err != nil {
		f.found = []acl.Diagnostic{{Severity: acl.SeverityError, Message: "it cannot be read: " + err.Error()}}
		f.failed = true
		return f
	}
	p, err := acl.Parse(f.text)
	var all acl.Errors
	if errors.As(err, &all) {
		f.found, f.failed = all, true
		return f
	}
	f.found = p.Warnings()
	if d != nil {
		f.found = append(f.found, p.WarningsFor(d)...)
		slices.SortStableFunc(f.found, func(a, b acl.Diagnostic) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
	}
	f.failed = c.Bool("strict") && len(f.found) > 0
	return f
}

// count is how many errors and warnings there are.
func (f checked) count() (errors, warnings int) {
	for _, d := range f.found {
		if d.Severity == acl.SeverityError {
			errors++
		} else {
			warnings++
		}
	}
	return errors, warnings
}

// message is a Diagnostic's with its hint.
func message(d acl.Diagnostic) string {
	if d.Hint == "" {
		return d.Message
	}
	return d.Message + ": " + d.Hint
}

func checkText(w io.Writer, files []checked) error {
	for _, f := range files {
		name := fileName(f.path)
		for _, d := range f.found {
			fmt.Fprintln(w, diagnosticText(name, d))
		}
		errors, warnings := f.count()
		summary := "no errors"
		if errors > 0 {
			summary = plural(errors, "error")
		}
		if warnings > 0 {
			summary += ", " + plural(warnings, "warning")
		}
		fmt.Fprintf(w, "%s: %s\n", name, summary)
	}
	return nil
}
