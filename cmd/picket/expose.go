package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/node/localapi"
)

func exposeCommand() *cli.Command {
	return &cli.Command{
		Name:      "expose",
		Usage:     "lead peers who may open a port of this node to a service on its loopback",
		ArgsUsage: "PORT[:LOCALPORT]...",
		Description: "Peers whom the policy lets reach PORT arrive at 127.0.0.1:LOCALPORT (PORT unless given), for as long as the command runs: it allows nothing, and warns when no\n" +
			"rule lets a peer in. For services that listen on loopback alone. Without a network interface peers arrive at the same port anyway, unless the agent runs with\n" +
			"--inbound=exposed; datagrams (--udp) are led on there alone. When the agent restarts, the command asks again.\n\n" +
			"Examples:\n\n   picket expose 8080\n   picket expose 80:8080 443:8443\n   picket expose --udp 5353",
		Flags: asking(&cli.BoolFlag{Name: "udp", Usage: "lead datagrams; without a network interface only"}, jsonFlag()),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, localapi.MaxPassages, "PORT[:LOCALPORT]"); err != nil {
				return err
			}
			var q localapi.AskExpose
			for _, word := range c.Args().Slice() {
				x, ok := parseExpose(word)
				if !ok {
					return cliflags.Usage(c, "%q is not PORT[:LOCALPORT], such as 8080 or 80:8080", word)
				}
				x.UDP = c.Bool("udp")
				q.Exposed = append(q.Exposed, x)
			}
			return keepAsking(c, func(ctx context.Context, event func(localapi.PassageEvent)) error {
				return client(c).Expose(ctx, q, event)
			})
		},
	}
}

// parseExpose reads PORT[:LOCALPORT].
func parseExpose(s string) (x localapi.Expose, ok bool) {
	port, to, mapped := strings.Cut(s, ":")
	if !mapped {
		to = port
	}
	var ok1, ok2 bool
	x.Port, ok1 = parsePort(port)
	x.To, ok2 = parsePort(to)
	return x, ok1 && ok2
}
