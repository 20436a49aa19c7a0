package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"picket.internal/coordinator/protocol"
)

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

// fields prints "name   value" lines, leaving out empty values. Values may come from others: what a terminal acts on is taken out.
func fields(w io.Writer, pairs ...string) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", pairs[i], protocol.Printable(pairs[i+1]))
		}
	}
	t.Flush()
}

// clip shortens s to at most n characters.
func clip(s string, n int) string {
	s = protocol.Printable(s)
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// policyText shortens a commit's id; a file's name stays whole.
func policyText(policy string) string {
	if len(policy) >= 40 && strings.Trim(policy, "0123456789abcdef") == "" {
		return policy[:12]
	}
	return protocol.Printable(policy)
}

func addresses(a []netip.Addr) string {
	var out []string
	for _, addr := range a {
		out = append(out, addr.String())
	}
	return strings.Join(out, " ")
}

// clock shows a time with how far off it is; "" for the zero time.
func clock(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	if d := t.Sub(now); d >= 0 {
		return fmt.Sprintf("%s (in %s)", t.Local().Format("2006-01-02 15:04:05"), span(d))
	}
	return fmt.Sprintf("%s (%s ago)", t.Local().Format("2006-01-02 15:04:05"), span(now.Sub(t)))
}

// span is a duration in its largest unit: "12s", "4m", "7h", "30d".
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// millis is a round-trip time: "0.31ms", "12.4ms", "1.2s"; "-" for none.
func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case d <= 0:
		return "-"
	case ms < 9.995:
		return fmt.Sprintf("%.2fms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0fms", ms)
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

// size is a number of bytes in at most 4 characters: "0", "999", "12k", "1.2M".
func size(n uint64) string {
	f := float64(n)
	for _, unit := range []string{"", "k", "M", "G", "T", "P"} {
		switch {
		case unit == "" && n < 1000:
			return fmt.Sprint(n)
		case f < 9.95:
			return fmt.Sprintf("%.1f%s", f, unit)
		case f < 999.5:
			return fmt.Sprintf("%.0f%s", f, unit)
		}
		f /= 1000
	}
	return ">1E"
}
