package acl

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/tailscale/hujson"
)

// conditions are what a grant demands beyond who, where and which port. The zero conditions demand nothing.
//
// Each but until and log becomes a Restriction, and a rule with a restriction allows nothing until the fact it asks for is supplied.
// acl reads no clock and no time zone database: whoever supplies the facts resolves hours.zone, and a zone it does not know never holds.
type conditions struct {
	mfa        time.Duration // the person's second factor is at most this old
	session    time.Duration // the login behind the node is at most this old
	risk       risk          // the subject's risk is at most this
	hours      *hours
	until      time.Time // when the grant ends; zero never
	approval   *approval
	offlineFor time.Duration // how long it outlives contact with the coordinator
	log        logging       // no restriction: it changes no verdict
}

// risk is how much of it a grant tolerates; "" any.
type risk string

var risks = []string{"low", "medium", "high"}

// logging is which of a grant's verdicts are logged; "" is the node's own choice.
type logging string

var loggings = []string{"all", "deny", "sample"}

// hours are when a grant holds: from start until end of each of days in zone. When end is before start they last past midnight and belong
// to the day they begin on.
type hours struct {
	days       []time.Weekday // Monday first, each once
	start, end int            // minutes from midnight; end is at most 24:00 and never start
	zone       string         // "Area/City" or "UTC", by shape only
}

// approval is what somebody must give before a grant holds.
type approval struct {
	By     []string `json:"by"`              // logins, groups and autogroup:admin: sorted, each once
	For    string   `json:"for"`             // a time.Duration's String
	Reason bool     `json:"reason,omitzero"` // whether who asks must say why
}

// Bounds on durations.
const (
	maxCondition    = 366 * 24 * time.Hour
	maxDurationText = 32
)

// untilMillis is the deadline in Unix milliseconds; 0 is none.
func (c conditions) untilMillis() int64 {
	if c.until.IsZero() {
		return 0
	}
	return c.until.UnixMilli()
}

// restrictions returns the conditions in one fixed order, each named as its field and with its one canonical text.
func (c conditions) restrictions() (out []Restriction) {
	add := func(kind string, present bool, value string) {
		if present {
			out = append(out, Restriction{Kind: kind, Value: value})
		}
	}
	add("mfa", c.mfa != 0, c.mfa.String())
	add("session", c.session != 0, c.session.String())
	add("risk", c.risk != "", string(c.risk))
	add("hours", c.hours != nil, c.hours.String())
	add("approval", c.approval != nil, c.approval.String())
	add("offlineFor", c.offlineFor != 0, c.offlineFor.String())
	return out
}

// String is "mon,tue 09:00-17:00 Europe/Berlin".
func (h *hours) String() string {
	if h == nil {
		return ""
	}
	days := make([]string, len(h.days))
	for i, d := range h.days {
		days[i] = dayName(d)
	}
	clock := func(m int) string { return fmt.Sprintf("%02d:%02d", m/60, m%60) }
	return fmt.Sprintf("%s %s-%s %s", strings.Join(days, ","), clock(h.start), clock(h.end), h.zone)
}

// String is compact JSON: {"by":["autogroup:admin","group:oncall"],"for":"1h0m0s","reason":true}.
func (a *approval) String() string {
	if a == nil {
		return ""
	}
	b, err := json.Marshal(a)
	if err != nil {
		panic("an approval has no JSON: " + err.Error()) // it holds strings that were UTF-8 when they were parsed
	}
	return string(b)
}

// conditionFields are the fields of a grant, named what, that read into c.
func (r *reader) conditionFields(c *conditions, what string) []field {
	return []field{
		{"mfa", func(v *hujson.Value) { c.mfa = r.duration(v, what+".mfa") }},
		{"session", func(v *hujson.Value) { c.session = r.duration(v, what+".session") }},
		{"risk", func(v *hujson.Value) { c.risk = risk(r.oneOf(v, what+".risk", risks)) }},
		{"hours", func(v *hujson.Value) { c.hours = r.hours(v, what+".hours") }},
		{"until", func(v *hujson.Value) { c.until = r.instant(v, what+".until") }},
		{"approval", func(v *hujson.Value) { c.approval = r.approval(v, what+".approval") }},
		{"offlineFor", func(v *hujson.Value) { c.offlineFor = r.duration(v, what+".offlineFor") }},
		{"log", func(v *hujson.Value) { c.log = logging(r.oneOf(v, what+".log", loggings)) }},
	}
}

