package cliflags

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

// manual is an app with all that help has to lay out.
func manual() *cli.App {
	why := &cli.Command{
		Name: "why", Usage: "say why", ArgsUsage: "[SRC] DST",
		Description: "One sentence that goes on for\nmore than a line of the source, and which is folded where the terminal ends rather than there.\n\nExample:\n\n   prog why db:22    --json",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.StringSliceFlag{Name: "a-flag-with-a-long-name", Usage: "`VALUE` (repeat for more)"},
			&cli.StringFlag{Name: "dir", Value: "/var/lib", Usage: "the `DIRECTORY` in which everything is kept: keys, certificate, database and socket"},
		},
		BashComplete: Candidates(func(*cli.Context) []string { return []string{"db-1", "web-1"} }),
	}
	return &cli.App{Name: "prog", Usage: "do it", HideHelpCommand: true, EnableBashCompletion: true,
		Commands: []*cli.Command{why, {Name: "keys", HideHelpCommand: true, Subcommands: []*cli.Command{{Name: "create", Flags: []cli.Flag{&cli.StringFlag{Name: "tag", Aliases: []string{"t"}}}}}}}}
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	app := manual()
	app.Writer, app.ErrWriter = &stdout, &stderr
	if status := Main(context.Background(), app, append([]string{"prog"}, args...)); status != 0 {
		t.Fatalf("%q: status %d, %s", args, status, stderr.String())
	}
	return stdout.String()
}

func TestHelp_layout(t *testing.T) {
	want := `prog why - say why

Usage:
   prog why [FLAGS] [SRC] DST

One sentence that goes on for more than a line of the source, and which is
folded where the terminal ends rather than there.

Example:

   prog why db:22    --json

Flags:
   --json            print JSON
   --a-flag-with-a-long-name VALUE
                     VALUE (repeat for more)
   --dir DIRECTORY   the DIRECTORY in which everything is kept: keys,
                     certificate, database and socket (default: "/var/lib")
   --help, -h        show help
`
	if diff := cmp.Diff(want, run(t, "why", "--help")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompletion(t *testing.T) {
	for _, test := range []struct{ words, want string }{
		{"", "why keys"},
		{"why", "db-1 web-1 --json --a-flag-with-a-long-name --dir --help"},
		{"keys", "create"},
		{"keys create", "--tag --help"},
	} {
		got := run(t, append(strings.Fields(test.words), "--generate-bash-completion")...)
		if diff := cmp.Diff(strings.Fields(test.want), strings.Fields(got)); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", test.words, diff)
		}
	}
}
