package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// Every flag that the documentation gives to the coordinator is one that it has.
func TestGitopsNamesRealFlags(t *testing.T) {
	text, err := os.ReadFile("../../docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, f := range serveFlags() {
		have = append(have, f.Names()...)
	}
	found := regexp.MustCompile("--(policy-[a-z-]+|webhook-[a-z-]+|url)").FindAllStringSubmatch(string(text), -1)
	if len(found) < 10 {
		t.Fatalf("only %d flags found", len(found))
	}
	for _, m := range found {
		if !slices.Contains(have, m[1]) {
			t.Errorf("docs/gitops.md names --%s, which serve does not have", m[1])
		}
	}
}
