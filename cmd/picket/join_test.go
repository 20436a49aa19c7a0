package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"picket.internal/node"
)

// TestReadJoining: what cannot be meant is refused, and a key is neither taken from the command line nor left where programs that are started find it.
func TestReadJoining(t *testing.T) {
	const join = "https://picket.example.com"
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(" picket-key-from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		args []string
		env  string
		err  string // contained
		key  string
		none bool
	}{
		{args: []string{"--auth-key-file", file}, err: "--join JOIN"},
		{args: []string{"--hostname", "app"}, err: "--join JOIN"},
		{args: []string{"--join", "picket.example.com"}, err: "https://"},
		{args: []string{"--join", join, "--auth-key-file", file}, env: "picket-key-two", err: "two auth keys"},
		{none: true},
		{none: true, env: "picket-key-unused"},
		{args: []string{"--join", join, "--auth-key-file", file}, key: "picket-key-from-a-file"},
		{args: []string{"--join", join}, env: "picket-key-of-the-environment", key: "picket-key-of-the-environment"},
		{args: []string{"--join", join}, key: ""},
		{args: []string{"--join", join, "--auth-key-file", file + "-none"}, key: ""},
	} {
		t.Setenv(authKeyVariable, x.env)
		var got *node.Joining
		var failed error
		app := &cli.App{Flags: joinFlags(), Action: func(c *cli.Context) error { got, failed = readJoining(c); return nil }}
		if err := app.Run(append([]string{"picket"}, x.args...)); err != nil {
			t.Fatal(err)
		}
		if os.Getenv(authKeyVariable) != "" {
			t.Errorf("%v: the key is still in the environment", x.args)
		}
		if (failed == nil) != (x.err == "") || failed != nil && !strings.Contains(failed.Error(), x.err) || (got == nil) != (x.none || x.err != "") {
			t.Errorf("%v: %v %v", x.args, got, failed)
		}
		if got == nil {
			continue
		}
		key, err := got.Key()
		if key != x.key || (err == nil) != (x.key != "") {
			t.Errorf("%v: %q %v", x.args, key, err)
		}
	}
	for _, f := range joinFlags() {
		if s, ok := f.(*cli.StringFlag); ok && s.Name == "auth-key" {
			t.Error("a flag takes the key itself")
		}
	}
}