// nonempty calls each for the elements of an array that must have one: a condition that names nothing could be read as none (R1).
func (r *reader) nonempty(v *hujson.Value, what, hint string, each func(v *hujson.Value)) {
	elems, ok := r.array(v, what)
	if ok && len(elems) == 0 {
		r.err(v.StartOffset, hint, "%s is empty", what)
	}
	for i := range elems {
		each(&elems[i])
	}
}

// oneOf reads one of a few words, "" and an error when it is none.
func (r *reader) oneOf(v *hujson.Value, what string, words []string) string {
	s, ok := r.text(v, what)
	if !ok || slices.Contains(words, s) {
		return s
	}
	hint := "known are " + strings.Join(words, ", ")
	if near := r.nearest(s, words); near != "" {
		hint = fmt.Sprintf("did you mean %s?", quote(near))
	}
	r.err(v.StartOffset, hint, "%s is %s", what, quote(s))
	return ""
}

// duration reads a duration: more than 0 and at most maxCondition; 0 and an error when it is none.
func (r *reader) duration(v *hujson.Value, what string) time.Duration {
	if v.Value.Kind() == '0' {
		r.err(v.StartOffset, durationHint, "%s must be a string with a unit, not a number", what)
		return 0
	}
	s, ok := r.text(v, what)
	if !ok {
		return 0
	}
	d, m := parseDuration(s)
	if m.problem != "" {
		r.err(v.StartOffset, m.hint, "%s: %s", what, m.problem)
		return 0
	}
	return d
}

const durationHint = "write it as in `15m`, `12h`, `1h30m` or `7d`"

// durationUnits from long to short, in the order in which a duration may have them.
const durationUnits = "dhms"

var unitLength = map[byte]time.Duration{'d': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}

// parseDuration reads whole numbers of days, hours, minutes and seconds, long units first and each at most once. A day is 24 hours.
func parseDuration(s string) (time.Duration, mistake) {
	notOne := mistakef(durationHint, "%s is not a duration", quote(s))
	if s == "" || len(s) > maxDurationText {
		return 0, notOne
	}
	var sum time.Duration
	left := durationUnits
	for rest := s; rest != ""; {
		digits, tail := cutRun(rest, true)
		if digits == "" || tail == "" {
			return 0, notOne
		}
		at := strings.IndexByte(left, tail[0])
		if at < 0 {
			return 0, notOne
		}
		unit := unitLength[tail[0]]
		left, rest = left[at+1:], tail[1:]
		n := int64(0)
		for _, c := range digits {
			// One more digit cannot overflow what is below the bound, and no more are read above it.
			if n = n*10 + int64(c-'0'); n > int64(maxCondition/unit) {
				return 0, mistakef("", "%s is longer than 366 days", quote(s))
			}
		}
		sum += time.Duration(n) * unit
	}
	switch {
	case sum == 0:
		return 0, mistakef("leave the field out to demand nothing", "%s is no time at all", quote(s))
	case sum > maxCondition:
		return 0, mistakef("", "%s is longer than 366 days", quote(s))
	}
	return sum, mistake{}
}

const instantHint = "write it as in `2026-12-31T18:00Z` or `2026-12-31T19:00:00+01:00`"

// instant reads RFC 3339 without fractions, with or without seconds; the zero time and an error when it is none.
func (r *reader) instant(v *hujson.Value, what string) time.Time {
	s, ok := r.text(v, what)
	if !ok {
		return time.Time{}
	}
	t, m := parseInstant(s)
	if m.problem != "" {
		r.err(v.StartOffset, m.hint, "%s: %s", what, m.problem)
	}
	return t
}

