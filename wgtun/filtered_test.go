package wgtun

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuildsAreFiltered keeps the tag of unfiltered.go out of every build but that of the integration tests.
func TestBuildsAreFiltered(t *testing.T) {
	if !filtered {
		t.Error("this build does not filter: it is tagged picket_unfiltered")
	}
	builds, err := filepath.Glob("../.ci/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(builds, "../Makefile", "../Dockerfile") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "picket_unfiltered") {
			t.Errorf("%s builds with the tag picket_unfiltered, which is for integration tests alone", path)
		}
	}
}
