package acl

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tailscale/hujson"
)

// readWith gives text's one value to read, with a new reader, and returns that reader.
func readWith(t testing.TB, text string, read func(r *reader, v *hujson.Value)) *reader {
	t.Helper()
	v, err := hujson.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{src: newSource([]byte(text)), pol: Deny()}
	read(r, &v)
	return r
}

func mustAssert(t testing.TB, s string) assertion {
	t.Helper()
	a, m := new(suggester).assertion(s)
	if m.problem != "" {
		t.Fatalf("%s: %s", s, m.problem)
	}
	return a
}

func TestAssertionHolds(t *testing.T) {
	device := map[string]string{
		"node:os": "macos", "node:osVersion": "13.4.1", "node:tsVersion": "1.86.2", "node:tsAutoUpdate": "true", "node:tsStateEncrypted": "yes",
		"ip:country": "DE", "custom:tier": "prod", "custom:n": "70", "custom:f": "-0.50", "custom:word": "seventy", "custom:empty": "",
		"custom:big": "9007199254740993",
	}
	for _, c := range []struct {
		assertion string
		want      bool
	}{
		// What a device lacks satisfies nothing but NOT SET.
		{"custom:none == 'x'", false},
		{"custom:none != 'x'", false},
		{"custom:none NOT IN ['x']", false},
		{"custom:none IN ['x']", false},
		{"custom:none < 1", false},
		{"custom:none >= 1", false},
		{"custom:none == false", false},
		{"custom:none != true", false},
		{"custom:none IS SET", false},
		{"custom:none NOT SET", true},
		// Nor does an empty value, which many programs write for none: not even NOT SET.
		{"custom:empty != 'x'", false},
		{"custom:empty IS SET", false},
		{"custom:empty NOT SET", false},
		// A value that is not of the literal's type satisfies nothing.
		{"custom:word != 70", false},
		{"custom:word NOT IN [1, 2]", false},
		{"custom:word <= 70", false},
		{"custom:word != true", false},
		{"node:tsStateEncrypted != true", false},
		{"node:tsStateEncrypted == false", false},
		{"node:tsStateEncrypted IS SET", true},

		{"node:os == 'Macos'", false},
		{"node:os == 'macos'", true},
		{"node:os != 'macos'", false},
		{"node:os != 'linux'", true},
		{"node:os IN ['linux', 'windows']", false},
		{"node:os IN ['linux', 'macos']", true},
		{"node:os NOT IN ['linux', 'macos']", false},
		{"node:os NOT IN ['linux']", true},
		{"ip:country in ['CA', 'DE']", true},
		{"custom:tier NOT SET", false},
		{"custom:tier IS SET", true},
		{"node:tsAutoUpdate", true},
		{"node:tsAutoUpdate == false", false},
		{"node:tsAutoUpdate != false", true},

		{"node:osVersion >= '13.10'", false},
		{"node:osVersion >= '13.4'", true},
		{"node:osVersion == '13.4'", false},
		{"node:osVersion == '13.04.1'", true},
		{"node:osVersion IN ['13.4', '13.4.1']", true},
		{"node:osVersion NOT IN ['13.4.1']", false},
		{"node:osVersion < '13.4.1'", false},
		{"node:osVersion <= '13.4.1'", true},
		{"node:osVersion > '13.4.1'", false},

		{"custom:n >= 70.5", false},
		{"custom:n >= 70", true},
		{"custom:n == 70.0", true},
		{"custom:n != 7", true},
		{"custom:n IN [7, 70]", true},
		{"custom:f < -0.6", false},
		{"custom:f == -0.5", true},
		{"custom:f < 0", true},
		{"custom:big == 9007199254740992", false}, // equal as floats
		{"custom:big > 9007199254740992", true},
	} {
		if got := mustAssert(t, c.assertion).holds(device); got != c.want {
			t.Errorf("%s holds: %v, want %v", c.assertion, got, c.want)
		}
	}
	if (assertion{}).holds(map[string]string{"": "x"}) || (assertion{op: opUnequal}).holds(map[string]string{"": "x"}) {
		t.Error("an assertion without a value holds")
	}
}

// TestVersionNonsenseNeverMatches: Tailscale's order puts any word behind any version, so that reporting "zzz" passes every minimum.
func TestVersionNonsenseNeverMatches(t *testing.T) {
	for _, have := range []string{"", "zzz", "v99", "-1", " 99", "٩٩", strings.Repeat("9", maxValue+1)} {
		for _, op := range []string{"==", "!=", "<", "<=", ">", ">="} {
			if mustAssert(t, "node:osVersion "+op+" '13.4'").holds(map[string]string{"node:osVersion": have}) {
				t.Errorf("the version %q %s 13.4", have, op)
			}
		}
	}
}

