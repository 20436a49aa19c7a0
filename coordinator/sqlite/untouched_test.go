package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/coordinator/sqlite"
)

// TestRefusedFilesUntouched refuses databases beside which a WAL lies, as after a kill -9: looking must neither fold it into the file nor remove
// it, since what is in it may be all that can be saved.
func TestRefusedFilesUntouched(t *testing.T) {
	from := filepath.Join(t.TempDir(), "picket.db")
	s, err := sqlite.Open(t.Context(), from, "net-a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	update(t, s, func(tx coordinator.Tx) error { return tx.SetGeneration(7) })
	for _, c := range []struct {
		name    string
		network protocol.NetworkID
		damage  func(path string) error
		want    error
	}{
		{"another network's", "net-b", func(string) error { return nil }, sqlite.ErrForeign},
		{"cut short", "net-a", func(p string) error { return os.Truncate(p, 4096) }, sqlite.ErrCorrupt},
		{"emptied", "net-a", func(p string) error { return os.Truncate(p, 0) }, sqlite.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, suffix := range []string{"", "-wal"} {
				text, err := os.ReadFile(from + suffix)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "picket.db"+suffix), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "picket.db")
			if err := c.damage(path); err != nil {
				t.Fatal(err)
			}
			before := [2]string{read(t, path), read(t, path+"-wal")}
			got, err := sqlite.Open(t.Context(), path, c.network)
			if err == nil {
				got.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if d := [2]string{read(t, path), read(t, path+"-wal")}; d != before {
				t.Error("the files were changed")
			}
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
