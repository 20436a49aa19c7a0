package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
)

func tokensCommand() *cli.Command {
	common := []cli.Flag{dirFlag(), jsonFlag()}
	return &cli.Command{
		Name:            "tokens",
		Usage:           "make, list and revoke tokens, with which CI jobs ask about policies",
		Description:     "Example:\n\n   picket-coordinator tokens create --for policy:read --note 'CI of the policy repository'",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			{Name: "create", Usage: "make a token; it is shown this once", Action: createToken,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "for", Usage: "what it is for: `policy:read`, to read who and what exists and the policy in force, and to ask what a policy would do"},
					&cli.StringFlag{Name: "expires", Value: "90d", Usage: "valid for `TIME`, such as 30d or 12h; at most 365d"},
					&cli.StringFlag{Name: "note", Usage: "`TEXT` for people: what it is for, and where it is kept"},
				}, common...),
				Description: "It changes nothing, whoever has it. `picket acl diff --coordinator JOIN --token-file FILE` asks with it.\n\n" +
					"Examples:\n\n   picket-coordinator tokens create --for policy:read --note CI\n   picket-coordinator tokens create --for policy:read --expires 30d --json"},
			{Name: "list", Usage: "list tokens, without their secrets", Flags: common, Action: listTokens,
				Description: "A token is valid, expired or revoked. Example:\n\n   picket-coordinator tokens list --json"},
			{Name: "revoke", Usage: "make a token useless", ArgsUsage: "ID", Flags: common, Action: revokeToken, BashComplete: tokenIDs,
				Description: "ID is what `tokens list` shows. Example:\n\n   picket-coordinator tokens revoke xywseukwqhlxs"},
		},
	}
}

// createdToken is what `tokens create` prints with --json.
type createdToken struct {
	coordinator.Token
	Text string `json:"token"`
}

func createToken(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	if c.String("for") == "" {
		return cliflags.Usage(c, "--for is missing: write --for %s", coordinator.ScopePolicy)
	}
	life, err := lifetime(c.String("expires"))
	if err != nil {
		return cliflags.Usage(c, "--expires %v", err)
	}
	t, err := opsocket.TokensCreate.Do(c.Context, client(c), opsocket.NewToken{Scope: coordinator.Scope(c.String("for")), Note: c.String("note"), Life: life})
	if err != nil {
		return err
	}
	return show(c, createdToken{t.Token, t.Text}, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n\nFor %s, until %s. It is not shown again.\n", t.Text, t.Token.Scope, clock(t.Token.Expires))
	})
}

// lifetime reads a time such as 90d, or as Go writes durations (12h, 30m): longer than nothing.
func lifetime(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	return 0, fmt.Errorf("takes a time such as 90d or 12h, not %.40q", s)
}

func listTokens(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	tokens, err := opsocket.TokensList.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return show(c, tokens, func(w io.Writer) {
		if len(tokens) == 0 {
			fmt.Fprintln(w, "no tokens yet: picket-coordinator tokens create --for policy:read")
			return
		}
		var rows [][]string
		for _, t := range tokens {
			rows = append(rows, []string{t.ID, t.State, string(t.Scope), clock(t.Created), clock(t.Expires), ago(t.Used), t.By, dash(t.Note)})
		}
		table(w, "ID|STATE|FOR|CREATED|EXPIRES|USED|BY|NOTE", rows)
	})
}

func revokeToken(c *cli.Context) error {
	args, err := arguments(c, 1, "a token's id, as `tokens list` shows it")
	if err != nil {
		return err
	}
	if _, err := opsocket.TokensRevoke.Do(c.Context, client(c), opsocket.Ref{Ref: args[0]}); err != nil {
		return err
	}
	return show(c, map[string]string{"revoked": args[0]}, func(w io.Writer) {
		fmt.Fprintf(w, "token %s is revoked\n", printable(args[0]))
	})
}
