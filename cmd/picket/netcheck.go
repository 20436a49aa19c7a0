package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node"
	"picket.internal/node/localapi"
)

func netcheckCommand() *cli.Command {
	return &cli.Command{
		Name:  "netcheck",
		Usage: "say what this machine's network lets direct paths do",
		Description: "Asks the coordinator's reflectors where the tunnel's UDP port is seen from, and the default gateway which port mappings it speaks.\n" +
			"With --coordinator it does so before this machine has joined, without an agent: whether that coordinator and its relay are reached, and what UDP does.\n" +
			"Exit status 1 when UDP is blocked, or the coordinator is not reached.\n\nExamples:\n\n   picket netcheck\n   picket netcheck --json\n" +
			"   picket netcheck --coordinator 'https://picket.example.com:8443#FINGERPRINT'",
		Flags: asking(&cli.StringFlag{Name: "coordinator", Usage: "before joining: check against the coordinator that has this `JOIN` string, or URL"}, jsonFlag()),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			n, err := netcheck(c)
			if err != nil {
				return err
			}
			if err := show(c, n, func(w io.Writer) { writeNetcheck(w, n, time.Now()) }); err != nil {
				return err
			}
			if !n.UDP || n.Coordinator != nil && n.Coordinator.Problem != "" {
				return cli.Exit("", cliflags.ExitFailed)
			}
			return nil
		},
	}
}

// netcheck asks the agent, or does without one.
func netcheck(c *cli.Context) (localapi.Netcheck, error) {
	if !c.IsSet("coordinator") {
		n, err := client(c).Netcheck(c.Context)
		if errors.Is(err, localapi.ErrNoAgent) {
			return n, fmt.Errorf("%w; before this machine has joined, picket netcheck --coordinator JOIN checks without one", explain(err))
		}
		return n, explain(err)
	}
	join, err := protocol.ParseJoin(c.String("coordinator"))
	if err != nil {
		return localapi.Netcheck{}, err
	}
	return node.Precheck(c.Context, join, true, slog.New(slog.DiscardHandler))
}

func writeNetcheck(w io.Writer, n localapi.Netcheck, now time.Time) {
	member := n.Coordinator == nil
	var pairs []string
	if !member {
		pairs = append(pairs, "Coordinator", coordinatorText(*n.Coordinator))
	}
	pairs = append(pairs, "UDP", udpText(n), "IPv4", seenText(n.IPv4, "IPv4"), "IPv6", seenText(n.IPv6, "IPv6"))
	if member && n.IPv4.Mapping != "" && n.IPv4.Mapping != localapi.MappingNone {
		pairs = append(pairs, "Hairpin", map[bool]string{
			true:  "yes: machines behind this NAT find each other at its public address, too",
			false: "no: machines behind this NAT find each other at their own addresses alone",
		}[n.Hairpin])
	}
	pairs = append(pairs, "Port mapping", mappingText(n.PortMapping, now))
	list := func(title string, texts []string) {
		for _, t := range texts {
			pairs = append(pairs, title, t)
			title = ""
		}
	}
	list("Reflectors", each(n.Reflectors, reflectorText))
	list("Relays", each(n.Relays, relayText))
	if member {
		if len(n.Relays) == 0 {
			pairs = append(pairs, "Relays", "none: the network has none, or this node has no peer to meet there")
		}
		pairs = append(pairs, "Peers are told", joined(n.Told))
	}
	fields(w, pairs...)
	fmt.Fprintln(w, protocol.Printable(outlook(n)))
}

func each[T any](list []T, text func(T) string) (out []string) {
	for _, x := range list {
		out = append(out, text(x))
	}
	return out
}

func udpText(n localapi.Netcheck) string {
	switch {
	case n.UDP && n.Coordinator != nil:
		return "works"
	case n.UDP:
		return fmt.Sprintf("works, from port %d", n.Port)
	case n.Coordinator != nil:
		return "blocked: nothing answers at ports 3478 and 3479 of the coordinator's host"
	}
	return fmt.Sprintf("blocked: no reflector answers port %d", n.Port)
}

