package gitpolicy

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// TestNoFileStaysOpen fetches with the collector off, which would close what was forgotten: many commits in a short time must not take all the
// files that a process may have.
func TestNoFileStaysOpen(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	r := newRepo(t)
	first := r.commit("policy.hujson", []byte(policyOne), "first")
	s := local(t, r)
	for _, text := range []string{"{}", "{ }", policyOne} {
		r.commit("policy.hujson", []byte(text), "another")
		if _, err := s.Fetch(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, _ := os.Readlink(f); strings.Contains(to, filepath.Join(".git", "objects")) {
			t.Errorf("%s is still open", to)
		}
	}
}
