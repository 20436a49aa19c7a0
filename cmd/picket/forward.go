package main

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/node/localapi"
)

func forwardCommand() *cli.Command {
	return &cli.Command{
		Name:         "forward",
		Usage:        "lead a port of this machine to a port of a peer",
		ArgsUsage:    "[ADDRESS:]PORT:PEER:PORT...",
		BashComplete: peerNames,
		Description: "Written as ssh -L writes it; works with and without a network interface, for as long as the command runs. Each connection is judged by the policy as any\n" +
			"other, and the peer is looked up each time. ADDRESS is 127.0.0.1 unless given, and always on loopback: whoever reaches it, any user of this machine, acts as\n" +
			"this node. Ports below 1024 are root's. When the agent restarts, the command asks again.\n\n" +
			"Examples:\n\n   picket forward 5432:db-1:5432\n   picket forward 8080:web-1:80 '[::1]:8080:web-1:80'\n   picket forward --udp 5353:resolver:53",
		Flags: asking(
			&cli.BoolFlag{Name: "udp", Usage: "lead datagrams; a flow ends after 180 s without one, and of more than 64 the one that was idle longest"},
			jsonFlag(),
		),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, localapi.MaxPassages, "PORT:PEER:PORT"); err != nil {
				return err
			}
			q, err := readForwards(c)
			if err != nil {
				return err
			}
			return keepAsking(c, func(ctx context.Context, event func(localapi.PassageEvent)) error {
				return client(c).Forward(ctx, q, event)
			})
		},
	}
}

func readForwards(c *cli.Context) (q localapi.AskForward, err error) {
	for _, word := range c.Args().Slice() {
		f, ok := parseForward(word)
		if !ok {
			return q, cliflags.Usage(c, "%q is not [ADDRESS:]PORT:PEER:PORT, such as 5432:db-1:5432 or [::1]:5432:db-1:5432", word)
		}
		f.UDP = c.Bool("udp")
		q.Forwards = append(q.Forwards, f)
	}
	return q, nil
}

// parseForward reads [ADDRESS:]PORT:PEER:PORT; what holds a colon itself stands in brackets. Whether the address may be had is the agent's to say.
func parseForward(s string) (f localapi.Forward, ok bool) {
	parts := splitColons(s)
	address := "127.0.0.1"
	if len(parts) == 4 {
		address, parts = parts[0], parts[1:]
	}
	if address == "localhost" {
		address = "127.0.0.1"
	}
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" || len(parts) != 3 || parts[1] == "" {
		return f, false
	}
	at, ok1 := parsePort(parts[0])
	to, ok2 := parsePort(parts[2])
	return localapi.Forward{Listen: netip.AddrPortFrom(a, at), Peer: parts[1], Port: to}, ok1 && ok2
}

// splitColons splits at colons outside brackets, and takes the brackets away; nil when they do not fit.
func splitColons(s string) (parts []string) {
	for {
		part, rest, more := strings.Cut(s, ":")
		if strings.HasPrefix(s, "[") {
			var closed bool
			if part, rest, closed = strings.Cut(s[1:], "]"); !closed {
				return nil
			}
			if more = rest != ""; more && rest[0] != ':' {
				return nil
			}
			rest = strings.TrimPrefix(rest, ":")
		}
		parts = append(parts, part)
		if s = rest; !more {
			return parts
		}
	}
}

// parsePort reads a number from 1 to 65535 as it is usually written.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}
