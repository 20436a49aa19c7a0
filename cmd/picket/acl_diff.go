package main

import (
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/acl/review"
	"picket.internal/cmd/internal/cliflags"
)

// exitWidens is the status of `picket acl diff` when the new policy allows more.
const exitWidens = 3

func aclDiffCommand() *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "show which flows a change of a policy opens and closes, and for whom",
		ArgsUsage: "OLD NEW",
		Description: "The two are compared by meaning: conditions, denials, routers and deadlines count, words and order do not. Without --directory, " +
			"stand-ins take the place of nodes: one for each user, tag, role and address that either policy names.\n\n" +
			"Exit status: 0 nothing widens, 3 something does, 2 a file is wrong, 1 failed. Something widens where flows are gained, or open under " +
			"conditions that are weaker or others; where an owner of a tag, an approver of routes, an SSH rule or an application's capability is added; " +
			"and where a test is removed.\n\nExamples:\n\n" +
			"   picket acl diff old.hujson new.hujson --directory nodes.json\n" +
			"   git show main:policy.hujson | picket acl diff - policy.hujson\n" +
			"   picket acl diff old.hujson new.hujson --format markdown --exit-zero >comment.md",
		Flags: []cli.Flag{
			directoryFlag(), atFlag(), formatFlag("text", "markdown", "json"),
			&cli.BoolFlag{Name: "exit-zero", Usage: "exit with status 0 also when access widens"},
		},
		Action: aclDiff,
	}
}

func aclDiff(c *cli.Context) error {
	if err := cliflags.NArgs(c, 2, 2, "OLD NEW"); err != nil {
		return err
	}
	fromStdin := slices.DeleteFunc([]string{c.Args().Get(0), c.Args().Get(1), c.String("directory")}, func(path string) bool { return path != "-" })
	if len(fromStdin) > 1 {
		return cliflags.Usage(c, "only one of OLD, NEW and --directory can be standard input")
	}
	write, err := format(c, map[string]func(io.Writer, *review.Changes) error{
		"text":     func(w io.Writer, x *review.Changes) error { x.WriteText(w); return nil },
		"markdown": func(w io.Writer, x *review.Changes) error { x.WriteMarkdown(w); return nil },
		"json":     func(w io.Writer, x *review.Changes) error { return writeJSON(w, x) },
	})
	if err != nil {
		return err
	}
	now, err := moment(c)
	if err != nil {
		return err
	}
	old, err := readSource(c, c.Args().Get(0))
	if err != nil {
		return err
	}
	new, err := readSource(c, c.Args().Get(1))
	if err != nil {
		return err
	}
	d, err := directoryIfGiven(c)
	if err != nil {
		return err
	}
	changes, err := review.Diff(old, new, d, now)
	if err != nil {
		return err
	}
	if err := write(c.App.Writer, changes); err != nil {
		return err
	}
	if changes.Widens() && !c.Bool("exit-zero") {
		return cli.Exit("", exitWidens)
	}
	return nil
}

// readSource is readPolicy for package review.
func readSource(c *cli.Context, path string) (*review.Source, error) {
	f, err := readPolicy(c, path)
	if err != nil {
		return nil, err
	}
	return review.Read(f.text)
}

// directoryIfGiven is nil where there is no --directory: an empty one is a network of nobody, and none is a network not known.
func directoryIfGiven(c *cli.Context) (*acl.Directory, error) {
	path := c.String("directory")
	if path == "" {
		return nil, nil
	}
	return readDirectory(c, path)
}
