package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node"
	"picket.internal/node/dns"
	"picket.internal/node/localapi"
)

// hostDNS is how programs of this host learn of peers' names: with an interface by way of its resolver, without one not at all.
func hostDNS(tun, how, state string, logger *slog.Logger) node.DNS {
	switch {
	case how == "off":
		return node.DNS{Host: dns.NoHost("the agent was started with --dns=off: ask with picket dns query")}
	case tun == node.Userspace:
		return node.DNS{Host: dns.NoHost("without a network interface nothing of this host is changed: use the proxy, or ask with picket dns query")}
	}
	return node.DNS{Host: dns.OpenHost(dns.HostConfig{Sure: how == "on", State: state, Logger: logger}), Listen: dns.Listen}
}

func dnsCommand() *cli.Command {
	return &cli.Command{
		Name: "dns", Usage: "see how names are resolved, and ask for one", HideHelpCommand: true,
		Description: "Peers are called NAME.DOMAIN, or NAME alone. `picket up --dns=off` leaves this machine's resolver as it is.\n\nExample:\n\n   picket dns status",
		Subcommands: []*cli.Command{
			{
				Name: "status", Usage: "say where names are asked for, and what was changed on this machine", Flags: asking(jsonFlag()),
				Description: "Exit status 1 when something stands in the way.\n\nExamples:\n\n   picket dns status\n   picket dns status --json",
				Action:      dnsStatus,
			},
			{
				Name: "query", Usage: "ask for a name, and see who answered", ArgsUsage: "NAME [TYPE]", Flags: asking(jsonFlag()), BashComplete: peerNames,
				Description: "TYPE is A unless given, and PTR for an address. Without a type A and AAAA are asked for. Exit status 1 when there is nothing.\n\n" +
					"Examples:\n\n   picket dns query db-1\n   picket dns query example.com MX\n   picket dns query 100.64.0.7",
				Action: dnsQuery,
			},
		},
	}
}

func dnsStatus(c *cli.Context) error {
	if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
		return err
	}
	d, err := client(c).DNS(c.Context)
	if err != nil {
		return explain(err)
	}
	if err := show(c, d, func(w io.Writer) { showDNS(w, d) }); err != nil {
		return err
	}
	if d.Trouble != "" {
		return cli.Exit("", cliflags.ExitFailed)
	}
	return nil
}

func showDNS(w io.Writer, d localapi.DNS) {
	pairs := []string{"Names", namesText(d), "Mode", d.Mode, "Why", d.Why, "Changed here", strings.Join(d.Changed, ", "), "Answers at", d.Listen}
	if d.UDPOnly {
		pairs[len(pairs)-1] += ", by UDP only: another program has TCP port 53 at every address"
	}
	if d.On {
		pairs = append(pairs, "Other names", strings.Join(d.Upstream, ", "))
		if len(d.Upstream) == 0 {
			pairs[len(pairs)-1] = "nobody is asked: no resolver is known"
			if d.Mode == "systemd-resolved" {
				pairs[len(pairs)-1] = "do not come here"
			}
		}
	}
	for _, s := range d.Split {
		by := strings.Join(s.Nameservers, ", ")
		if by == "" {
			by = "nobody: this node may not reach who knows them"
		}
		pairs = append(pairs, "Below "+protocol.Printable(s.Domain), by)
	}
	pairs = append(pairs, "Search", strings.Join(d.Search, ", "))
	if d.Records > 0 {
		pairs = append(pairs, "Records", fmt.Sprint(d.Records))
	}
	fields(w, pairs...)
	if d.Trouble != "" {
		fmt.Fprintf(w, "! %s\n", protocol.Printable(d.Trouble))
	}
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// namesText says in a few words whether peers' names are resolved; "" when the tunnel is down.
func namesText(d localapi.DNS) string {
	switch {
	case d.Off:
		return "not resolved: picket up --dns=on"
	case !d.On:
		return "not resolved while nothing passes"
	case d.Domain == "":
		return "the coordinator gives nodes no domain: it is of an older version"
	case d.Trouble != "":
		return "NAME." + d.Domain + ", with trouble"
	}
	return "NAME." + d.Domain
}

func dnsQuery(c *cli.Context) error {
	if err := cliflags.NArgs(c, 1, 2, "NAME [TYPE]"); err != nil {
		return err
	}
	name, types := c.Args().First(), []string{"A", "AAAA"}
	switch {
	case c.NArg() == 2:
		types = []string{c.Args().Get(1)}
	case isAddress(name):
		types = []string{"PTR"}
	}
	replies := []localapi.DNSReply{}
	found := false
	for _, t := range types {
		r, err := client(c).QueryDNS(c.Context, localapi.QueryDNS{Name: name, Type: t})
		if err != nil {
			return explain(err)
		}
		replies = append(replies, r)
		found = found || len(r.Records) > 0
	}
	if err := show(c, replies, func(w io.Writer) { showReplies(w, replies) }); err != nil {
		return err
	}
	if !found {
		return cli.Exit("", cliflags.ExitFailed)
	}
	return nil
}

func showReplies(w io.Writer, replies []localapi.DNSReply) {
	none := true
	for _, r := range replies {
		for _, text := range r.Records {
			none = false
			fmt.Fprintln(w, protocol.Printable(strings.ReplaceAll(text, "\t", "  ")))
		}
	}
	r := replies[0]
	if none {
		why := map[string]string{"NOERROR": "it has nothing of that type", "NXDOMAIN": "there is no such name", "SERVFAIL": "it could not be found out", "REFUSED": "the question is refused"}[r.Status]
		if why == "" {
			why = r.Status
		}
		fmt.Fprintf(w, "%s %s\n", protocol.Printable(r.Name), why)
	}
	fmt.Fprintf(w, "Answered by %s.\n", protocol.Printable(r.From))
}

// restoreDNS takes back what an agent that was killed left of its settings on this machine; it says so when there was nobody to ask.
func restoreDNS(ctx context.Context, log io.Writer, down error) error {
	if !errors.Is(down, localapi.ErrNoAgent) || os.Geteuid() != 0 {
		return down
	}
	return errors.Join(down, dns.RestoreHost(ctx, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))))
}
