package review

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// Aside is a change that is not one of flows.
type Aside struct {
	Section string `json:"section"`
	Added   bool   `json:"added"`  // else removed
	Widens  bool   `json:"widens"` // somebody may do more, or less is watched over
	Text    string `json:"text"`
	Line    int    `json:"line"` // of the new policy where something is added, else of the old
}

// item is one statement of a section.
type item struct {
	text    string
	line    int
	subject string // what it is about, where that must have been there before for an addition to widen
}

// asides compares the sections that make no flows, and the names that rules use.
func asides(old, new *Source) (out []Aside) {
	for _, s := range []struct {
		name             string
		read             func(*Source, string) []item
		addWidens, watch bool // an addition widens; a removal does
	}{
		{"tests", testItems, false, true},
		{"sshTests", sshTestItems, false, true},
		{"tagOwners", listItems, true, false},
		{"autoApprovers", approverItems, true, false},
		{"ssh", sshItems, true, false},
		{"app", appItems, true, false},
		{"nodeAttrs", wholeItems, false, false},
		{"groups", listItems, false, false},
		{"hosts", hostItems, false, false},
		{"ipsets", listItems, false, false},
		{"postures", listItems, false, false},
		{"defaultSrcPosture", wholeItems, false, false},
		{"log", logItems, false, false},
	} {
		before, after := s.read(old, s.name), s.read(new, s.name)
		known := map[string]bool{}
		for _, i := range before {
			known[i.subject] = true
		}
		for _, i := range missing(before, after) {
			out = append(out, Aside{s.name, false, s.watch, visible(i.text), i.line})
		}
		for _, i := range missing(after, before) {
			widens := s.addWidens && (i.subject == "" || known[i.subject])
			out = append(out, Aside{s.name, true, widens, visible(i.text), i.line})
		}
	}
	return out
}

// missing lists those of a that b has not, or not as often, in order.
func missing(a, b []item) (out []item) {
	left := map[string]int{}
	for _, i := range b {
		left[i.text]++
	}
	for _, i := range a {
		if left[i.text] > 0 {
			left[i.text]--
			continue
		}
		out = append(out, i)
	}
	slices.SortStableFunc(out, func(a, b item) int { return cmp.Or(cmp.Compare(a.line, b.line), strings.Compare(a.text, b.text)) })
	return out
}

// eachMember calls each for an object's members in the order of their names.
func eachMember(v *hujson.Value, each func(name string, v *hujson.Value)) {
	m := members(v)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		each(name, m[name])
	}
}

// listItems reads a section of named lists.
func listItems(s *Source, section string) (out []item) {
	eachMember(s.sections[section], func(name string, v *hujson.Value) {
		out = append(out, item{name + " is defined", s.line(v), name})
		for _, e := range elements(v) {
			text := name + ": " + str(e)
			if section == "ipsets" { // what is removed depends on what was added before it
				text = name + ": " + plain(v)
			}
			out = append(out, item{text, s.line(e), name})
			if section == "ipsets" {
				break
			}
		}
	})
	return out
}

func hostItems(s *Source, section string) (out []item) {
	eachMember(s.sections[section], func(name string, v *hujson.Value) {
		out = append(out, item{name + " is " + str(v), s.line(v), ""})
	})
	return out
}

// wholeItems reads a section whose elements are compared whole.
func wholeItems(s *Source, section string) (out []item) {
	for _, e := range elements(s.sections[section]) {
		out = append(out, item{plain(e), s.line(e), ""})
	}
	return out
}

func approverItems(s *Source, section string) (out []item) {
	m := members(s.sections[section])
	for _, kind := range []string{"routes", "services"} {
		eachMember(m[kind], func(name string, v *hujson.Value) {
			for _, e := range elements(v) {
				out = append(out, item{fmt.Sprintf("%s of %s are approved", name, str(e)), s.line(e), ""})
			}
		})
	}
	for _, e := range elements(m["exitNode"]) {
		out = append(out, item{fmt.Sprintf("exit nodes of %s are approved", str(e)), s.line(e), ""})
	}
	return out
}

// testItems reads a test for each thing that is expected, so that no change of their grouping counts.
func testItems(s *Source, section string) (out []item) {
	for _, t := range elements(s.sections[section]) {
		m := members(t)
		ask := ""
		if p := m["proto"]; p != nil {
			ask += " on " + str(p)
		}
		if a := m["srcPostureAttrs"]; a != nil {
			ask += " with " + plain(a)
		}
		for _, e := range []struct{ field, text string }{{"accept", "is allowed"}, {"allow", "is allowed"}, {"deny", "is refused"}} {
			for _, d := range elements(m[e.field]) {
				out = append(out, item{fmt.Sprintf("%s -> %s%s %s", strOf(m["src"]), str(d), ask, e.text), s.line(d), ""})
			}
		}
	}
	return out
}

func sshTestItems(s *Source, section string) (out []item) {
	for _, t := range elements(s.sections[section]) {
		m := members(t)
		attrs := ""
		if a := m["srcPostureAttrs"]; a != nil {
			attrs = " with " + plain(a)
		}
		for _, field := range []string{"accept", "check", "deny"} {
			for _, d := range strs(m["dst"]) {
				for _, u := range elements(m[field]) {
					out = append(out, item{fmt.Sprintf("%s -> %s as %s%s: %s", strOf(m["src"]), d, str(u), attrs, field), s.line(u), ""})
				}
			}
		}
	}
	return out
}

func strOf(v *hujson.Value) string {
	if v == nil {
		return ""
	}
	return str(v)
}

func sshItems(s *Source, section string) (out []item) {
	for _, e := range elements(s.sections[section]) {
		m := members(e)
		text := fmt.Sprintf("%s %s -> %s as %s", strOf(m["action"]), join(m["src"]), join(m["dst"]), join(m["users"]))
		for _, field := range []string{"checkPeriod", "acceptEnv", "srcPosture", "recorder", "enforceRecorder"} {
			if v := m[field]; v != nil {
				text += ", " + field + " " + plain(v)
			}
		}
		out = append(out, item{text, s.line(e), ""})
	}
	return out
}

func join(v *hujson.Value) string { return strings.Join(strs(v), ", ") }

// appItems reads what grants tell applications.
func appItems(s *Source, _ string) (out []item) {
	for _, e := range elements(s.sections["grants"]) {
		m := members(e)
		under := ""
		for _, field := range []string{"srcPosture", "mfa", "session", "risk", "hours", "until", "approval", "offlineFor"} {
			if v := m[field]; v != nil {
				under += ", " + field + " " + plain(v)
			}
		}
		eachMember(m["app"], func(name string, v *hujson.Value) {
			text := fmt.Sprintf("%s -> %s: %s %s%s", join(m["src"]), join(m["dst"]), name, plain(v), under)
			out = append(out, item{text, s.line(v), ""})
		})
	}
	return out
}

func logItems(s *Source, _ string) (out []item) {
	for _, e := range elements(s.sections["grants"]) {
		m := members(e)
		if v := m["log"]; v != nil {
			out = append(out, item{fmt.Sprintf("%s -> %s, %s: log %s", join(m["src"]), join(m["dst"]), join(m["ip"]), str(v)), s.line(v), ""})
		}
	}
	return out
}
