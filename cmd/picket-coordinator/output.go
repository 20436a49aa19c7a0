package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/keydir"
	"picket.internal/coordinator/opsocket"
)

// defaultDir is where a coordinator lives unless told otherwise.
const defaultDir = "/var/lib/picket-coordinator"

func dirFlag() cli.Flag {
	return &cli.StringFlag{Name: "dir", Value: defaultDir, Usage: "the coordinator's `DIRECTORY`: keys, certificate, database, operator socket"}
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

func client(c *cli.Context) *opsocket.Client {
	return opsocket.NewClient(keydir.Socket(c.String("dir")))
}

// show prints v as JSON when --json is given, else what text writes.
func show(c *cli.Context, v any, text func(io.Writer)) error {
	if c.Bool("json") {
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	text(c.App.Writer)
	return nil
}

// table prints rows under a header, in columns.
func table(w io.Writer, header string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, "|", "\t"))
	for _, r := range rows {
		for i, cell := range r {
			r[i] = printable(cell)
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}

// fields prints "name  value" lines.
func fields(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\n", r[0], printable(r[1]))
	}
	t.Flush()
}

// printable keeps what others chose (host names, commit messages) from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, s)
}

// ago is how long since t, roughly; "never" for the zero time.
func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := time.Since(t)
	switch {
	case d < 0:
		return "in " + round(-d)
	case d < time.Second:
		return "now"
	default:
		return round(d) + " ago"
	}
}

func round(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// clock is a moment in local time; "-" for the zero time.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func addresses(as []netip.Addr) string {
	texts := make([]string, len(as))
	for i, a := range as {
		texts[i] = a.String()
	}
	return strings.Join(texts, " ")
}

func ownerOrTags(owner string, tags []string) string {
	if owner != "" {
		return owner
	}
	return strings.Join(tags, ",")
}

// arguments returns exactly n arguments, or says what the command takes.
func arguments(c *cli.Context, n int, form string) ([]string, error) {
	if c.NArg() == n {
		return c.Args().Slice(), nil
	}
	if err := cliflags.NArgs(c, 0, n, form); err != nil {
		return nil, err
	}
	return nil, cliflags.Usage(c, "this command takes %s", form)
}

// unknown names what was not found, which the coordinator, for the sake of those who may not know, does not.
func unknown(err error, kind, ref string) error {
	var refused *coordinator.Error
	if errors.As(err, &refused) && refused.Code == coordinator.CodeNotFound {
		return fmt.Errorf("there is no such %s as %.80q: `picket-coordinator %ss list` shows them", kind, ref, kind)
	}
	return err
}
