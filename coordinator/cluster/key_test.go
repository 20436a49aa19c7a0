package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyFile(t *testing.T) {
	file, k := filepath.Join(t.TempDir(), "key"), NewKey()
	if err := WriteKey(file, k); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadKey(file); err != nil || got != k {
		t.Errorf("read back: %v", err)
	}
	if err := WriteKey(file, NewKey()); err == nil {
		t.Error("a key that is there is overwritten")
	}
	if text := fmt.Sprintf("%v %s %#v %+v", k, k, k, struct{ K Key }{k}); strings.Contains(text, k.Text()) || !strings.Contains(text, "a cluster's key") {
		t.Errorf("it prints as %s", text)
	}
}

func TestKeyFileRefusals(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"others may read it": {NewKey().Text(), 0o640, "chmod 600"},
		"anybody may":        {NewKey().Text(), 0o604, "chmod 600"},
		"empty":              {"", 0o600, "no 32 bytes"},
		"short":              {NewKey().Text()[:40], 0o600, "no 32 bytes"},
		"31 bytes":           {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", 0o600, "no 32 bytes"},
		"other letters":      {strings.Repeat("-", 43) + "=", 0o600, "no 32 bytes"},
		"all zeros":          {Key{}.Text(), 0o600, "all zeros"},
		"long":               {NewKey().Text() + strings.Repeat(" ", 300), 0o600, "too long"},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadKey(file)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) || c.text != "" && strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadKey(dir); err == nil {
		t.Error("a folder is read")
	}
}
