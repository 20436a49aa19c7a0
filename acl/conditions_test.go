package acl

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tailscale/hujson"
)

// readConditions reads an object of conditions, with a group:sec of alice and an empty group:none.
func readConditions(t testing.TB, text string) (conditions, *reader) {
	t.Helper()
	var c conditions
	r := readWith(t, text, func(r *reader, v *hujson.Value) {
		r.pol.groups = map[string]*group{"group:sec": {users: []string{"alice@example.com"}}, "group:none": {}}
		r.groupNames = []string{"group:sec", "group:none"}
		r.object(v, "grants[0]", r.conditionFields(&c, "grants[0]"))
	})
	return c, r
}

func TestConditionsBecomeRestrictions(t *testing.T) {
	for _, c := range []struct {
		text string
		want []Restriction
	}{
		{`{}`, nil},
		{`{"until": "2026-12-31T18:00Z", "log": "all"}`, nil},
		{`{"offlineFor": "5m", "approval": {"for": "90m", "by": ["group:sec", "Bob@example.com", "autogroup:admin", "group:sec"], "reason": true},
		   "hours": {"tz": "Europe/Berlin", "from": "09:00", "to": "17:00", "days": ["tue", "mon"]}, "risk": "low", "session": "12h", "mfa": "15m"}`,
			[]Restriction{
				{"mfa", "15m0s"},
				{"session", "12h0m0s"},
				{"risk", "low"},
				{"hours", "mon,tue 09:00-17:00 Europe/Berlin"},
				{"approval", `{"by":["autogroup:admin","bob@example.com","group:sec"],"for":"1h30m0s","reason":true}`},
				{"offlineFor", "5m0s"},
			}},
		{`{"approval": {"by": ["a&b@example.com"], "for": "7d", "reason": false}}`,
			[]Restriction{{"approval", `{"by":["a&b@example.com"],"for":"168h0m0s"}`}}},
		{`{"hours": {"days": ["mon-fri"], "from": "22:00", "to": "06:00", "tz": "UTC"}}`, []Restriction{{"hours", "mon,tue,wed,thu,fri 22:00-06:00 UTC"}}},
		{`{"hours": {"days": ["sat-mon", "sun"], "from": "00:00", "to": "24:00", "tz": "Etc/GMT+1"}}`, []Restriction{{"hours", "mon,sat,sun 00:00-24:00 Etc/GMT+1"}}},
		{`{"hours": {"days": ["mon-sun"], "from": "00:00", "to": "00:01", "tz": "America/Argentina/Buenos_Aires"}}`,
			[]Restriction{{"hours", "mon,tue,wed,thu,fri,sat,sun 00:00-00:01 America/Argentina/Buenos_Aires"}}},
	} {
		got, r := readConditions(t, c.text)
		if bad := r.failed(r.src); bad != nil {
			t.Errorf("%s: %v", c.text, bad)
		}
		if d := cmp.Diff(c.want, got.restrictions()); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.text, d)
		}
	}
}

// TestConditionThatIsWrongIsNotDropped: what cannot be read is an error, so that no grant comes out wider than it was written.
func TestConditionThatIsWrongIsNotDropped(t *testing.T) {
	for _, value := range []string{`null`, `true`, `0`, `""`, `[]`, `{}`, `"x"`, `"0s"`, `{"by": []}`, `{"days": []}`} {
		for _, f := range new(reader).conditionFields(&conditions{}, "") {
			text := fmt.Sprintf("{%q: %s}", f.name, value)
			if _, r := readConditions(t, text); r.found() == 0 {
				t.Errorf("%s is accepted", text)
			}
		}
	}
}

func TestEveryConditionIsRead(t *testing.T) {
	want := "mfa session risk hours until approval offlineFor log" // DESIGN.md section 5
	var got []string
	for _, f := range new(reader).conditionFields(&conditions{}, "") {
		got = append(got, f.name)
	}
	if strings.Join(got, " ") != want {
		t.Errorf("the fields are %q, want %q", got, want)
	}
	for _, log := range loggings {
		if c, r := readConditions(t, fmt.Sprintf(`{"log": %q}`, log)); c.log != logging(log) || r.found() > 0 {
			t.Errorf("log %s is read as %q", log, c.log)
		}
	}
	for _, level := range risks {
		if c, r := readConditions(t, fmt.Sprintf(`{"risk": %q}`, level)); c.risk != risk(level) || r.found() > 0 {
			t.Errorf("risk %s is read as %q", level, c.risk)
		}
	}
}

