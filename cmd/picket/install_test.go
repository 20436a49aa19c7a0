package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOnlyRootWrites: the service runs the program as root, so nobody else may be able to replace it.
func TestOnlyRootWrites(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("files of root's need root")
	}
	for _, test := range []struct {
		outcome string
		spoil   func(dir, program string)
		want    string
	}{
		{"root's alone", func(string, string) {}, ""},
		{"writable by the group", func(_, program string) { os.Chmod(program, 0o775) }, "can be changed by others"},
		{"somebody else's", func(_, program string) { os.Chown(program, 65534, 65534) }, "can be changed by others"},
		{"in a directory open to all", func(dir, _ string) { os.Chmod(dir, 0o777) }, "can be changed by others"},
		{"in a directory where all may put files", func(dir, _ string) { os.Chmod(dir, os.ModeSticky|0o777) }, "can be changed by others"},
		{"in somebody else's directory", func(dir, _ string) { os.Chown(dir, 65534, 65534) }, "can be changed by others"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "bin")
			program := filepath.Join(dir, "picket")
			os.Mkdir(dir, 0o755)
			os.WriteFile(program, nil, 0o755)
			os.Chmod(program, 0o755)
			test.spoil(dir, program)
			err := onlyRootWrites(program)
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
