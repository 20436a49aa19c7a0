package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
)

func keysCommand() *cli.Command {
	common := []cli.Flag{dirFlag(), jsonFlag()}
	return &cli.Command{
		Name:            "keys",
		Usage:           "make, list and revoke auth keys, with which servers join by themselves",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			{Name: "create", Usage: "make an auth key; it is shown this once", Action: createKey,
				Flags: append([]cli.Flag{
					&cli.StringSliceFlag{Name: "tag", Usage: "nodes that join with it get this `TAG`, which the policy's tagOwners must define (repeat for more)"},
					&cli.BoolFlag{Name: "reusable", Usage: "may be used more than once"},
					&cli.DurationFlag{Name: "life", Value: time.Hour, Usage: "valid for this `LONG`"},
				}, common...),
				Description: "Example:\n\n   picket-coordinator keys create --tag tag:db\n   picket-coordinator keys create --tag tag:web --reusable --life 24h"},
			{Name: "list", Usage: "list auth keys, without their secrets", Flags: common, Action: listKeys},
			{Name: "revoke", Usage: "make an auth key useless; nodes that joined with it stay", ArgsUsage: "ID", Flags: common, Action: revokeKey},
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
		return &usageError{"keys create needs at least one --tag: a node that joins by key belongs to no person, so its tags say who may reach it"}
	}
	if c.Duration("life") <= 0 {
		return &usageError{"--life must be longer than nothing, for example 1h"}
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