func parseInstant(s string) (time.Time, mistake) {
	// time.Parse takes more than the layout says: fractions, and offsets that no place has.
	for _, shape := range []struct{ digits, layout string }{
		{"0000-00-00T00:00Z", "2006-01-02T15:04Z07:00"},
		{"0000-00-00T00:00+00:00", "2006-01-02T15:04Z07:00"},
		{"0000-00-00T00:00:00Z", time.RFC3339},
		{"0000-00-00T00:00:00+00:00", time.RFC3339},
	} {
		if !shaped(s, shape.digits) {
			continue
		}
		t, err := time.Parse(shape.layout, s)
		_, offset := t.Zone()
		switch {
		case err != nil || offset < -14*3600 || offset > 14*3600:
			return time.Time{}, mistakef("", "there is no %s", quote(s))
		case t.Year() < 2000:
			// What is 1970 in UTC would be a deadline of 0, and 0 is none.
			return time.Time{}, mistakef("the year is probably mistyped", "%s is long past", quote(s))
		}
		return t, mistake{}
	}
	if shaped(s, "0000-00-00T00:00") || shaped(s, "0000-00-00T00:00:00") {
		return time.Time{}, mistakef(fmt.Sprintf("write %s, or an offset such as `+01:00` in place of the Z", quote(s+"Z")), "%s has no time zone", quote(s))
	}
	return time.Time{}, mistakef(instantHint, "%s is not a time", quote(s))
}

// shaped reports whether s has a digit where shape has 0, a sign where it has +, and else is equal.
func shaped(s, shape string) bool {
	if len(s) != len(shape) {
		return false
	}
	for i := range len(s) {
		ok := s[i] == shape[i]
		switch shape[i] {
		case '0':
			ok = s[i] >= '0' && s[i] <= '9'
		case '+':
			ok = s[i] == '+' || s[i] == '-'
		}
		if !ok {
			return false
		}
	}
	return true
}

// hours reads {"days": ["mon-fri"], "from": "09:00", "to": "17:00", "tz": "Europe/Berlin"}; nil when it is wrong. Nothing has a default:
// what is left out would be guessed.
func (r *reader) hours(v *hujson.Value, what string) *hours {
	before := r.found()
	h := &hours{}
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"days", func(v *hujson.Value) { seen["days"] = true; h.days = r.days(v, what+".days") }},
		{"from", func(v *hujson.Value) { seen["from"] = true; h.start = r.clock(v, what+".from", 24*60-1) }},
		{"to", func(v *hujson.Value) { seen["to"] = true; h.end = r.clock(v, what+".to", 24*60) }},
		{"tz", func(v *hujson.Value) { seen["tz"] = true; h.zone = r.zone(v, what+".tz") }},
	})
	if isObject {
		r.require(v, what, seen, "days", "from", "to", "tz")
	}
	if r.found() == before && h.start == h.end {
		r.err(v.StartOffset, "for whole days write `00:00` to `24:00`", "%s end when they begin", what)
	}
	if r.found() != before {
		return nil
	}
	return h
}

// dayNames are the days as written, Monday first.
var dayNames = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

func dayName(d time.Weekday) string { return dayNames[(int(d)+6)%7] }

// days reads a list of days and ranges of days, "mon" and "sat-mon".
func (r *reader) days(v *hujson.Value, what string) (out []time.Weekday) {
	var on [7]bool // Monday first
	r.nonempty(v, what, "name a day, or leave `hours` out to demand none", func(v *hujson.Value) {
		s, ok := r.text(v, "an element of "+what)
		if !ok {
			return
		}
		first, last, isRange := strings.Cut(s, "-")
		from, ok := r.day(first, v.StartOffset)
		if !ok {
			return
		}
		to := from
		if isRange {
			if to, ok = r.day(last, v.StartOffset); !ok {
				return
			}
			if from == to {
				r.err(v.StartOffset, fmt.Sprintf("write %s, or `mon-sun` for every day", quote(first)), "%s is a range from a day to itself", quote(s))
				return
			}
		}
		for d := from; ; d = (d + 1) % 7 {
			on[d] = true
			if d == to {
				return
			}
		}
	})
	for d, held := range on {
		if held {
			out = append(out, time.Weekday((d+1)%7))
		}
	}
	return out
}

// day returns the place of a day in dayNames.
func (r *reader) day(s string, at int) (int, bool) {
	if i := slices.Index(dayNames, s); i >= 0 {
		return i, true
	}
	hint := "days are " + strings.Join(dayNames, ", ")
	if len(s) >= 3 && slices.Contains(dayNames, strings.ToLower(s[:3])) {
		hint = fmt.Sprintf("did you mean %s?", quote(strings.ToLower(s[:3])))
	} else if near := r.nearest(s, dayNames); near != "" {
		hint = fmt.Sprintf("did you mean %s?", quote(near))
	}
	r.err(at, hint, "%s is not a day", quote(s))
	return 0, false
}

