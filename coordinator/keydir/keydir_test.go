package keydir

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// made returns a directory as a finished first start leaves it.
func made(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "coordinator")
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Database(), []byte("store"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Ready(); err != nil {
		t.Fatal(err)
	}
	d.Close()
	return dir
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(t *testing.T, dir string)
		want string // part of the sentence
	}{
		{"files but no keys", func(t *testing.T, dir string) { remove(t, dir, identityFile) }, "holds files"},
		{"database gone", func(t *testing.T, dir string) { remove(t, dir, databaseFile) }, "restore the database"},
		{"identity truncated", func(t *testing.T, dir string) { truncate(t, dir, 40) }, "is damaged"},
		{"identity empty", func(t *testing.T, dir string) { truncate(t, dir, 0) }, "is damaged"},
		{"identity of a newer version", func(t *testing.T, dir string) { edit(t, dir, `"format": 1`, `"format": 9`) }, "newer Picket"},
		{"identity without key", func(t *testing.T, dir string) { edit(t, dir, `"key"`, `"kee"`) }, "is damaged"},
		{"identity in an unknown state", func(t *testing.T, dir string) { edit(t, dir, `"ready"`, `"redy"`) }, "state is unknown"},
		{"identity readable by others", func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, identityFile), 0o644) }, "chmod 600"},
		{"identity a symbolic link", link, "cannot read"},
		{"directory open to others", func(t *testing.T, dir string) { chmod(t, dir, 0o755) }, "chmod 700"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := made(t)
			c.harm(t, dir)
			before := snapshot(t, dir)
			d, err := Open(dir)
			var refusal *Error
			if !errors.As(err, &refusal) || !strings.Contains(err.Error(), c.want) {
				if d != nil {
					d.Close()
				}
				t.Fatalf("Open: %v, want a refusal that says %q", err, c.want)
			}
			if strings.Contains(err.Error(), "coordinator-private:") {
				t.Errorf("the refusal shows the key: %v", err)
			}
			if after := snapshot(t, dir); before != after {
				t.Errorf("the refused directory was changed:\nbefore %s\nafter  %s", before, after)
			}
		})
	}
}

func TestSecondStartChangesNothing(t *testing.T) {
	dir := made(t)
	before := snapshot(t, dir)
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Fresh {
		t.Error("a finished directory is called fresh")
	}
	if after := snapshot(t, dir); before != after {
		t.Errorf("second start changed the directory:\nbefore %s\nafter  %s", before, after)
	}
}

func TestTwoCoordinatorsNeverShare(t *testing.T) {
	d, err := Open(made(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := Open(d.Path); err == nil || !strings.Contains(err.Error(), "another coordinator runs") {
		t.Errorf("second Open: %v", err)
	}
}

func TestInterruptedFirstStartGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "coordinator")
	first, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	first.Close() // ended before the store was there
	again, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !again.Fresh || again.Network != first.Network || again.Key.Public() != first.Key.Public() {
		t.Errorf("the second start founded another network or took the first as finished")
	}
}

func TestCertificate(t *testing.T) {
	d, err := Open(made(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	hosts := []string{"picket.example", "192.0.2.1"}
	c, err := d.Certificates(hosts)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := c.Get(nil)
	verify(t, d, cert, hosts)

	kept, err := d.Certificates(hosts)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := kept.Get(nil); !again.Leaf.Equal(cert.Leaf) {
		t.Error("a second start made another certificate")
	}
	more, err := d.Certificates(append(hosts, "other.example"))
	if err != nil {
		t.Fatal(err)
	}
	renewed, _ := more.Get(nil)
	if renewed.Leaf.Equal(cert.Leaf) {
		t.Error("a new host name did not make a new certificate")
	}
	verify(t, d, renewed, []string{"other.example"})
}

// verify follows the chain as a node does: one authority, whose key is the coordinator key.
func verify(t *testing.T, d *Dir, cert *tls.Certificate, hosts []string) {
	t.Helper()
	ca, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	if !publicIs(ca, d.Key.X509().Public()) {
		t.Error("the authority's key is not the coordinator key")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, h := range hosts {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: h}); err != nil {
			t.Errorf("verify for %s: %v", h, err)
		}
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, dir string, n int64) {
	t.Helper()
	if err := os.Truncate(filepath.Join(dir, identityFile), n); err != nil {
		t.Fatal(err)
	}
}

func edit(t *testing.T, dir, old, new string) {
	t.Helper()
	path := filepath.Join(dir, identityFile)
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		t.Fatalf("edit %s: %v", path, err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, identityFile)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(path, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, path); err != nil {
		t.Fatal(err)
	}
}

// snapshot is names, modes and contents, the lock aside.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		info, _ := e.Info()
		text, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		b.WriteString(e.Name() + " " + info.Mode().String() + " " + string(text) + "\n")
	}
	return b.String()
}