func coordinatorText(c localapi.NetcheckCoordinator) string {
	if c.Problem != "" {
		return protocol.Printable(c.Problem)
	}
	return fmt.Sprintf("%s answers in %s, and proves its key", protocol.Printable(c.URL), millis(c.Latency))
}

func seenText(f localapi.NetcheckFamily, version string) string {
	switch f.Mapping {
	case localapi.MappingNone:
		return "public " + joined(f.Seen) + ", without NAT"
	case localapi.MappingSame:
		return "public " + joined(f.Seen) + ", by a NAT that lends the same port for all destinations" + keptText(f)
	case localapi.MappingVaries:
		return "public " + joined(f.Seen) + ", by a NAT that lends each destination another port"
	case localapi.MappingUnknown:
		return "public " + joined(f.Seen) + ", by a NAT; what it does for other destinations takes a second reflector to tell" + keptText(f)
	}
	if len(f.Local) == 0 {
		return "none: this machine has no " + version + " address"
	}
	return "no reflector answers over it (this machine has " + locals(f) + ")"
}

func locals(f localapi.NetcheckFamily) string {
	var out []string
	for _, a := range f.Local {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

func keptText(f localapi.NetcheckFamily) string {
	if f.Kept {
		return " and keeps our number for it"
	}
	return ""
}

func mappingText(m localapi.NetcheckPortMapping, now time.Time) string {
	switch {
	case m.Off:
		return "off, by --port-mapping=off"
	case m.Protocol != "":
		return fmt.Sprintf("%s leads here by %s until %s; the gateway speaks %s", m.Outside, m.Protocol, clock(m.Until, now), strings.Join(m.Spoken, ", "))
	case len(m.Spoken) > 0:
		return "none, though the gateway speaks " + strings.Join(m.Spoken, ", ") + ": " + strings.ReplaceAll(m.Problem, "\n", "; ")
	case m.Problem != "":
		return "none: " + m.Problem
	}
	return "none: the gateway speaks neither PCP, NAT-PMP nor UPnP"
}

func reflectorText(r localapi.NetcheckReflector) string {
	switch {
	case r.Seen.IsValid():
		return fmt.Sprintf("%s answers in %s: %s", r.Address, millis(r.Latency), r.Seen)
	case r.NoRoute:
		return fmt.Sprintf("%s cannot be reached: there is no route", r.Address)
	}
	return fmt.Sprintf("%s does not answer", r.Address)
}

func relayText(r localapi.NetcheckRelay) string {
	switch {
	case r.Connected && r.Home:
		return fmt.Sprintf("%s answers in %s, and peers find this node there", r.Name, millis(r.Latency))
	case r.Connected:
		return fmt.Sprintf("%s answers in %s", r.Name, millis(r.Latency))
	case r.Problem != "":
		return r.Name + " is not connected: " + r.Problem
	}
	return r.Name + " is not connected yet"
}

func joined(list []netip.AddrPort) string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

// outlook says in one sentence what to expect.
func outlook(n localapi.Netcheck) string {
	open := n.PortMapping.Protocol != ""
	is := func(m localapi.Mapping) bool { return n.IPv4.Mapping == m || n.IPv6.Mapping == m }
	switch {
	case n.Coordinator != nil && n.Coordinator.Problem != "":
		return "This machine cannot join from here until the coordinator is reached."
	case n.Coordinator != nil && !n.UDP:
		return "Joining works. Direct paths beyond this network do not, unless the coordinator reflects elsewhere or not at all: let UDP out to it and to peers, or all goes through relays."
	case !n.UDP:
		return "Direct paths are not possible beyond this network: let UDP out to the coordinator's reflectors and to peers."
	case is(localapi.MappingNone) || open:
		return "Direct paths: from and to every peer that can send UDP, unless a firewall here drops it."
	case is(localapi.MappingSame):
		return "Direct paths: with every peer whose NAT lends the same port for all destinations, and with open ones."
	case is(localapi.MappingVaries):
		return "Direct paths: only with peers that are open, or whose NAT lets anybody in. A port mapping at the gateway (PCP, NAT-PMP or UPnP), or a forwarded port with --port, opens this machine to all."
	}
	return "Direct paths: with open peers; what else is possible takes a second reflector to tell."
}
