package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func whyCommand() *cli.Command {
	return &cli.Command{
		Name:         "why",
		Usage:        "say whether a flow is allowed, by which line of the policy, or what is missing",
		ArgsUsage:    "[SRC] DST:PORT[/PROTO]",
		BashComplete: peerNames,
		Description: "SRC is this machine unless named; one of the two must be this machine. Exit status 1 when it is refused.\n\nExamples:\n\n" +
			"   picket why db-1:5432\n   picket why db-1:53/udp\n   picket why db-1/icmp\n   picket why alice-laptop web-1:443 --json",
		Flags: asking(jsonFlag()),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, 2, "[SRC] DST:PORT[/PROTO]"); err != nil {
				return err
			}
			q := localapi.Why{Dst: c.Args().Get(c.NArg() - 1)}
			if c.NArg() == 2 {
				q.Src = c.Args().First()
			}
			a, err := client(c).Why(c.Context, q)
			if err != nil {
				return explain(err)
			}
			if err := show(c, a, func(w io.Writer) { writeWhy(w, a) }); err != nil {
				return err
			}
			if !a.Allow {
				return cli.Exit("", cliflags.ExitFailed)
			}
			return nil
		},
	}
}

func writeWhy(w io.Writer, a localapi.WhyAnswer) {
	policy := ""
	if a.Policy != "" {
		policy = " (policy " + policyText(a.Policy) + ")"
	}
	src, dst := protocol.Printable(a.Src), protocol.Printable(a.Dst)
	if a.Allow {
		fmt.Fprintf(w, "allowed: %s -> %s, by %s%s\n", src, dst, protocol.Printable(a.Rule), policy)
		return
	}
	fmt.Fprintf(w, "refused: %s -> %s: %s%s\n", src, dst, protocol.Printable(a.Reason), policy)
}
