package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"picket.internal/acl/review"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/cmd/internal/policydiff"
)

func aclDiffCommand() *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "show which flows a change of a policy opens and closes, and for whom",
		ArgsUsage: "[OLD] NEW",
		Description: "The two are compared by meaning: conditions, denials, routers and deadlines count, words and order do not. Without --directory " +
			"and --coordinator, stand-ins take the place of nodes: one for each user, tag, role and address that either policy names.\n\n" +
			"With --coordinator it also says how many of the flows that are live now NEW would cut, by the policy in force; OLD may be left out, and is that policy then.\n\n" +
			"Exit status: 0 nothing widens, 3 something does, 2 a file is wrong or the coordinator cannot be asked, 1 failed. Something widens where flows are " +
			"gained, or open under conditions that are weaker or others; where an owner of a tag, an approver of routes, an SSH rule or an application's " +
			"capability is added; and where a test is removed.\n\nExamples:\n\n" +
			"   picket acl diff old.hujson new.hujson --directory nodes.json\n" +
			"   git show main:policy.hujson | picket acl diff - policy.hujson\n" +
			"   picket acl diff --coordinator 'https://picket.example.com:8443#FINGERPRINT' --token-file token policy.hujson\n" +
			"   picket acl diff old.hujson new.hujson --format markdown --exit-zero >comment.md",
		Flags: append([]cli.Flag{
			atFlag(), formatFlag("text", "markdown", "json"),
			&cli.BoolFlag{Name: "exit-zero", Usage: "exit with status 0 also when access widens"},
		}, whereFlags()...),
		Action: aclDiff,
	}
}

func aclDiff(c *cli.Context) error {
	old, new, err := diffArguments(c)
	if err != nil {
		return err
	}
	write, err := format(c, policydiff.Writers)
	if err != nil {
		return err
	}
	changes, err := compare(c, old, new)
	if err != nil {
		return err
	}
	if err := write(c.App.Writer, changes); err != nil {
		return err
	}
	if changes.Widens() && !c.Bool("exit-zero") {
		return cli.Exit("", policydiff.ExitWidens)
	}
	return nil
}

// diffArguments are the two files to compare; old is "" for the policy in force.
func diffArguments(c *cli.Context) (old, new string, err error) {
	if err := checkWhere(c); err != nil {
		return "", "", err
	}
	least := 2
	if c.String("coordinator") != "" {
		least = 1
	}
	if err := cliflags.NArgs(c, least, 2, "OLD NEW"); err != nil {
		return "", "", err
	}
	if old, new = c.Args().Get(0), c.Args().Get(1); c.NArg() == 1 {
		old, new = "", old
	}
	fromStdin := slices.DeleteFunc([]string{old, new, c.String("directory")}, func(path string) bool { return path != "-" })
	if len(fromStdin) > 1 {
		return "", "", cliflags.Usage(c, "only one of OLD, NEW and --directory can be standard input")
	}
	return old, new, nil
}

// compare reads both policies, and asks the coordinator where one is named.
func compare(c *cli.Context, oldPath, newPath string) (*review.Changes, error) {
	now, err := moment(c)
	if err != nil {
		return nil, err
	}
	a, err := askerIfGiven(c)
	if err != nil {
		return nil, err
	}
	old, from, err := readSource(c, a, oldPath)
	if err != nil {
		return nil, err
	}
	new, to, err := readSource(c, a, newPath)
	if err != nil {
		return nil, err
	}
	d, err := directoryIfGiven(c, a)
	if err != nil {
		return nil, err
	}
	changes, err := review.Diff(old, new, d, now)
	if err != nil || a == nil {
		return changes, err
	}
	if oldPath == "" {
		changes.Against = from.name
	}
	changes.Live, err = a.live(to.name, to.text)
	return changes, err
}

// readSource is policyOrInForce for package review.
func readSource(c *cli.Context, a *asker, path string) (*review.Source, policyFile, error) {
	f, err := policyOrInForce(c, a, path)
	if err != nil {
		return nil, f, err
	}
	s, err := review.Read(f.text)
	return s, f, err
}