func TestVersionOrder(t *testing.T) {
	for _, c := range []struct {
		v, w string
		want int
	}{
		// The cases of Tailscale's util/cmpver that concern versions.
		{"", "", 0},
		{"", "1.2.3", -1},
		{"2.0.0", "1.9.9", 1},
		{"1.9.0", "1.8.9", 1},
		{"1.9.9", "1.9.8", 1},
		{"1.9.8", "1.9.8", 0},
		{"1.10", "1.9", 1},
		{"0.97-120", "0.97-105", 1},
		{"0.96.1-0", "0.96-105", 1},
		{"10.0.19045.3324", "10.0.18362", 1},
		{"10.0.22631.2262", "10.0.22000", 1},
		{"10", "7", 1},
		{"7.1.2", "7", 1},
		{"15.6.1", "15.6", 1},
		{"4.4.302+", "4.0", 1},
		{"4.14.255-311-248.529.amzn2.x86_64", "4.0", 1},
		{"14.0-CURRENT", "14", 1},
		{"Synology 6.2.4; kernel=3.10.105", "Synology 6", 1},
		{"۱۱", "۲", -1},
		// Digits beyond any integer.
		{"99999999999999999999999999", "99999999999999999999999998", 1},
		{"100000000000000000000000000", "99999999999999999999999999", 1},
		{"007", "7", 0},
	} {
		if got, back := compareVersions(c.v, c.w), compareVersions(c.w, c.v); got != c.want || back != -c.want {
			t.Errorf("%q against %q is %d and %d, want %d", c.v, c.w, got, back, c.want)
		}
	}
}

func TestAssertionMistakes(t *testing.T) {
	for s, want := range map[string]string{
		"":                             "`\"\"` is not an attribute",
		"   ":                          "`\"\"` is not an attribute",
		"node:os ! 'macos'":            "unknown operator `!`",
		"node:os !== 'macos'":          "unknown operator `!==`",
		"node:os <<= 'macos'":          "unknown operator `<<=`",
		"node:os NOT   IN'a'":          "unknown operator `NOT`",
		"node:os IN":                   "IN has nothing to compare with",
		"node:os IN [":                 "the list of IN lacks a value",
		"node:os IN ['a'":              "the list of IN does not end",
		"node:os IN ['a']]":            "`]]` stands in the list of IN",
		"node:os == '":                 "the text `'` has no closing quote",
		"node:os == 'a\x00'":           "the text `a\\x00` holds a backslash or control character",
		"node:os == ''x":               "the text is empty, and no device's attribute is",
		"custom:x == ,":                "`\"\"` is neither text, a number, true nor false",
		"custom:x == 1 2":              "`2` stands after the value",
		"custom:x IN [1, '1']":         "the list of IN mixes types",
		"node:tsVersion == 1.40":       "`node:tsVersion` is a version, and versions stand in quotes",
		"node:tsVersion IN ['1', 'x']": "`x` is not a version",
		"custom:x == -":                "`-` is neither text, a number, true nor false",
		"custom:x == 1.":               "`1.` is neither text, a number, true nor false",
		"custom:x == NaN":              "`NaN` is neither text, a number, true nor false",
		"custom:ſ IS SET":              "`custom:ſ` is not an attribute",
		"custom:x == '" + strings.Repeat("v", maxValue+1) + "'":   "the text `" + strings.Repeat("v", maxQuoted) + "…` is longer than 255 bytes",
		"custom:" + strings.Repeat("x", maxAttribute) + " IS SET": "the attribute `custom:" + strings.Repeat("x", maxQuoted-7) + "…` is longer than 128 bytes",
		strings.Repeat(" ", maxAssertion+1):                       "it is longer than 4096 bytes",
		"custom:x IN [" + strings.Repeat("10000,", 680) + "1]":    "",
		"custom:x IN[" + manyNumbers(680) + "]":                   "it is longer than 4096 bytes when written out",
	} {
		a, m := new(suggester).assertion(s)
		if m.problem != want {
			t.Errorf("%q: %q, want %q", s, m.problem, want)
		}
		if m.problem != "" && !reflect.DeepEqual(a, assertion{}) && m.problem != "" && a.holds(map[string]string{"node:os": "macos"}) {
			t.Errorf("%q was refused and yet holds", s)
		}
	}
}

// manyNumbers are n different numbers of five digits without spaces.
func manyNumbers(n int) string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprint(10000 + i)
	}
	return strings.Join(texts, ",")
}

