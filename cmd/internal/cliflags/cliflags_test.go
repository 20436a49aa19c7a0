package cliflags

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

// testApp has a flag at each level; each command writes what it saw.
func testApp(saw *[]string) *cli.App {
	action := func(c *cli.Context) error {
		*saw = append([]string{c.Command.Name, c.String("socket"), c.String("auth-key"), c.String("tag")}, c.Args().Slice()...)
		if n := c.Int("count"); n != 0 {
			*saw = append(*saw, fmt.Sprint("count ", n))
		}
		if c.Bool("json") {
			*saw = append(*saw, "json")
		}
		return nil
	}
	flags := func() []cli.Flag {
		return []cli.Flag{&cli.BoolFlag{Name: "json"}, &cli.StringFlag{Name: "auth-key"}, &cli.IntFlag{Name: "count", Aliases: []string{"c"}}}
	}
	return &cli.App{
		Name:  "prog",
		Flags: []cli.Flag{&cli.StringFlag{Name: "socket"}},
		Commands: []*cli.Command{
			{Name: "why", Flags: flags(), Action: action},
			{Name: "none", Flags: flags(), Action: func(c *cli.Context) error { return NArgs(c, 0, 0, "") }},
			{Name: "one", Flags: flags(), Action: func(c *cli.Context) error { return NArgs(c, 1, 1, "NAME") }},
			{Name: "fail", Action: func(c *cli.Context) error { return errors.New("refused: do that") }},
			{Name: "keys", Subcommands: []*cli.Command{
				{Name: "create", Flags: []cli.Flag{&cli.StringFlag{Name: "tag"}, &cli.BoolFlag{Name: "json"}}, Action: action},
			}},
		},
	}
}

func TestMain_refuses(t *testing.T) {
	for _, test := range []struct {
		outcome string
		args    string
		status  int
		stderr  string
	}{
		{"unknown flag after an argument", "why db:5432 --jsom", 2, `unknown flag "--jsom": did you mean --json?`},
		{"unknown flag far from any", "why --frobnicate", 2, `unknown flag "--frobnicate"`},
		{"value of an unknown flag is not echoed", "why --authkey=SECRET", 2, `unknown flag "--authkey": did you mean --auth-key?`},
		{"missing value at the end", "why --auth-key", 2, "--auth-key needs a value"},
		{"missing value before another flag", "why --auth-key --json", 2, "--auth-key needs a value"},
		{"value of the wrong kind", "why -c many", 2, `-c cannot be "many"`},
		{"a number against a letter that is no flag", "why -x1", 2, `unknown flag "-x1"`},
		{"flag of another command", "fail --json", 2, `unknown flag "--json"`},
		{"flag of another command, before it", "--json fail", 2, `unknown flag "--json"`},
		{"missing value before the command", "keys --tag", 2, "--tag needs a value"},
		{"unknown command", "wjy", 2, `unknown command "wjy"`},
		{"unknown command with a near one", "kays", 2, `unknown command "kays": did you mean keys?`},
		{"unknown subcommand", "keys craete", 2, `unknown command "craete": did you mean create?`},
		{"control characters are quoted", "why --\x1b[31m", 2, `unknown flag "--\x1b[31m"`},
		{"argument where none belongs", "none extra", 2, `"extra" is one word too many`},
		{"too many arguments", "one a b", 2, `"b" is one word too many`},
		{"too few arguments", "one", 2, "NAME is missing"},
		{"refusal by the command", "fail", 1, "prog: refused: do that"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			var saw []string
			var stdout, stderr bytes.Buffer
			app := testApp(&saw)
			app.Writer, app.ErrWriter = &stdout, &stderr
			got := Main(context.Background(), app, append([]string{"prog"}, strings.Split(test.args, " ")...))
			if got != test.status || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("status %d, want %d; stderr %q, want in it %q", got, test.status, stderr.String(), test.stderr)
			}
			if saw != nil {
				t.Errorf("the command ran: %q", saw)
			}
			if strings.Contains(stderr.String()+stdout.String(), "SECRET") {
				t.Error("a flag's value was echoed")
			}
			if test.status == 2 && !strings.Contains(stderr.String(), "--help'") {
				t.Errorf("no pointer to help: %q", stderr.String())
			}
		})
	}
}

func TestMain_flagsCountAnywhere(t *testing.T) {
	for _, test := range []struct {
		outcome string
		args    string
		want    []string
	}{
		{"before the argument", "why --json db:5432", []string{"why", "", "", "", "db:5432", "json"}},
		{"after the argument", "why db:5432 --json", []string{"why", "", "", "", "db:5432", "json"}},
		{"between arguments", "why a --json b", []string{"why", "", "", "", "a", "b", "json"}},
		{"one dash", "why a -json", []string{"why", "", "", "", "a", "json"}},
		{"app flag after the command", "why a --socket /s", []string{"why", "/s", "", "", "a"}},
		{"app flag before the command", "--socket=/s why a", []string{"why", "/s", "", "", "a"}},
		{"standard input as a value", "why --auth-key - a", []string{"why", "", "-", "", "a"}},
		{"a value that begins with a dash", "why --auth-key -x a", []string{"why", "", "-x", "", "a"}},
		{"standard input as an argument", "why - --json", []string{"why", "", "", "", "-", "json"}},
		{"after two dashes all are arguments", "why --json -- a --json", []string{"why", "", "", "", "a", "--json", "json"}},
		{"subcommand", "keys create --tag db --socket /s --json", []string{"create", "/s", "", "db", "json"}},
		{"command's flag before it", "--json --auth-key k why a", []string{"why", "", "k", "", "a", "json"}},
		{"subcommand's flag before and between", "--tag db keys --json create", []string{"create", "", "", "db", "json"}},
		{"a command's name as an argument", "why why", []string{"why", "", "", "", "why"}},
		{"a number against its letter", "why a -c12", []string{"why", "", "", "", "a", "count 12"}},
		{"explicitly false", "why a --json=false", []string{"why", "", "", "", "a"}},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			var saw []string
			var stderr bytes.Buffer
			app := testApp(&saw)
			app.ErrWriter = &stderr
			status := Main(context.Background(), app, append([]string{"prog"}, strings.Split(test.args, " ")...))
			if diff := cmp.Diff(test.want, saw); status != 0 || diff != "" {
				t.Errorf("status %d, stderr %q, the command saw (-want +got):\n%s", status, stderr.String(), diff)
			}
		})
	}
}

func TestMain_help(t *testing.T) {
	for _, args := range []string{"--help", "why --help", "why a -h", "help why", "keys --help", "keys create --help", ""} {
		t.Run(args, func(t *testing.T) {
			var saw []string
			var stdout, stderr bytes.Buffer
			app := testApp(&saw)
			app.Writer, app.ErrWriter = &stdout, &stderr
			status := Main(context.Background(), app, append([]string{"prog"}, strings.Fields(args)...))
			if status != 0 || !strings.Contains(stdout.String(), "Usage:") || saw != nil {
				t.Errorf("status %d, stdout %q, stderr %q, ran %q", status, stdout.String(), stderr.String(), saw)
			}
		})
	}
}

func TestEdits(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"json", "jsom", 1}, {"create", "craete", 2}, {"kitten", "sitting", 3}, {"a", "b", 1}} {
		if got := edits(test.a, test.b); got != test.want {
			t.Errorf("edits(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
