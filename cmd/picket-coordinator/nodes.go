package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/urfave/cli/v2"

	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
)

func nodesCommand() *cli.Command {
	common := []cli.Flag{dirFlag(), jsonFlag()}
	changing := append(waitFlags(), common...)
	return &cli.Command{
		Name:            "nodes",
		Usage:           "see and change nodes",
		Description:     "Example:\n\n   picket-coordinator nodes list",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list every node", Flags: common, Action: listNodes,
				Description: "A node marked egress-bypass has sent what its own filter must refuse, a peer says: quarantine it and look at its machine. " +
					"Nothing of it passed.\n\nExample:\n\n   picket-coordinator nodes list --json"},
			{Name: "show", Usage: "show one node in full", ArgsUsage: "NODE", Flags: common, Action: showNode, BashComplete: nodeNames,
				Description: "NODE is a name or an id.\n\nExample:\n\n   picket-coordinator nodes show web-1"},
			{Name: "rename", Usage: "give a node another name", ArgsUsage: "NODE NAME", Flags: changing, Action: renameNode, BashComplete: nodeNames,
				Description: "Example:\n\n   picket-coordinator nodes rename debian web-1"},
			{Name: "remove", Usage: "remove a node for good; it must join anew", ArgsUsage: "NODE", Flags: changing, Action: removeNode, BashComplete: nodeNames,
				Description: "Every peer drops it at once.\n\nExample:\n\n   picket-coordinator nodes remove web-1 --wait"},
			{Name: "quarantine", Usage: "take every flow from a node without removing it", ArgsUsage: "NODE",
				Flags:  append([]cli.Flag{&cli.BoolFlag{Name: "off", Usage: "end the quarantine"}}, changing...),
				Action: quarantineNode, BashComplete: nodeNames,
				Description: "Examples:\n\n   picket-coordinator nodes quarantine web-1 --wait\n   picket-coordinator nodes quarantine web-1 --off"},
			routesCommand(),
		},
	}
}

func listNodes(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	nodes, err := opsocket.NodesList.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return show(c, nodes, func(w io.Writer) {
		if len(nodes) == 0 {
			fmt.Fprintln(w, "no nodes yet: on a host, `picket up --coordinator JOIN`")
			return
		}
		var rows [][]string
		for _, n := range nodes {
			rows = append(rows, []string{n.Name, ownerOrTags(n.Owner, n.Tags), addresses(n.Addresses), presence(n), strconv.FormatUint(n.Generation, 10), n.Version})
		}
		table(w, "NAME|OWNER OR TAGS|ADDRESSES|SEEN|GENERATION|VERSION", rows)
	})
}

func presence(n coordinator.NodeView) string {
	seen := ago(n.LastSeen)
	if n.Online {
		seen = "online"
	}
	if n.Quarantined {
		seen += ", quarantined"
	}
	if n.Bypass != nil {
		seen += ", egress-bypass " + ago(n.Bypass.At)
	}
	return seen
}

// bypass says who has seen the node send what its own filter must refuse.
func bypass(a *coordinator.Accusation) string {
	if a == nil {
		return "not seen"
	}
	return fmt.Sprintf("%s says so, %s: e.g. %s (picket-coordinator audit list has them all)", a.By, ago(a.At), dash(a.Flow))
}

func showNode(c *cli.Context) error {
	args, err := arguments(c, 1, "a node's name or id")
	if err != nil {
		return err
	}
	n, err := opsocket.NodesShow.Do(c.Context, client(c), opsocket.Ref{Ref: args[0]})
	if err != nil {
		return unknown(err, "node", args[0])
	}
	return show(c, n, func(w io.Writer) {
		fields(w, [][]string{
			{"name", n.Name},
			{"id", string(n.ID)},
			{"owner or tags", ownerOrTags(n.Owner, n.Tags)},
			{"addresses", addresses(n.Addresses)},
			{"host", fmt.Sprintf("%s, %s, picket %s", n.Hostname, n.OS, n.Version)},
			{"device key", n.Device},
			{"seen", presence(n)},
			{"session from", dash(n.From)},
			{"generation", strconv.FormatUint(n.Generation, 10)},
			{"lease ends", clock(n.LeaseEnds)},
			{"joined", clock(n.Created)},
			{"login expires", clock(n.Expires)},
			{"peers", strconv.Itoa(n.Peers)},
			{"egress-bypass", bypass(n.Bypass)},
		})
	})
}

func renameNode(c *cli.Context) error {
	args, err := arguments(c, 2, "a node and its new name")
	if err != nil {
		return err
	}
	change, err := opsocket.NodesRename.Do(c.Context, client(c), opsocket.Rename{Ref: args[0], Name: args[1]})
	if err != nil {
		return unknown(err, "node", args[0])
	}
	return report(c, change)
}

func removeNode(c *cli.Context) error {
	args, err := arguments(c, 1, "a node's name or id")
	if err != nil {
		return err
	}
	change, err := opsocket.NodesRemove.Do(c.Context, client(c), opsocket.Ref{Ref: args[0]})
	if err != nil {
		return unknown(err, "node", args[0])
	}
	return report(c, change)
}

func quarantineNode(c *cli.Context) error {
	args, err := arguments(c, 1, "a node's name or id")
	if err != nil {
		return err
	}
	change, err := opsocket.NodesQuarantine.Do(c.Context, client(c), opsocket.Quarantine{Ref: args[0], On: !c.Bool("off")})
	if err != nil {
		return unknown(err, "node", args[0])
	}
	return report(c, change)
}
