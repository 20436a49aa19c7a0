package web

import (
	"fmt"
	"html/template"
	"net/netip"
	"strings"
	"time"
	"unicode"
)

// displayFuncs are the templates' functions. None of them marks anything as safe: what they return is escaped like everything else.
var displayFuncs = template.FuncMap{
	"clean":   func(s string) string { return clean(s, 64) },
	"cleanTo": func(n int, s string) string { return clean(s, n) },
	"since":   since,
	"until":   until,
	"stamp":   stamp,
	"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"took":    took,
	"short":   func(commit string) string { return clean(commit, 12) },
	"join":    joinText,
	"addrs":   joinAddrs,
	"count":   count,
	"lines":   lines,
}

// clean makes text from outside fit to stand on a page: control characters, and the invisible ones that reorder or hide what stands
// beside them (category Cf), become U+FFFD; what is longer than limit runes ends in an ellipsis. It does not escape: the template does.
func clean(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > limit {
			b.WriteRune('…')
			break
		}
		if !unicode.IsGraphic(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// lines splits a file for the numbered listing. Tabs are kept as such.
func lines(text string) []string {
	list := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range list {
		parts := strings.Split(strings.TrimSuffix(line, "\r"), "\t")
		for j, part := range parts {
			parts[j] = clean(part, 2000)
		}
		list[i] = strings.Join(parts, "\t")
	}
	return list
}

// since says how long ago t was: "never", "just now", "5 minutes ago".
func since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := time.Since(t)
	if d < 5*time.Second {
		return "just now"
	}
	return span(d) + " ago"
}

// until says how far off t is.
func until(t time.Time) string {
	d := time.Until(t)
	switch {
	case t.IsZero():
		return "never"
	case d <= 0:
		return "over"
	}
	return "in " + span(d)
}

// span is a duration in the largest unit that leaves at least two of it, or one of the smallest.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return count(int(d/time.Second), "second", "seconds")
	case d < 2*time.Hour:
		return count(int(d/time.Minute), "minute", "minutes")
	case d < 48*time.Hour:
		return count(int(d/time.Hour), "hour", "hours")
	}
	return count(int(d/(24*time.Hour)), "day", "days")
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// stamp is the exact time, in UTC, because a page rendered here does not know the reader's zone.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// took is how long something took, to the millisecond below a second.
func took(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

func joinText(list []string) string {
	shown := make([]string, len(list))
	for i, s := range list {
		shown[i] = clean(s, 64)
	}
	return strings.Join(shown, ", ")
}

func joinAddrs(list []netip.Addr) string {
	shown := make([]string, len(list))
	for i, a := range list {
		shown[i] = a.String()
	}
	return strings.Join(shown, ", ")
}
