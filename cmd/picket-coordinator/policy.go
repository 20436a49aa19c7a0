package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
)

func policyCommand() *cli.Command {
	common := []cli.Flag{dirFlag(), jsonFlag()}
	return &cli.Command{
		Name:            "policy",
		Usage:           "see which policy is in force, and fetch a newer one",
		Description:     "Example:\n\n   picket-coordinator policy status",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			{Name: "status", Usage: "show the policy in force and what stands against a newer one", Action: policyStatus,
				Description: "Example:\n\n   picket-coordinator policy status --text",
				Flags:       append([]cli.Flag{&cli.BoolFlag{Name: "text", Usage: "print the policy's text as well"}}, common...)},
			{Name: "reload", Usage: "fetch the policy now", Action: policyReload,
				Flags: append(append([]cli.Flag{
					&cli.StringFlag{Name: "accept", Usage: "take this `COMMIT` although it rewrites history"},
				}, waitFlags()...), common...),
				Description: "Examples:\n\n   picket-coordinator policy reload --wait\n   picket-coordinator policy reload --accept 4f1c2d9e0b7a6c5d4e3f2a1b0c9d8e7f6a5b4c3d"},
			{Name: "why", Usage: "judge a flow between any two nodes", ArgsUsage: "SRC DST:PORT[/PROTO]", Flags: common, Action: policyWhy, BashComplete: nodeNames,
				Description: "Exit status 1 when refused.\n\nExample:\n\n   picket-coordinator policy why alice-laptop db:5432"},
		},
	}
}

func policyStatus(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	s, err := opsocket.PolicyStatus.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return show(c, s, func(w io.Writer) {
		writePolicy(w, s)
		if c.Bool("text") {
			fmt.Fprintf(w, "\n%s\n", s.Text)
		}
	})
}

func writePolicy(w io.Writer, s coordinator.PolicyStatus) {
	if s.InForce.IsZero() {
		fmt.Fprint(w, "no policy in force: nothing may pass\n\n")
	}
	rows := [][]string{{"source", dash(s.Source)}}
	if s.Commit != "" {
		rows = append(rows, []string{"commit", s.Commit}, []string{"author", s.Author}, []string{"signer", signer(s)}, []string{"subject", s.Subject})
	}
	rows = append(rows,
		[]string{"in force since", clock(s.InForce)},
		[]string{"enforced", fmt.Sprintf("generation %d on %d of %d nodes", s.Generation, s.Enforcing, s.Nodes)},
		[]string{"last fetched", ago(s.Checked)})
	fields(w, rows)
	if len(s.Errors) == 0 {
		return
	}
	what := "the newer policy"
	if s.Refused != "" {
		what = "commit " + s.Refused
	}
	fmt.Fprintf(w, "\n%s is NOT in force, since %s:\n", printable(what), clock(s.ErrorSince))
	for _, e := range s.Errors {
		fmt.Fprintf(w, "  %s\n", printable(e))
	}
}

// signer is who signed the commit in force, with the key; it was taken without a look at signatures when --policy-signers was not given then.
func signer(s coordinator.PolicyStatus) string {
	if s.Signer == "" {
		return "not checked (see --policy-signers)"
	}
	return s.Signer + ", key " + s.SignerKey
}

func policyReload(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	if a := c.String("accept"); a != "" && !isCommit(a) {
		return cliflags.Usage(c, "--accept takes the whole id of a commit, 40 hexadecimal digits, as `picket-coordinator policy status` shows it")
	}
	r, err := opsocket.PolicyReload.Do(c.Context, client(c), opsocket.Reload{Accept: c.String("accept")})
	if err != nil {
		return err
	}
	if len(r.Status.Errors) > 0 {
		if err := show(c, r.Status, func(w io.Writer) { writePolicy(w, r.Status) }); err != nil {
			return err
		}
		return errors.New("the newer policy was refused; the old one stays in force")
	}
	if r.Change.Generation == 0 {
		return show(c, r.Status, func(w io.Writer) {
			fmt.Fprintln(w, "nothing newer")
			writePolicy(w, r.Status)
		})
	}
	return report(c, r.Change)
}

// isCommit is strict, since a shortened id could be made to fit another commit.
func isCommit(s string) bool { return len(s) == 40 && strings.Trim(s, "0123456789abcdef") == "" }

func policyWhy(c *cli.Context) error {
	args, err := arguments(c, 2, "a source and a destination with port")
	if err != nil {
		return err
	}
	a, err := opsocket.PolicyWhy.Do(c.Context, client(c), opsocket.WhyFlow{Src: args[0], Dst: args[1]})
	if err != nil {
		return err
	}
	if err := show(c, a, func(w io.Writer) { writeWhy(w, a) }); err != nil || a.Allow {
		return err
	}
	return cli.Exit("", cliflags.ExitFailed)
}

func writeWhy(w io.Writer, a coordinator.WhyAnswer) {
	if a.Allow {
		fmt.Fprintf(w, "allowed: %s -> %s, by %s\n", printable(a.Src), printable(a.Dst), printable(a.Rule))
		return
	}
	fmt.Fprintf(w, "refused: %s -> %s: %s\n", printable(a.Src), printable(a.Dst), printable(a.Reason))
}
