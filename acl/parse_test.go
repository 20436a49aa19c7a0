package acl

import (
	"os"
	"strings"
	"testing"
)

// documented is the policy in the package's documentation.
func documented(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "//\t{\n")
	body, _, ok := strings.Cut(rest, "//\t}\n")
	if !ok {
		t.Fatal("the package's documentation has no policy")
	}
	return "{\n" + strings.ReplaceAll(body, "//\t", "") + "}"
}

func TestPackageDocumentationsExampleParses(t *testing.T) {
	p := mustParse(t, documented(t))
	for _, f := range p.Test(&Directory{}, now) {
		t.Error(f)
	}
	if got := strings.Join(p.Groups("BOB@example.com"), " "); got != "group:oncall" {
		t.Errorf("bob's groups are %q", got)
	}
}
