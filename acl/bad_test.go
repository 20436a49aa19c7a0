package acl

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what the package says now into testdata, to be read before it is committed")

// badPolicies are archives of pairs: a policy NAME, whose backslash escapes \xNN, \r and \ufeff are bytes, and NAME.errors, what Parse
// says of it.
const badPolicies = "testdata/bad/*.txtar"

func TestBadPoliciesAreRefusedWithTheseErrors(t *testing.T) {
	count := 0
	eachArchive(t, badPolicies, func(t *testing.T, path string, a *txtar.Archive) {
		var out []txtar.File
		for _, f := range a.Files {
			if strings.HasSuffix(f.Name, ".errors") {
				continue
			}
			count++
			got := parseErrors(t, f.Name, unescape(f.Data))
			if want := fileNamed(a, f.Name+".errors"); !*update && got != want {
				t.Errorf("%s (-want +got):\n%s", f.Name, cmp.Diff(want, got))
			}
			out = append(out, f, txtar.File{Name: f.Name + ".errors", Data: []byte(got)})
		}
		rewrite(t, path, a, out)
	})
	if count < 150 {
		t.Errorf("only %d bad policies", count)
	}
}

// parseErrors is the text of Parse's error; a policy that parses fails the test.
func parseErrors(t *testing.T, name string, text []byte) string {
	p, err := Parse(text)
	var all Errors
	if !errors.As(err, &all) || len(all) == 0 || p != nil {
		t.Errorf("%s: accepted, or refused without Errors (%v)", name, err)
		return ""
	}
	return all.Error() + "\n"
}

// unescape gives archives, which are text, the bytes that text cannot show.
func unescape(b []byte) []byte {
	return []byte(strings.NewReplacer(`\xff`, "\xff", `\xc0\x80`, "\xc0\x80", `\CR`, "\r", `\BOM`, "\ufeff", `\RLO`, "\u202e", `\LS`, "\u2028", `\PS`, "\u2029").Replace(string(b)))
}

func eachArchive(t *testing.T, pattern string, check func(*testing.T, string, *txtar.Archive)) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no archives match %s (%v)", pattern, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			check(t, path, a)
		})
	}
}

func fileNamed(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func rewrite(t *testing.T, path string, a *txtar.Archive, files []txtar.File) {
	if !*update {
		return
	}
	a.Files = files
	if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

// goldenPolicies are the texts of every archive.
func goldenPolicies(t testing.TB) (out [][]byte) {
	t.Helper()
	for _, pattern := range []string{badPolicies, verdicts} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("no archives match %s (%v)", pattern, err)
		}
		for _, path := range paths {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range a.Files {
				out = append(out, unescape(f.Data))
			}
		}
	}
	return out
}
