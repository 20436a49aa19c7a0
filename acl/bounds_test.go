package acl

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tailscale/hujson"
)

func TestPolicyOver1MiBIsRefusedUnread(t *testing.T) {
	_, err := Parse([]byte(strings.Repeat("[", 50<<20)))
	want := "the policy has 52428800 bytes: at most 1048576 (1 MiB) are read"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Without the scan this is no failing test but a dead process: hujson's recursion overflows the stack (R33).
func TestPolicyNestedAMillionDeepIsRefused(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("[", maxText),
		strings.Repeat(`{"a":`, maxText/5),
		`{"a":"[[\"", /* "[ */ "b": ` + strings.Repeat("[", maxText-100),
		"// \"\n" + strings.Repeat("[", maxText-100),
		`"\\"` + strings.Repeat("[", maxText-100),
		strings.Repeat("]", maxText/2) + strings.Repeat("[", maxText/2),
	} {
		_, err := Parse([]byte(text))
		if err == nil {
			t.Errorf("%.30s… is accepted", text)
		}
	}
}

func TestDepthIsCountedAsTheParserCounts(t *testing.T) {
	for text, deep := range map[string]bool{
		strings.Repeat("[", 64) + strings.Repeat("]", 64):                                   false,
		strings.Repeat("[", 65) + strings.Repeat("]", 65):                                   true,
		strings.Repeat("[", 63) + `{"a": "[[[\"[["}` + strings.Repeat("]", 63):              false,
		strings.Repeat("[", 64) + "/* [[[ */ // [[[\n" + strings.Repeat("]", 64):            false,
		"[" + strings.Repeat("[],", 200) + "]":                                              false,
		strings.Repeat("[", 60) + "//" + strings.Repeat("[", 9) + "\n[[[[[":                 true,
		strings.Repeat("[", 60) + "/*" + strings.Repeat("[", 9) + "*/ [[[[" + `"]]]]", [`:   true,
		strings.Repeat("[", 60) + `"\\", [[[[[`:                                             true,
		strings.Repeat("[", 60) + `"\"", "[[[[[[", 1` + strings.Repeat("]", 60):             false,
		strings.Repeat("[", 60) + "/**/" + strings.Repeat("[", 4) + strings.Repeat("]", 64): false,
	} {
		if got := tooDeep([]byte(text)) >= 0; got != deep {
			t.Errorf("%s: too deep %v, want %v", text, got, deep)
		}
	}
}

// hostile are texts within the bound that are made to cost more than they weigh.
func hostile() map[string]string {
	fill := func(head, tail string, each func(i int) string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := 0; b.Len() < maxText-len(tail)-1200; i++ {
			b.WriteString(each(i))
		}
		return b.String() + tail
	}
	return map[string]string{
		"empty lists":          fill("[", "]", func(int) string { return "[]," }),
		"one string":           `"` + strings.Repeat("a", maxText-10) + `"`,
		"unknown fields":       fill("{", "}", func(i int) string { return fmt.Sprintf(`"x%d":0,`, i) }),
		"one field many times": fill("{", "}", func(int) string { return `"acls":0,` }),
		"groups doubling": fill(`{"groups":{"group:0":["a@x.org"],`, "}}", func(i int) string {
			return fmt.Sprintf(`"group:%d":["group:%d","group:%d"],`, i+1, i, i)
		}),
		"groups growing": fill(`{"groups":{"group:0":[],`, "}}", func(i int) string {
			return fmt.Sprintf(`"group:%d":["group:%d","u%d@x.org"],`, i+1, i, i)
		}),
		"one group in many": fill(`{"groups":{"group:a":[`+strings.Repeat(`"a@x.org",`, 1000)+`],`, "}}", func(i int) string {
			return fmt.Sprintf(`"group:%d":["group:a"],`, i)
		}),
		"a long circle": fill(`{"groups":{"group:a":["group:0"],`, `"group:30000":["group:a"]}}`, func(i int) string {
			if i >= 30000 {
				return strings.Repeat(" ", 1000)
			}
			return fmt.Sprintf(`"group:%d":["group:%d"],`, i, i+1)
		}),
		"tags owning tags": fill(`{"tagOwners":{"tag:a0":[],`, "}}", func(i int) string {
			return fmt.Sprintf(`"tag:a%d":["tag:a%d"],`, i+1, i)
		}),
		"unknown names among many": fill(`{"groups":{`, `},"grants":[{"src":[`+strings.Repeat(`"group:enginering",`, 5000)+`],"dst":["*"],"ip":["*"]}]}`,
			func(i int) string {
				if i > 20000 {
					return strings.Repeat(" ", 1000)
				}
				return fmt.Sprintf(`"group:engineer%d":[],`, i)
			}),
		"unknown logins": fill(`{"grants":[{"src":[`, `],"dst":["*"],"ip":["*"]}]}`, func(i int) string { return fmt.Sprintf(`"u%d",`, i) }),
		"sources by ports": fill(`{"acls":[{"action":"accept","src":[`, `]}]}`, func(i int) string {
			switch half := 30000; {
			case i < half:
				return fmt.Sprintf(`"u%d@x.org",`, i)
			case i == half:
				return `"*"],"dst":[`
			default:
				return fmt.Sprintf(`"*:%d",`, i%65536)
			}
		}),
		"every second port": fill(`{"grants":[{"src":["*"],"dst":["*"],"ip":["`, `1"]}]}`, func(i int) string { return fmt.Sprintf("%d,", i*2%65536) }),
		"many small rules":  fill(`{"grants":[`, `]}`, func(int) string { return `{"src":["*"],"dst":["*"],"ip":["*"]},` }),
		"many broken rules": fill(`{"grants":[`, `]}`, func(int) string { return `{},` }),
	}
}

