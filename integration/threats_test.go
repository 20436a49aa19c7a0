package integration

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go/ast"
)

// named finds the tests that THREATS.md names.
var named = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Za-z0-9_]+`)

// TestThreatsNameRealTests keeps THREATS.md from promising a test that is not there.
func TestThreatsNameRealTests(t *testing.T) {
	text, err := os.ReadFile("../THREATS.md")
	if err != nil {
		t.Fatal(err)
	}
	have := tests(t)
	all := named.FindAllString(string(text), -1)
	if len(all) < 50 {
		t.Fatalf("only %d tests are named", len(all))
	}
	for _, name := range all {
		if !have[name] {
			t.Errorf("THREATS.md names %s, which does not exist", name)
		}
	}
}

// tests is every test and fuzz function of the tree.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	have := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				have[fn.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return have
}