// clock reads "09:00" as minutes from midnight, at most latest.
func (r *reader) clock(v *hujson.Value, what string, latest int) int {
	s, ok := r.text(v, what)
	if !ok {
		return 0
	}
	if shaped(s, "00:00") {
		hour, minute := int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
		if minute < 60 && hour*60+minute <= latest {
			return hour*60 + minute
		}
	}
	r.err(v.StartOffset, "write it as in `09:00`, of 24 hours", "%s: %s is not a time of day", what, quote(s))
	return 0
}

// maxZone bounds the name of a time zone; the longest of the tz database have 32 bytes.
const maxZone = 64

// zone reads the name of a time zone. Only its shape is checked, "UTC" or "Area/City": abbreviations such as CST name several zones, and
// "Local" a different one on every machine.
func (r *reader) zone(v *hujson.Value, what string) string {
	s, ok := r.text(v, what)
	if !ok || zoneShaped(s) {
		return s
	}
	hint := "write it as in `Europe/Berlin` or `UTC`"
	if strings.EqualFold(s, "utc") || s == "Z" || strings.EqualFold(s, "gmt") {
		hint = "did you mean `UTC`?"
	}
	r.err(v.StartOffset, hint, "%s: %s is not the name of a time zone", what, quote(s))
	return ""
}

// zoneShaped holds each part to what the tz database uses, so that none is empty or leads out of a directory.
func zoneShaped(s string) bool {
	parts := strings.Split(s, "/")
	if s == "UTC" {
		return true
	}
	bad := func(part string) bool {
		return part == "" || part[0] < 'A' || part[0] > 'Z' || strings.ContainsFunc(part, func(c rune) bool { return !isAlnum(c) && !strings.ContainsRune("_+-", c) })
	}
	return len(s) <= maxZone && len(parts) >= 2 && len(parts) <= 3 && !slices.ContainsFunc(parts, bad)
}

// approval reads {"by": [...], "for": "1h", "reason": true}; nil when it is wrong.
func (r *reader) approval(v *hujson.Value, what string) *approval {
	before := r.found()
	a := &approval{}
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"by", func(v *hujson.Value) { seen["by"] = true; a.By = r.approvers(v, what+".by") }},
		{"for", func(v *hujson.Value) { seen["for"] = true; a.For = r.duration(v, what+".for").String() }},
		{"reason", func(v *hujson.Value) { a.Reason = r.flag(v, what+".reason") }},
	})
	if isObject {
		r.require(v, what, seen, "by", "for")
	}
	if r.found() != before {
		return nil
	}
	return a
}

// approvers reads who may approve: people only, for a machine that approves is no second pair of eyes.
func (r *reader) approvers(v *hujson.Value, what string) []string {
	by := map[string]bool{}
	r.nonempty(v, what, "name who may approve, or leave `approval` out to demand none", func(v *hujson.Value) {
		s, ok := r.text(v, "an element of "+what)
		if !ok {
			return
		}
		at := v.StartOffset
		switch {
		case strings.HasPrefix(s, "group:"):
			g, ok := r.knownGroup(s, at)
			if !ok {
				return
			}
			by[s] = true
			if len(g.users) == 0 {
				r.warn(at, "", "nobody is in %s", quote(s))
			}
		case s == "autogroup:admin":
			by[s] = true
		case strings.Contains(s, "@") && !strings.Contains(s, ":"):
			if login, ok := r.login(s, at); ok {
				by[login] = true
			}
		default:
			r.err(at, "", "%s cannot approve: users, groups and `autogroup:admin` can", quote(s))
		}
	})
	return sortedKeys(by)
}

// flag reads true or false.
func (r *reader) flag(v *hujson.Value, what string) bool {
	k := v.Value.Kind()
	if k != 't' && k != 'f' {
		r.err(v.StartOffset, "", "%s must be true or false, not %s", what, kindName(v))
	}
	return k == 't'
}
