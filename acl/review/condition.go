package review

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"picket.internal/acl"
)

// condition is what must hold for a rule to allow anything. All of it must; the zero condition always holds.
type condition struct {
	limits     map[string]time.Duration // mfa, session and offlineFor: at most this old or long
	risk       int                      // at most this; 0 asks nothing
	exact      []string                 // "KIND VALUE" of restrictions that are only compared whole, sorted
	posture    string                   // the posture's name, for people; "" asks nothing
	assertions []string                 // what it asserts, sorted
	via        string                   // a tag that the router must have; "" asks nothing
	from       int64                    // Unix milliseconds; 0 is always
	until      int64                    // Unix milliseconds; 0 never ends
}

var riskLevels = []string{"", "low", "medium", "high"}

// demand adds one restriction.
func (c *condition) demand(r acl.Restriction) {
	d, err := time.ParseDuration(r.Value)
	level := slices.Index(riskLevels, r.Value)
	switch {
	case slices.Contains([]string{"mfa", "session", "offlineFor"}, r.Kind) && err == nil:
		if c.limits == nil {
			c.limits = map[string]time.Duration{}
		}
		c.limits[r.Kind] = d
	case r.Kind == "risk" && level > 0:
		c.risk = level
	default:
		c.exact = append(c.exact, r.Kind+" "+r.Value)
		slices.Sort(c.exact)
	}
}

// impliedBy reports whether a flow that meets c meets b as well, whatever the facts.
func (c condition) impliedBy(b condition) bool {
	for kind, limit := range b.limits {
		if mine, ok := c.limits[kind]; !ok || mine > limit {
			return false
		}
	}
	switch {
	case b.risk != 0 && (c.risk == 0 || c.risk > b.risk),
		b.via != "" && b.via != c.via,
		b.from > c.from,
		b.until != 0 && (c.until == 0 || c.until > b.until):
		return false
	}
	return subset(b.exact, c.exact) && subset(b.assertions, c.assertions)
}

func subset(a, of []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(of, s) })
}

// key is one text for equal conditions.
func (c condition) key() string {
	return fmt.Sprint(c.limits, c.risk, len(c.exact), c.exact, c.assertions, c.posture, c.via, c.from, c.until)
}

// String is "mfa 15m, posture:managed, until 2026-12-31T18:00:00Z"; "" for none.
func (c condition) String() string {
	var words []string
	for _, kind := range []string{"mfa", "session"} {
		if d, ok := c.limits[kind]; ok {
			words = append(words, kind+" "+short(d))
		}
	}
	if c.risk != 0 {
		words = append(words, "risk "+riskLevels[c.risk])
	}
	for _, e := range c.exact {
		words = append(words, exactText(e))
	}
	if d, ok := c.limits["offlineFor"]; ok {
		words = append(words, "offlineFor "+short(d))
	}
	if c.posture != "" {
		words = append(words, c.posture)
	}
	if c.via != "" {
		words = append(words, "via "+c.via)
	}
	if c.from != 0 {
		words = append(words, "from "+instant(c.from))
	}
	if c.until != 0 {
		words = append(words, "until "+instant(c.until))
	}
	return strings.Join(words, ", ")
}

// exactText shows an approval in words.
func exactText(s string) string {
	value, ok := strings.CutPrefix(s, "approval ")
	var a struct {
		By     []string
		For    string
		Reason bool
	}
	if !ok || json.Unmarshal([]byte(value), &a) != nil {
		return s
	}
	text := "approval by " + strings.Join(a.By, " or ")
	if d, err := time.ParseDuration(a.For); err == nil {
		text += " for " + short(d)
	}
	if a.Reason {
		text += " with a reason"
	}
	return text
}

// short is a duration without its zero parts: "15m", "1h30m".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return cmp.Or(s, "0s")
}

func instant(millis int64) string { return time.UnixMilli(millis).UTC().Format(time.RFC3339) }