func TestHostilePoliciesCostLittle(t *testing.T) {
	for name, text := range hostile() {
		t.Run(name, func(t *testing.T) {
			if len(text) > maxText {
				t.Fatalf("the text has %d bytes", len(text))
			}
			start := cpuTime()
			p, err := Parse([]byte(text))
			if err == nil {
				mustCompile(t, p, mustDirectory(t, viewDirectory))
			}
			// Several times what the slowest takes.
			if took := cpuTime() - start; took > 3*time.Second*slowness {
				t.Errorf("took %s", took)
			}
		})
	}
}

// What would multiply is refused in words, not half compiled.
func TestPoliciesThatMultiplyAreRefused(t *testing.T) {
	texts := hostile()
	for name, want := range map[string]string{
		"groups growing":   "line 1, column 12: nested groups come to more than 1000000 memberships: nest less",
		"sources by ports": "line 1, column 1: the rules come to ",
		"a long circle":    "contains itself: group:",
	} {
		if _, err := Parse([]byte(texts[name])); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %.200v, want %s", name, err, want)
		}
	}
}

func TestErrorsBeyondAHundredAreCountedOnly(t *testing.T) {
	for n, last := range map[int]string{
		100:    "line 1, column 210: grants[99] must be an object { … }, not a number",
		101:    "and 1 more errors",
		5000:   "and 4900 more errors",
		500000: "and 499900 more errors",
	} {
		_, err := Parse([]byte(`{"grants":[` + strings.Repeat("1,", n) + `]}`))
		all, _ := err.(Errors)
		if len(all) != min(n, maxReported+1) || all[len(all)-1].String() != last {
			t.Errorf("%d errors: %d reported, the last is %s, want %s", n, len(all), all[len(all)-1], last)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range hostile() {
		f.Add([]byte(text[:2000]))
	}
	f.Add([]byte(viewPolicy))
	for _, text := range goldenPolicies(f) {
		f.Add(text)
	}
	d := mustDirectory(f, viewDirectory)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if (err == nil) != (p != nil) {
			t.Fatalf("policy %v with error %v", p, err)
		}
		if err != nil {
			if all, ok := err.(Errors); !ok || len(all) == 0 {
				t.Fatalf("refused with %T, %v", err, err)
			}
			return
		}
		c := mustCompile(t, p, d)
		for _, n := range d.Nodes {
			if _, ok := c.View(n.ID); !ok {
				t.Fatalf("no view for %s", n.ID)
			}
		}
		p.Test(d, now)
		p.Warnings()
	})
}

// FuzzDepth holds the scan to what hujson then does: no text that passes may nest deeper than the bound.
func FuzzDepth(f *testing.F) {
	f.Add([]byte(`{"a": "[", /* ] */ "b": [[]] // ]` + "\n}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4096 || tooDeep(text) >= 0 {
			return
		}
		v, _ := hujson.Parse(text)
		if d := depthOf(&v); d > maxDepth {
			t.Fatalf("depth %d passes", d)
		}
	})
}

func depthOf(v *hujson.Value) (deepest int) {
	switch x := v.Value.(type) {
	case *hujson.Array:
		for i := range x.Elements {
			deepest = max(deepest, depthOf(&x.Elements[i]))
		}
		return deepest + 1
	case *hujson.Object:
		for i := range x.Members {
			deepest = max(deepest, depthOf(&x.Members[i].Value))
		}
		return deepest + 1
	}
	return 0
}
