package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
)

// aclCommand is the group of commands that read policy files. None of them asks an agent, a coordinator only where --coordinator is given, and none needs root.
func aclCommand() *cli.Command {
	return &cli.Command{
		Name:  "acl",
		Usage: "check, test and question a policy file, without a network or against one",
		Description: "Examples:\n\n   picket acl check policy.hujson\n   picket acl test policy.hujson\n" +
			"   picket acl explain --policy policy.hujson --directory nodes.json laptop db-1:5432\n\n" +
			"With --coordinator they ask a network what else they would read from files: who and what exists, and the policy in force.\n\n" +
			"   picket acl diff --coordinator 'https://picket.example.com:8443#FINGERPRINT' --token-file token policy.hujson\n\n" +
			"A directory is JSON: who and what exists.\n\n" +
			`   {"users": [{"name": "alice@example.com", "role": "admin"}],` + "\n" +
			`    "nodes": [{"name": "laptop", "user": "alice@example.com",` + "\n" +
			`               "addresses": ["100.64.0.7"], "attributes": {"node:os": "linux"}},` + "\n" +
			`              {"name": "db-1", "tags": ["tag:db"], "addresses": ["100.64.0.8"],` + "\n" +
			`               "routes": ["10.33.0.0/16"]}]}`,
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			aclCheckCommand(), aclFmtCommand(), aclTestCommand(), aclEvalCommand(), aclExplainCommand(),
			aclWhoCommand(),
			aclDiffCommand(),
			aclDirectoryCommand(),
			aclImportCommand(),
		},
		Before: func(*cli.Context) error {
			// These commands have nothing to tidy up, and one that waits for standard input sees no context end.
			signal.Reset(os.Interrupt, syscall.SIGTERM)
			return nil
		},
	}
}

// maxFile bounds what is read of a file. acl has narrower bounds of its own, and says so in words.
const maxFile = 64 << 20

func policyFlag() cli.Flag {
	return &cli.StringFlag{Name: "policy", Usage: "the policy `FILE`; - is standard input"}
}

// atFlag is the moment that deadlines are judged at; see moment.
func atFlag() cli.Flag {
	return &cli.StringFlag{Name: "at", Usage: "judge deadlines as of `TIME`, such as 2026-12-31T18:00:00Z, not now"}
}

// moment is what --at says, or now.
func moment(c *cli.Context) (time.Time, error) {
	s := c.String("at")
	if s == "" {
		return time.Now(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, cliflags.Usage(c, "--at takes a time such as 2026-12-31T18:00:00Z, not %.80q", s)
	}
	return t, nil
}

// policyFile is a policy with where it came from.
type policyFile struct {
	name   string // for people: "policy.hujson", "standard input"
	text   []byte
	policy *acl.Policy
}

// readPolicy reads and parses a policy. When it has errors they are printed, a line each, and the error returned is silent and ends the
// command with ExitUsage; so does, with words, a file that cannot be read.
func readPolicy(c *cli.Context, path string) (policyFile, error) {
	f := policyFile{name: fileName(path)}
	var err error
	if f.text, err = readFile(c, path); err != nil {
		return f, cli.Exit(err, cliflags.ExitUsage)
	}
	f.policy, err = acl.Parse(f.text)
	return f, refused(c, f.name, err)
}

// readDirectory is readPolicy for a directory file.
func readDirectory(c *cli.Context, path string) (*acl.Directory, error) {
	text, err := readFile(c, path)
	if err != nil {
		return nil, cli.Exit(err, cliflags.ExitUsage)
	}
	d, err := acl.ParseDirectory(text)
	return d, refused(c, fileName(path), err)
}

// refused prints what is wrong with a file; nil when nothing is.
func refused(c *cli.Context, name string, err error) error {
	if err == nil {
		return nil
	}
	var all acl.Errors
	if !errors.As(err, &all) {
		return cli.Exit(fmt.Sprintf("%s: %v", name, err), cliflags.ExitUsage)
	}
	for _, d := range all {
		fmt.Fprintln(c.App.ErrWriter, diagnosticText(name, d))
	}
	return cli.Exit("", cliflags.ExitUsage)
}

// diagnosticText is "policy.hujson:4:9: error: unknown group …", which editors can jump to.
func diagnosticText(name string, d acl.Diagnostic) string {
	text := protocol.Printable(d.Message)
	if d.Hint != "" {
		text += ": " + protocol.Printable(d.Hint)
	}
	return fmt.Sprintf("%s: %s: %s", at(name, d.Line, d.Column), d.Severity, text)
}

// at is "policy.hujson:4:9"; the name alone for the whole file, which is line 0.
func at(name string, line, column int) string {
	if line == 0 {
		return name
	}
	return fmt.Sprintf("%s:%d:%d", name, line, column)
}

// fileName is what a file is called in output: a name may hold anything.
func fileName(path string) string {
	if path == "-" {
		return "standard input"
	}
	return protocol.Printable(path)
}

// readFile reads a file whole, or standard input where path is "-".
func readFile(c *cli.Context, path string) ([]byte, error) {
	in := c.App.Reader
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, errors.New(protocol.Printable(err.Error()))
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %s", fileName(path), protocol.Printable(err.Error()))
	case len(b) > maxFile:
		return nil, fmt.Errorf("%s has more than %d MiB", fileName(path), maxFile>>20)
	}
	return b, nil
}

// need refuses a command line without one of the flags named.
func need(c *cli.Context, names ...string) error {
	var missing []string
	for _, name := range names {
		if c.String(name) == "" {
			missing = append(missing, "--"+name)
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return cliflags.Usage(c, "%s is missing", missing[0])
	}
	return cliflags.Usage(c, "%s are missing", strings.Join(missing, " and "))
}

// plural is "1 error", "2 errors".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
