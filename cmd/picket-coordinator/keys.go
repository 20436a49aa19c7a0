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

func keysCommand() *cli.Command {
	common := []cli.Flag{dirFlag(), jsonFlag()}
	return &cli.Command{
		Name:            "keys",
		Usage:           "make, list and revoke auth keys, with which servers join by themselves",
		Description:     "Example:\n\n   picket-coordinator keys create --tag tag:db",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			{Name: "create", Usage: "make an auth key; it is shown this once", Action: createKey,
				Flags: append([]cli.Flag{
					&cli.StringSliceFlag{Name: "tag", Usage: "nodes that join with it get this `TAG`, which the policy's tagOwners must define (repeat for more)"},
					&cli.BoolFlag{Name: "reusable", Usage: "may be used any number of times"},
					&cli.DurationFlag{Name: "life", Value: time.Hour, Usage: "valid for `TIME`, such as 24h"},
				}, common...),
				Description: "Examples:\n\n   picket-coordinator keys create --tag tag:db\n   picket-coordinator keys create --tag tag:web --reusable --life 24h"},
			{Name: "list", Usage: "list auth keys, without their secrets", Flags: common, Action: listKeys,
				Description: "A key is valid, spent, expired or revoked. Example:\n\n   picket-coordinator keys list --json"},
			{Name: "revoke", Usage: "make an auth key useless; nodes that joined with it stay", ArgsUsage: "ID", Flags: common, Action: revokeKey, BashComplete: keyIDs,
				Description: "ID is what `keys list` shows. Example:\n\n   picket-coordinator keys revoke xywseukwqhlxs"},
		},
	}
}

// created is what `keys create` prints with --json.
type created struct {
	coordinator.AuthKey
	Text string `json:"key"`
}

func createKey(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	tags := c.StringSlice("tag")
	if len(tags) == 0 {
		return cliflags.Usage(c, "--tag is missing: a node that joins by key belongs to no person, so its tags say who may reach it")
	}
	for _, t := range tags {
		if !strings.HasPrefix(t, "tag:") {
			return cliflags.Usage(c, "--tag %q is no tag: did you mean tag:%s?", t, t)
		}
	}
	if c.Duration("life") <= 0 {
		return cliflags.Usage(c, "--life must be longer than nothing, for example 1h")
	}
	k, err := opsocket.KeysCreate.Do(c.Context, client(c), opsocket.NewKey{Tags: tags, Reusable: c.Bool("reusable"), Life: c.Duration("life")})
	if err != nil {
		return err
	}
	return show(c, created{k.Key, k.Text}, func(w io.Writer) {
		uses := "once"
		if k.Key.Reusable {
			uses = "any number of times"
		}
		fmt.Fprintf(w, "%s\n\nUsable %s until %s. It is not shown again.\n", k.Text, uses, clock(k.Key.Expires))
	})
}

func listKeys(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	keys, err := opsocket.KeysList.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return show(c, keys, func(w io.Writer) {
		if len(keys) == 0 {
			fmt.Fprintln(w, "no auth keys yet: picket-coordinator keys create --tag TAG")
			return
		}
		var rows [][]string
		for _, k := range keys {
			rows = append(rows, []string{k.ID, k.State, strings.Join(k.Tags, ","), strconv.Itoa(k.Uses), clock(k.Created), clock(k.Expires), k.By})
		}
		table(w, "ID|STATE|TAGS|USES|CREATED|EXPIRES|BY", rows)
	})
}

func revokeKey(c *cli.Context) error {
	args, err := arguments(c, 1, "a key's id, as `keys list` shows it")
	if err != nil {
		return err
	}
	if _, err := opsocket.KeysRevoke.Do(c.Context, client(c), opsocket.Ref{Ref: args[0]}); err != nil {
		return err
	}
	return show(c, map[string]string{"revoked": args[0]}, func(w io.Writer) {
		fmt.Fprintf(w, "key %s is revoked\n", printable(args[0]))
	})
}
