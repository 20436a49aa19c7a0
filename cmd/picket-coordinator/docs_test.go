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

// Every flag that docs/relays.md gives to a relay is one that it has.
func TestRelaysNamesRealFlags(t *testing.T) {
	text, err := os.ReadFile("../../docs/relays.md")
	if err != nil {
		t.Fatal(err)
	}
	have := []string{"relay", "reflect-listen", "fingerprint"} // of serve, and of relays add
	for _, f := range relayCommand().Flags {
		have = append(have, f.Names()...)
	}
	found := regexp.MustCompile("--([a-z][a-z-]+)").FindAllStringSubmatch(string(text), -1)
	if len(found) < 10 {
		t.Fatalf("only %d flags found", len(found))
	}
	for _, m := range found {
		if !slices.Contains(have, m[1]) {
			t.Errorf("docs/relays.md names --%s, which no relay has", m[1])
		}
	}
}
