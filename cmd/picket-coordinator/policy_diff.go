package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/acl/review"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/cmd/internal/policydiff"
	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
	"picket.internal/coordinator/protocol"
)

func policyDirectoryCommand() *cli.Command {
	return &cli.Command{
		Name: "directory", Usage: "print who and what exists, as `picket acl --directory` reads it", Flags: []cli.Flag{dirFlag()}, Action: policyDirectory,
		Description: "Users with their roles, nodes with owner or tags and addresses; no keys. Example:\n\n   picket-coordinator policy directory >directory.json",
	}
}

func policyDirectory(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	d, err := opsocket.PolicyExport.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	_, err = io.WriteString(c.App.Writer, d.Text)
	return err
}

func policyDiffCommand() *cli.Command {
	return &cli.Command{
		Name: "diff", Usage: "show what a policy would change, and which live flows it would cut", ArgsUsage: "FILE", Action: policyDiff,
		Flags: []cli.Flag{dirFlag(), jsonFlag()},
		Description: "It is compared with the policy in force, over the nodes there are; - is standard input.\n\n" +
			"Exit status: 0 nothing widens, 3 something does, 2 the file is wrong, 1 failed.\n\nExamples:\n\n" +
			"   picket-coordinator policy diff policy.hujson\n   git show origin/main:policy.hujson | picket-coordinator policy diff -",
	}
}

func policyDiff(c *cli.Context) error {
	args, err := arguments(c, 1, "a policy file")
	if err != nil {
		return err
	}
	text, err := readPolicyFile(args[0])
	if err != nil {
		return err
	}
	changes, err := compareWithInForce(c, text)
	var refused *coordinator.Error
	switch {
	case errors.As(err, &refused) && len(refused.Errors) > 0:
		return unsound(c, args[0], refused.Errors)
	case err != nil:
		return err
	}
	format := "text"
	if c.Bool("json") {
		format = "json"
	}
	if err := policydiff.Writers[format](c.App.Writer, changes); err != nil || !changes.Widens() {
		return err
	}
	return cli.Exit("", policydiff.ExitWidens)
}

// compareWithInForce asks for the live flows first: the coordinator's own reader then says what is wrong with text.
func compareWithInForce(c *cli.Context, text []byte) (*review.Changes, error) {
	impact, err := opsocket.PolicyImpact.Do(c.Context, client(c), protocol.PolicyText{Text: text})
	if err != nil {
		return nil, err
	}
	status, err := opsocket.PolicyStatus.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return nil, err
	}
	export, err := opsocket.PolicyExport.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return nil, err
	}
	in := protocol.PolicyInForce{Text: status.Text, Commit: status.Commit, Generation: status.Generation}
	old, err := review.Read(policydiff.Text(in))
	if err != nil {
		return nil, fmt.Errorf("read the policy in force: are both programs of the same version? %w", err)
	}
	new, err := review.Read(text)
	if err != nil {
		return nil, err
	}
	d, err := acl.ParseDirectory([]byte(export.Text))
	if err != nil {
		return nil, fmt.Errorf("read the directory: are both programs of the same version? %w", err)
	}
	changes, err := review.Diff(old, new, d, time.Now())
	if err != nil {
		return nil, err
	}
	changes.Against, changes.Live = policydiff.InForce(in), policydiff.Live(impact)
	return changes, nil
}

// readPolicyFile reads a policy; - is standard input.
func readPolicyFile(path string) ([]byte, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, cli.Exit(printable(err.Error()), cliflags.ExitUsage)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, protocol.MaxPolicy+1))
	if err != nil {
		return nil, cli.Exit(printable(err.Error()), cliflags.ExitUsage)
	}
	if len(text) > protocol.MaxPolicy {
		return nil, cli.Exit(fmt.Sprintf("%s has more than %d MiB: no policy is as large", printable(path), protocol.MaxPolicy>>20), cliflags.ExitUsage)
	}
	return text, nil
}

// unsound prints every mistake of a policy, and ends the command with ExitUsage.
func unsound(c *cli.Context, path string, all []acl.Diagnostic) error {
	for _, d := range all {
		fmt.Fprintf(c.App.ErrWriter, "%s: %s\n", printable(path), printable(d.String()))
	}
	return cli.Exit("", cliflags.ExitUsage)
}