func TestAssertionText(t *testing.T) {
	for s, want := range map[string]string{
		"  node:os=='macos'  ":                 "node:os == 'macos'",
		"node:os\tIN['macos','linux','macos']": "node:os IN ['linux', 'macos']",
		"node:os not  in [ 'a' , 'b' ]":        "node:os NOT IN ['a', 'b']",
		"custom:x is set":                      "custom:x IS SET",
		"custom:x Not Set":                     "custom:x NOT SET",
		"custom:managed":                       "custom:managed == true",
		"custom:x>=007.50":                     "custom:x >= 7.5",
		"custom:x != -0.0":                     "custom:x != 0",
		"node:tsVersion >= '1.40'":             "node:tsVersion >= '1.40'",
		"kolide:authState == 'Will Block'":     "kolide:authState == 'Will Block'",
	} {
		if got := mustAssert(t, s).String(); got != want {
			t.Errorf("%q is written %q, want %q", s, got, want)
		}
	}
}

func TestPostureHoldsWhenAllAssertionsDo(t *testing.T) {
	p := &posture{assertions: []assertion{mustAssert(t, "node:os == 'macos'"), mustAssert(t, "node:osVersion >= '13.4'"), mustAssert(t, "custom:lost NOT SET")}}
	for _, c := range []struct {
		device  map[string]string
		failing []string
	}{
		{nil, []string{"node:os == 'macos', but it is not set", "node:osVersion >= '13.4', but it is not set"}},
		{map[string]string{"node:os": "macos", "node:osVersion": "12.6"}, []string{"node:osVersion >= '13.4', but it is `12.6`"}},
		{map[string]string{"node:os": "macos\x1b[2J", "node:osVersion": "14"}, []string{"node:os == 'macos', but it is `macos\\x1b[2J`"}},
		{map[string]string{"node:os": "macos", "node:osVersion": "14", "custom:lost": "true"}, []string{"custom:lost NOT SET, but it is `true`"}},
		{map[string]string{"node:os": "macos", "node:osVersion": "14"}, nil},
	} {
		if got := p.failing(c.device); !cmp.Equal(got, c.failing) || p.holds(c.device) != (c.failing == nil) {
			t.Errorf("%v: holds %v, failing %q, want %q", c.device, p.holds(c.device), got, c.failing)
		}
	}
	if (&posture{}).holds(nil) || (*posture)(nil).holds(nil) {
		t.Error("a posture that asserts nothing holds")
	}
}

const somePostures = `{"posture:b": ["node:os == 'linux'"], "posture:a-1.x_y": ["custom:x", "node:os IN ['macos']"]}`

