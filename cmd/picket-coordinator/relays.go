package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
	"picket.internal/coordinator/protocol"
)

func relaysCommand() *cli.Command {
	common := []cli.Flag{dirFlag(), jsonFlag()}
	changing := append(waitFlags(), common...)
	return &cli.Command{
		Name:  "relays",
		Usage: "say through which relays nodes without a direct path reach each other",
		Description: "The coordinator relays itself, unless it runs with --relay=off. Others are nearer to some nodes, or take over when it is away.\n\n" +
			"Example:\n\n   picket-coordinator relays add ber-1 https://ber-1.example.com:8443 --wait",
		HideHelpCommand: true,
		Subcommands: []*cli.Command{
			{Name: "add", Usage: "tell nodes of a relay", ArgsUsage: "NAME URL", Action: addRelay,
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "fingerprint", Usage: "the relay's `FINGERPRINT`, as it printed it when it started; not needed where its certificate is trusted by nodes' systems"},
					&cli.StringFlag{Name: "reflect", Usage: "UDP `PORT`s of the relay that tell nodes where they are seen from, as it printed them: 3478,3479"},
				}, changing...),
				Description: "The relay runs elsewhere. It sees which nodes talk, when and how much, and not what: name none that you do not run, or trust that far.\n\n" +
					"Examples:\n\n   picket-coordinator relays add ber-1 https://ber-1.example.com:8443\n" +
					"   picket-coordinator relays add lab https://192.0.2.7:8443 --fingerprint 43LETTERS"},
			{Name: "list", Usage: "list relays, with how many online nodes each is home to", Flags: common, Action: listRelays,
				Description: "Peers find a node at its home, the relay that is nearest to it. With serve --cluster-listen the list says which relays are heard of. Example:\n\n   picket-coordinator relays list --json"},
			{Name: "remove", Usage: "take a relay out of use", ArgsUsage: "NAME", Flags: changing, Action: removeRelay, BashComplete: relayNames,
				Description: "Nodes leave it at once for another. Example:\n\n   picket-coordinator relays remove ber-1 --wait"},
		},
	}
}

func addRelay(c *cli.Context) error {
	args, err := arguments(c, 2, "a name for the relay and its URL")
	if err != nil {
		return err
	}
	r := protocol.Relay{Name: args[0], URL: args[1], Fingerprint: c.String("fingerprint")}
	if r.Reflect, err = readPorts(c.String("reflect")); err != nil {
		return cliflags.Usage(c, "%s", err)
	}
	if err := protocol.CheckRelay(r); err != nil {
		return cliflags.Usage(c, "%s", err)
	}
	change, err := opsocket.RelaysAdd.Do(c.Context, client(c), r)
	if err != nil {
		return err
	}
	return report(c, change)
}

// readPorts reads "3478,3479"; empty is none.
func readPorts(text string) (out []uint16, err error) {
	if text == "" {
		return nil, nil
	}
	for one := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseUint(one, 10, 16)
		if err != nil || strconv.FormatUint(n, 10) != one || n == 0 {
			return nil, fmt.Errorf("--reflect %.70q is no list of ports: write them as the relay printed them, 3478,3479", text)
		}
		out = append(out, uint16(n))
	}
	return out, nil
}

func portsText(ports []uint16) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = strconv.Itoa(int(p))
	}
	return strings.Join(words, ",")
}

func listRelays(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	relays, err := opsocket.RelaysList.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	return show(c, relays, func(w io.Writer) {
		if len(relays) == 0 {
			fmt.Fprintln(w, "no relays: nodes reach each other by direct paths only. Serve without --relay=off, or `picket-coordinator relays add`")
			return
		}
		header := "NAME|URL|NODES|REFLECTS|ADDED|BY|FINGERPRINT"
		var rows [][]string
		for _, r := range relays {
			at, by := r.URL, r.By
			if r.Name == protocol.OwnRelay {
				at, by = "in the coordinator", "serve --relay"
			}
			row := []string{r.Name, at, strconv.Itoa(r.Nodes), dash(portsText(r.Reflect)), clock(r.Created), by, dash(r.Fingerprint)}
			if r.Presence != nil {
				header = "NAME|STATE|CLIENTS|VERSION|URL|NODES|REFLECTS|ADDED|BY|FINGERPRINT"
				row = slices.Insert(row, 1, presenceText(*r.Presence)...)
			}
			rows = append(rows, row)
		}
		table(w, header, rows)
	})
}

// presenceText is a relay's state, clients and version, as it says them itself.
func presenceText(p coordinator.RelayPresence) []string {
	switch {
	case !p.Heard:
		return []string{"not heard", "-", "-"}
	case !p.Alive:
		return []string{"gone, " + ago(p.Since), "-", dash(p.Version)}
	}
	return []string{"alive", strconv.Itoa(p.Clients), dash(p.Version)}
}

func removeRelay(c *cli.Context) error {
	args, err := arguments(c, 1, "a relay's name, as `relays list` shows it")
	if err != nil {
		return err
	}
	change, err := opsocket.RelaysRemove.Do(c.Context, client(c), opsocket.Ref{Ref: args[0]})
	if err != nil {
		return err
	}
	return report(c, change)
}
