package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
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
		Usage:           "see which policy is in force, fetch a newer one, bring an earlier one back",
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
			{Name: "confirm", Usage: "take the commit that waits because it would cut much", ArgsUsage: "COMMIT", Action: policyConfirm, BashComplete: waitingID,
				Flags: append(waitFlags(), common...),
				Description: "It fetches, and takes the commit if that is the newest and the one that waits; `policy status` says what it would cut.\n" +
					"COMMIT is its id, or the first 7 digits of it at least.\n\nExample:\n\n   picket-coordinator policy confirm 4f1c2d9e --wait"},
			{Name: "list", Usage: "list the policies that are and were in force", Flags: common, Action: policyList,
				Description: "Example:\n\n   picket-coordinator policy list --json"},
			{Name: "rollback", Usage: "put an earlier policy in force again, and pin it", ArgsUsage: "COMMIT", Action: policyRollback, BashComplete: policyIDs,
				Flags: append(waitFlags(), common...),
				Description: "It comes from the coordinator's database: the repository need not be reachable. No newer one is taken until `policy unpin`.\n" +
					"COMMIT is what `policy list` shows, or the first 7 digits of it at least.\n\nExample:\n\n   picket-coordinator policy rollback 4f1c2d9e --wait"},
			{Name: "pin", Usage: "keep the policy in force, whatever is newer", ArgsUsage: "[COMMIT]", Flags: common, Action: policyPin,
				Description: "Newer ones are fetched and checked, and none is taken until `policy unpin`. COMMIT, if given, must be the one in force.\n\nExample:\n\n   picket-coordinator policy pin"},
			{Name: "unpin", Usage: "lift the pin, and take the newest policy", Flags: append(waitFlags(), common...), Action: policyUnpin,
				Description: "Example:\n\n   picket-coordinator policy unpin --wait"},
			policyDiffCommand(),
			policyDirectoryCommand(),
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
	} else if s.ID != "" {
		rows = append(rows, []string{"sha256", s.ID}) // by which it can be brought back
	}
	rows = append(rows, []string{"in force since", clock(s.InForce)})
	if s.Pinned != nil {
		rows = append(rows, []string{"pinned", pinned(s)})
	}
	rows = append(rows,
		[]string{"enforced", fmt.Sprintf("generation %d on %d of %d nodes", s.Generation, s.Enforcing, s.Nodes)},
		[]string{"last fetched", ago(s.Checked)})
	fields(w, rows)
	if s.Waiting != nil {
		writeWaiting(w, *s.Waiting)
	}
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
	return reloaded(c, r)
}

// reloaded prints what came of a call that fetches. It fails when a newer policy is there and is not in force.
func reloaded(c *cli.Context, r opsocket.Reloaded) error {
	if stays := notTaken(r.Status); stays != "" {
		if err := show(c, r.Status, func(w io.Writer) { writePolicy(w, r.Status) }); err != nil {
			return err
		}
		return errors.New(stays)
	}
	if r.Change.Generation == 0 {
		return show(c, r.Status, func(w io.Writer) {
			fmt.Fprintln(w, "nothing newer")
			writePolicy(w, r.Status)
		})
	}
	return report(c, r.Change)
}

// notTaken says why the newest policy is not in force; nothing when it is.
func notTaken(s coordinator.PolicyStatus) string {
	switch {
	case len(s.Errors) > 0:
		return "the newer policy was refused; the old one stays in force"
	case s.Waiting != nil:
		return fmt.Sprintf("the newer policy waits for confirmation; the old one stays in force until then: picket-coordinator policy confirm %s", printable(shortID(s.Waiting.ID)))
	case s.Pinned != nil && s.Newest != "":
		return "the newer policy is not taken while the old one is pinned: `picket-coordinator policy unpin` lifts the pin"
	}
	return ""
}

// shortID is an id as people write it.
func shortID(id string) string { return id[:min(len(id), 12)] }

func pinned(s coordinator.PolicyStatus) string {
	text := fmt.Sprintf("by %s since %s", s.Pinned.By, clock(s.Pinned.Since))
	if s.Newest != "" {
		text += "; newest is " + shortID(s.Newest)
	}
	return text
}

// writeWaiting says what a commit that waits would do, and how it is confirmed.
func writeWaiting(w io.Writer, p coordinator.PolicyWaiting) {
	fmt.Fprintf(w, "\ncommit %s waits for confirmation, since %s:\n", printable(shortID(p.ID)), clock(p.Since))
	fields(w, [][]string{{"  author", dash(p.Author)}, {"  subject", dash(p.Subject)}})
	fmt.Fprintf(w, "  %s\n", printable(p.Why))
	if len(p.Unknown) > 0 {
		fmt.Fprintf(w, "  not counted: %s\n", printable(strings.Join(p.Unknown, ", ")))
	}
	fmt.Fprintf(w, "to take it: picket-coordinator policy confirm %s\n", printable(shortID(p.ID)))
}

func policyConfirm(c *cli.Context) error {
	args, err := arguments(c, 1, "the commit that waits, as `picket-coordinator policy status` shows it")
	if err != nil {
		return err
	}
	r, err := opsocket.PolicyConfirm.Do(c.Context, client(c), opsocket.Ref{Ref: args[0]})
	if err != nil {
		return err
	}
	return reloaded(c, r)
}

func policyList(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	versions, err := opsocket.PolicyList.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return show(c, versions, func(w io.Writer) {
		if len(versions) == 0 {
			fmt.Fprintln(w, "no policy was ever in force")
			return
		}
		var rows [][]string
		for _, v := range versions {
			rows = append(rows, []string{shortID(v.ID), strconv.FormatUint(v.Generation, 10), clock(v.InForce), clock(v.Until), dash(v.By), dash(v.Author), dash(v.Subject)})
		}
		table(w, "COMMIT|GENERATION|IN FORCE|UNTIL|BY|AUTHOR|SUBJECT", rows)
	})
}

func policyRollback(c *cli.Context) error {
	args, err := arguments(c, 1, "an earlier commit, as `picket-coordinator policy list` shows it")
	if err != nil {
		return err
	}
	change, err := opsocket.PolicyRollback.Do(c.Context, client(c), opsocket.Ref{Ref: args[0]})
	if err != nil {
		return err
	}
	return report(c, change)
}

func policyPin(c *cli.Context) error {
	if c.NArg() > 1 {
		return cliflags.Usage(c, "%q is one word too many: this command takes one commit at most", c.Args().Get(1))
	}
	change, err := opsocket.PolicyPin.Do(c.Context, client(c), opsocket.Ref{Ref: c.Args().First()})
	if err != nil {
		return err
	}
	return show(c, change, func(w io.Writer) { fmt.Fprintln(w, printable(change.Summary)) })
}

func policyUnpin(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	r, err := opsocket.PolicyUnpin.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return reloaded(c, r)
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