func TestPosturesAreRead(t *testing.T) {
	r := readWith(t, somePostures, (*reader).postures)
	if err := r.failed(r.src); err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for name, p := range r.pol.postures {
		for _, a := range p.assertions {
			got[name] = append(got[name], a.String())
		}
	}
	want := map[string][]string{"posture:b": {"node:os == 'linux'"}, "posture:a-1.x_y": {"custom:x == true", "node:os IN ['macos']"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("postures (-want +got):\n%s", d)
	}
}

func TestPosturesAreBounded(t *testing.T) {
	many := `{"posture:a": [` + strings.Repeat(`"custom:x",`, maxAssertions+1) + `]}`
	r := readWith(t, many, (*reader).postures)
	if got, want := fmt.Sprint(r.failed(r.src)), "line 1, column 15: `posture:a` has 101 assertions, at most 100 are read"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var b strings.Builder
	for i := range MaxPostures + 1 {
		fmt.Fprintf(&b, "%q: [%q],\n", fmt.Sprintf("posture:p%d", i), "custom:x")
	}
	r = readWith(t, "{"+b.String()+"}", (*reader).postures)
	if got, want := fmt.Sprint(r.failed(r.src)), "line 1, column 1: `postures` has 1001 postures, at most 1000 are read"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPostureReferences(t *testing.T) {
	for _, c := range []struct {
		list string
		want string
		errs string
	}{
		{`[]`, "[]", "line 1, column 1: acls[0].srcPosture is empty: name postures, or leave `srcPosture` out and `defaultSrcPosture` applies"},
		{`["posture:c"]`, "[]", "line 1, column 2: unknown posture `posture:c`: did you mean `posture:b`, line 1?"},
		{`["posture:B"]`, "[]", "line 1, column 2: unknown posture `posture:B`: did you mean `posture:b`, line 1?"},
		{`["b"]`, "[]", "line 1, column 2: unknown posture `b`: did you mean `posture:b`, line 1?"},
		{`["custom:x"]`, "[]", "line 1, column 2: `custom:x` is an assertion, not the name of a posture: define a posture with it in `postures` and name that here"},
		{`["posture:b", "posture:a-1.x_y", "posture:b"]`, "[posture:a-1.x_y posture:b]", ""},
	} {
		defined := readWith(t, somePostures, (*reader).postures)
		var got []string
		r := readWith(t, c.list, func(r *reader, v *hujson.Value) {
			r.pol.postures, r.postureNames = defined.pol.postures, defined.postureNames
			got = r.srcPosture(v, "acls[0]")
			r.errors = nil
			r.defaultSrcPosture(v)
			r.errors = nil
			if fmt.Sprint(r.pol.defaultPosture) != c.want {
				t.Errorf("%s: by default %v", c.list, r.pol.defaultPosture)
			}
			r.srcPosture(v, "acls[0]")
		})
		errs := ""
		if bad := r.failed(r.src); bad != nil {
			errs = bad.Error()
		}
		if fmt.Sprint(got) != c.want || errs != c.errs {
			t.Errorf("%s: %v and %q, want %s and %q", c.list, got, errs, c.want, c.errs)
		}
	}
}

func TestPosturesThatNoDeviceCanHaveAreSuspected(t *testing.T) {
	r := readWith(t, `{"posture:a": [
	  "node:os != 'mac'",
	  "node:tsReleaseTrack IN ['stable', 'beta']",
	  "ip:country NOT IN ['de']",
	  "node:os == 'linux'", "node:tsReleaseTrack == 'unstable'", "ip:country == 'DE'", "custom:os == 'mac'", "node:os IS SET",
	]}`, (*reader).postures)
	if err := r.failed(r.src); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range locate(r.src, r.warnings, SeverityWarning) {
		got = append(got, d.String())
	}
	want := []string{
		"line 2, column 4: warning: `node:os != 'mac'`: no device has the node:os `mac`: did you mean `macos`?",
		"line 3, column 4: warning: `node:tsReleaseTrack IN ['stable', 'beta']`: no device has the node:tsReleaseTrack `beta`: known are stable, unstable",
		"line 4, column 4: warning: `ip:country NOT IN ['de']`: no device has the country `de`: countries are two capital letters, as in `DE`",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("warnings (-want +got):\n%s", d)
	}
}

func TestPostureAttributesOfTests(t *testing.T) {
	var got map[string]string
	r := readWith(t, `{"node:os": "windows", "node:osVersion": "10.0.19045", "node:tsAutoUpdate": false, "custom:x": true, "custom:n": 3, "custom:f": -1.50}`,
		func(r *reader, v *hujson.Value) { got = r.postureAttrs(v, "tests[0]") })
	if err := r.failed(r.src); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"node:os": "windows", "node:osVersion": "10.0.19045", "node:tsAutoUpdate": "false", "custom:x": "true", "custom:n": "3", "custom:f": "-1.5"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("attributes (-want +got):\n%s", d)
	}
}

// FuzzAssertion: no text panics, and what is accepted has one form.
func FuzzAssertion(f *testing.F) {
	for _, s := range []string{
		"", "node:os == 'macos'", "node:os IN ['macos', 'linux']", "node:os not in['a']", "node:osVersion >= '13.4'", "node:tsAutoUpdate",
		"custom:x != -1.50", "custom:x IN [1,2.0,2]", "custom:x IS SET", "custom:x NOT SET", "custom:x <= 00", "ip:country == 'DE'", "custom:x ==",
		"custom:x IN [true, false]", "custom:x IN ['a", "falcon:ztaScore>70", "node:os ~ 'x'", "custom:x IS NOT SET", "custom:x == 'ü'", "custom:x\xff",
	} {
		f.Add(s, "13.4.1")
	}
	f.Fuzz(func(t *testing.T, s, value string) {
		a, m := new(suggester).assertion(s)
		if m.problem != "" {
			if !reflect.DeepEqual(a, assertion{}) {
				t.Fatalf("%q is refused (%s) and yet is %v", s, m.problem, a)
			}
			return
		}
		text := a.String()
		b, m := new(suggester).assertion(text)
		if m.problem != "" || !reflect.DeepEqual(a, b) {
			t.Fatalf("%q is written %q, which is %v (%s)", s, text, b, m.problem)
		}
		for _, device := range []map[string]string{nil, {a.attribute: ""}, {a.attribute: value}} {
			if a.holds(device) != b.holds(device) {
				t.Fatalf("%q and %q differ", s, text)
			}
		}
		if a.holds(nil) != (a.op == opNotSet) || a.holds(map[string]string{a.attribute: ""}) {
			t.Fatalf("%q holds of nothing", s)
		}
	})
}