func TestApprovalByNobodyIsSuspected(t *testing.T) {
	_, r := readConditions(t, `{"approval": {"by": ["group:none"], "for": "1h"}}`)
	if r.found() != 0 || len(r.warnings) != 1 || r.warnings[0].message != "nobody is in `group:none`" {
		t.Errorf("errors %v, warnings %v", r.errors, r.warnings)
	}
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"":                         0,
		"0":                        0,
		"0s":                       0,
		"0d0h0m0s":                 0,
		"-1m":                      0,
		"+1m":                      0,
		"1":                        0,
		"m":                        0,
		"1.5h":                     0,
		"1ms":                      0,
		"1us":                      0,
		"1w":                       0,
		"1h 30m":                   0,
		" 1h":                      0,
		"1m1h":                     0,
		"1m1m":                     0,
		"1h30":                     0,
		"1H":                       0,
		"١h":                       0,
		"366d1s":                   0,
		"8785h":                    0,
		"99999999999999999999d":    0,
		"18446744073709551617s":    0,
		strings.Repeat("0", 40):    0,
		"1s":                       time.Second,
		"15m":                      15 * time.Minute,
		"12h":                      12 * time.Hour,
		"7d":                       7 * 24 * time.Hour,
		"1d2h3m4s":                 26*time.Hour + 3*time.Minute + 4*time.Second,
		"90m":                      90 * time.Minute,
		"0h5m":                     5 * time.Minute,
		"366d":                     maxCondition,
		"31622400s":                maxCondition,
		"00000000000000000000007d": 7 * 24 * time.Hour,
	} {
		got, m := parseDuration(s)
		if got != want || (m.problem == "") != (want > 0) {
			t.Errorf("%q is %v (%s), want %v", s, got, m.problem, want)
		}
	}
}

func TestUntil(t *testing.T) {
	for s, want := range map[string]int64{
		"2026-12-31T18:00Z":         1798740000000,
		"2026-12-31T18:00:00Z":      1798740000000,
		"2026-12-31T18:00:30Z":      1798740030000,
		"2026-12-31T19:00+01:00":    1798740000000,
		"2026-12-31T13:00:00-05:00": 1798740000000,
	} {
		c, r := readConditions(t, fmt.Sprintf(`{"until": %q}`, s))
		if got := c.untilMillis(); got != want || r.found() > 0 {
			t.Errorf("until %s is %d (%v), want %d", s, got, r.errors, want)
		}
	}
	if got := (conditions{}).untilMillis(); got != 0 {
		t.Errorf("no deadline is %d", got)
	}
	// A deadline of 0 milliseconds would be none.
	for _, s := range []string{"1970-01-01T00:00Z", "1970-01-01T01:00:00+01:00", "0001-01-01T00:00Z", "1969-12-31T23:59:59Z"} {
		if c, r := readConditions(t, fmt.Sprintf(`{"until": %q}`, s)); r.found() == 0 {
			t.Errorf("until %s is accepted as %d", s, c.untilMillis())
		}
	}
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"", "15m", "12h", "7d", "1d2h3m4s", "366d", "0s", "1.5h", "99999999999999999999d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, m := parseDuration(s)
		if (m.problem == "") != (d > 0) || d > maxCondition {
			t.Fatalf("%q is %v (%s)", s, d, m.problem)
		}
		if m.problem != "" {
			return
		}
		if back, _ := parseDuration(d.String()); back != d {
			t.Fatalf("%q is %v, and that %v", s, d, back)
		}
	})
}

func FuzzInstant(f *testing.F) {
	for _, s := range []string{"", "2026-12-31T18:00Z", "2026-12-31T18:00:00+01:00", "1970-01-01T00:00Z", "2026-02-30T18:00Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		when, m := parseInstant(s)
		millis := conditions{until: when}.untilMillis()
		if (m.problem == "") != (millis > 0) {
			t.Fatalf("%q is %v, %d (%s)", s, when, millis, m.problem)
		}
	})
}

func TestZoneNames(t *testing.T) {
	for _, s := range []string{
		"", "Local", "CET", "Z", "GMT", "utc", "europe/berlin", "posix/Europe/Berlin", "Europe", "Europe/", "/Berlin", "Europe//Berlin", "../UTC",
		"Europe/../UTC", "Europe/.", "Europe/Berlin\x00", "A/B/C/D", "Europe/Berl n", "Europe/Б", "Europe/" + strings.Repeat("B", maxZone),
	} {
		if zoneShaped(s) {
			t.Errorf("%q passes as a time zone", s)
		}
	}
	for _, s := range []string{"UTC", "Etc/UTC", "Europe/Berlin", "America/Port-au-Prince", "America/North_Dakota/New_Salem", "Etc/GMT-14"} {
		if !zoneShaped(s) {
			t.Errorf("%q does not pass as a time zone", s)
		}
	}
}
