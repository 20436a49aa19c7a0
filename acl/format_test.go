package acl

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tailscale/hujson"
)

func TestFormatRefusesWhatDoesNotParse(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":       "",
		"no end":        `{"groups": {`,
		"two":           `{} {}`,
		"too deep":      strings.Repeat("[", 65) + strings.Repeat("]", 65),
		"broken UTF-8":  "{\"a\": \"\xff\"}",
		"hidden":        "{/*\u202e*/}",
		"a lone return": "{}\r",
	} {
		out, err := Format([]byte(text))
		var all Errors
		if out != nil || !errors.As(err, &all) || len(all) != 1 {
			t.Errorf("%s: Format = %q, %v, want one error", name, out, err)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"nothing to lay out", "{}", "{}\n"},
		{"not even a policy", ` [ 1,2 , ] `, "[1, 2]\n"},
		{"escapes that would hide text stay", `{"a":"\u202e\u2028\u0041\/"}`, "{\"a\": \"\\u202e\\u2028\\u0041\\/\"}\n"},
		{"an escape that is no character stays", `{"a":"\ud800"}`, "{\"a\": \"\\ud800\"}\n"},
		{"names and numbers stay", `{"\u0061": 1.50e+1, "a": 0}`, "{\"\\u0061\": 1.50e+1, \"a\": 0}\n"},
		{"standard JSON stays standard", "{\"a\":[\n1]}", "{\"a\": [\n\t1\n]}\n"},
		{"Windows lines", "// a\r\n{\r\n\"a\":1}\r\n", "// a\n{\n\t\"a\": 1,\n}\n"},
		{"comments stay where they are",
			"// top\n{ /* in */ \"a\": 1, // behind a\n\n\n\n// before b\n\"bb\":[\n1,2], // behind b\n// end\n}\n// after\n",
			"// top\n{\n\t/* in */ \"a\": 1, // behind a\n\n\t// before b\n\t\"bb\": [\n\t\t1,\n\t\t2,\n\t], // behind b\n\t// end\n}\n// after\n"},
	} {
		got, err := Format([]byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestFormatNeverChangesMeaning lays out every text of the archives that parses, and compares what Parse makes of it, places aside.
func TestFormatNeverChangesMeaning(t *testing.T) {
	count := 0
	for _, text := range append(goldenPolicies(t), documentedPolicies(t)...) {
		was := bytes.Clone(text)
		if out, err := Format(text); err == nil {
			count++
			if !bytes.Equal(text, was) {
				t.Errorf("Format wrote into its argument: %q became %q", was, text)
			}
			checkFormat(t, text, out)
		}
	}
	if count < 50 {
		t.Errorf("only %d texts were laid out", count)
	}
}

// documentedPolicies are the policies that stand in documents.
func documentedPolicies(t *testing.T) (out [][]byte) {
	t.Helper()
	var paths []string
	for _, pattern := range []string{"../*.md", "../docs/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(b), "```json")[1:] {
			_, block, _ = strings.Cut(block, "\n")
			block, _, _ = strings.Cut(block, "```")
			out = append(out, []byte(block))
		}
	}
	if len(out) == 0 {
		t.Error("no document has a policy")
	}
	return out
}

// checkFormat holds out, the layout of text, to what Format promises.
func checkFormat(t *testing.T, text, out []byte) {
	t.Helper()
	again, err := Format(out)
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("of %q\nthe layout of the layout is another, or none (%v):\n%s", text, err, cmp.Diff(string(out), string(again)))
	}
	if before, after := minimized(t, text), minimized(t, out); before != after {
		t.Errorf("of %q the content changed (-text +layout):\n%s", text, cmp.Diff(before, after))
	}
	before, errBefore := Parse(text)
	after, errAfter := Parse(out)
	if (errBefore == nil) != (errAfter == nil) {
		t.Errorf("of %q: Parse says %v, of the layout %v", text, errBefore, errAfter)
	} else if before != nil && len(before.rules)+len(before.denies) != len(after.rules)+len(after.denies) {
		t.Errorf("of %q: other rules", text)
	} else if before != nil && !reflect.DeepEqual(unplaced(before), unplaced(after)) {
		t.Errorf("of %q: other rules", text)
	}
}

// minimized is text without space, comments and trailing commas.
func minimized(t *testing.T, text []byte) string {
	t.Helper()
	b, err := hujson.Minimize(bytes.Clone(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unplaced are the rules without places in the file.
func unplaced(p *Policy) (out []statement) {
	for _, list := range [][]statement{p.rules, p.denies} {
		for _, s := range list {
			s.ref.Line, s.ref.Column = 0, 0
			out = append(out, s)
		}
	}
	return out
}

func FuzzFormat(f *testing.F) {
	for _, text := range goldenPolicies(f) {
		f.Add(text)
	}
	f.Add([]byte("{\"a\":1/**/,//\n}"))
	f.Add([]byte("/*\n * a\n\n  b */[\n/*\n*/]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if out, err := Format(text); err == nil {
			checkFormat(t, text, out)
		}
	})
}
