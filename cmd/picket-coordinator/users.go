package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
)

func usersCommand() *cli.Command {
	common := []cli.Flag{dirFlag(), jsonFlag()}
	return &cli.Command{
		Name:            "users",
		Usage:           "see, invite and remove people",
		Description:     "Example:\n\n   picket-coordinator users add bob@example.com",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list every account", Flags: common, Action: listUsers,
				Description: "Example:\n\n   picket-coordinator users list --json"},
			{Name: "add", Usage: "invite a person: prints a setup link that works once", ArgsUsage: "EMAIL",
				Flags: append([]cli.Flag{
					&cli.BoolFlag{Name: "admin", Usage: "may administer the network"},
					urlFlag("print the link under this `URL`, when it is not the one the coordinator was started with"),
				}, common...),
				Action: addUser, Description: "An invited person who has lost the link is invited again by the same command; the old link is void then.\n\nExample:\n\n   picket-coordinator users add bob@example.com"},
			{Name: "remove", Usage: "remove a person, with all nodes, auth keys and tokens", ArgsUsage: "EMAIL", Flags: append(waitFlags(), common...), Action: removeUser, BashComplete: userLogins,
				Description: "Example:\n\n   picket-coordinator users remove bob@example.com --wait"},
			{Name: "groups", Usage: "list the groups that the policy in force puts people in", ArgsUsage: "[EMAIL]", Flags: common, Action: userGroups, BashComplete: userLogins,
				Description: "Groups are kept in the policy file.\n\nExample:\n\n   picket-coordinator users groups bob@example.com"},
		},
	}
}

func urlFlag(usage string) cli.Flag { return &cli.StringFlag{Name: "url", Usage: usage} }

func listUsers(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	users, err := opsocket.UsersList.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return show(c, users, func(w io.Writer) {
		if len(users) == 0 {
			fmt.Fprintln(w, "no accounts yet: open the link that `picket-coordinator serve` printed as First admin")
			return
		}
		var rows [][]string
		for _, u := range users {
			rows = append(rows, []string{u.Login, string(u.Role), u.State, strconv.Itoa(u.Nodes), dash(strings.Join(u.Groups, " "))})
		}
		table(w, "LOGIN|ROLE|STATE|NODES|GROUPS", rows)
	})
}

// invited is what `users add` prints with --json.
type invited struct {
	User coordinator.User `json:"user"`
	URL  string           `json:"url"`
}

func addUser(c *cli.Context) error {
	args, err := arguments(c, 1, "an e-mail address")
	if err != nil {
		return err
	}
	role := coordinator.RoleMember
	if c.Bool("admin") {
		role = coordinator.RoleAdmin
	}
	added, err := opsocket.UsersAdd.Do(c.Context, client(c), opsocket.AddUser{Login: args[0], Role: role})
	if err != nil {
		return err
	}
	base := c.String("url")
	if base == "" {
		base = added.URL
	}
	link := setupLink(base, added.Token)
	return show(c, invited{added.User, link}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is invited. This link sets up the account; it works once, for 72 hours:\n\n  %s\n", printable(added.User.Login), link)
	})
}

func setupLink(base, token string) string { return strings.TrimSuffix(base, "/") + "/setup/" + token }

func removeUser(c *cli.Context) error {
	args, err := arguments(c, 1, "an e-mail address")
	if err != nil {
		return err
	}
	change, err := opsocket.UsersRemove.Do(c.Context, client(c), opsocket.Ref{Ref: args[0]})
	if err != nil {
		return unknown(err, "user", args[0])
	}
	return report(c, change)
}

func userGroups(c *cli.Context) error {
	if c.NArg() > 1 {
		return cliflags.Usage(c, "%q is one word too many: this command takes one e-mail address at most", c.Args().Get(1))
	}
	users, err := opsocket.UsersList.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	groups := map[string][]string{}
	for _, u := range users {
		if c.NArg() == 0 || strings.EqualFold(u.Login, c.Args().First()) {
			groups[u.Login] = append([]string{}, u.Groups...)
		}
	}
	if c.NArg() == 1 && len(groups) == 0 {
		return fmt.Errorf("no account %s: see `picket-coordinator users list`", printable(c.Args().First()))
	}
	return show(c, groups, func(w io.Writer) {
		var rows [][]string
		for _, u := range users {
			if g, ok := groups[u.Login]; ok {
				rows = append(rows, []string{u.Login, dash(strings.Join(g, " "))})
			}
		}
		table(w, "LOGIN|GROUPS", rows)
	})
}
