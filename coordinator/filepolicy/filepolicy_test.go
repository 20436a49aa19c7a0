package filepolicy

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFetchRefuses(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, bytes.Repeat([]byte(" "), 50<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "none"), "there is no"},
		{"folder", dir, "no plain file"},
		{"50 MB", large, "at most 1048576"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := New(c.path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Fetch(t.Context(), ""); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Fetch: %v, want %q", err, c.want)
			}
		})
	}
}

func TestChangeIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.hujson")
	s, err := New(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	time.Sleep(2 * watchInterval) // the file system's clock, not ours, tells versions apart
	if err := os.WriteFile(path, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Changed():
	case <-ctx.Done():
		t.Fatal("the new file was not noticed")
	}
	got, err := s.Fetch(ctx, "")
	if err != nil || string(got.Text) != "{}" || got.Commit != "" || got.Rewritten {
		t.Errorf("Fetch: %+v, %v", got, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
