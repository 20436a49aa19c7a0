package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func netcheckCommand() *cli.Command {
	return &cli.Command{
		Name:  "netcheck",
		Usage: "say what this machine's network lets direct paths do",
		Description: "Asks the reflectors of the coordinator, and of up to two relays, where the tunnel's UDP port is seen from, and the default gateway which port mappings it speaks.\n" +
			"Exit status 1 when UDP is blocked.\n\nExamples:\n\n   picket netcheck\n   picket netcheck --json",
		Flags: asking(jsonFlag()),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			n, err := client(c).Netcheck(c.Context)
			if err != nil {
				return explain(err)
			}
			if err := show(c, n, func(w io.Writer) { writeNetcheck(w, n, time.Now()) }); err != nil {
				return err
			}
			if !n.UDP {
				return cli.Exit("", cliflags.ExitFailed)
			}
			return nil
		},
	}
}

func writeNetcheck(w io.Writer, n localapi.Netcheck, now time.Time) {
	udp := fmt.Sprintf("works, from port %d", n.Port)
	if !n.UDP {
		udp = fmt.Sprintf("blocked: no reflector answers port %d", n.Port)
	}
	pairs := []string{"UDP", udp, "IPv4", seenText(n.IPv4, "IPv4"), "IPv6", seenText(n.IPv6, "IPv6")}
	if n.IPv4.Mapping != "" && n.IPv4.Mapping != localapi.MappingNone {
		pairs = append(pairs, "Hairpin", map[bool]string{
			true:  "yes: machines behind this NAT find each other at its public address, too",
			false: "no: machines behind this NAT find each other at their own addresses alone",
		}[n.Hairpin])
	}
	pairs = append(pairs, "Port mapping", mappingText(n.PortMapping, now))
	for i, r := range n.Reflectors {
		title := ""
		if i == 0 {
			title = "Reflectors"
		}
		pairs = append(pairs, title, reflectorText(r))
	}
	for i, r := range n.Relays {
		title := ""
		if i == 0 {
			title = "Relays"
		}
		pairs = append(pairs, title, relayText(r))
	}
	if len(n.Relays) == 0 {
		pairs = append(pairs, "Relays", "none: the network has none, or this node has no peer to meet there")
	}
	fields(w, append(pairs, "Peers are told", joined(n.Told))...)
	fmt.Fprintln(w, protocol.Printable(outlook(n)))
}

func seenText(f localapi.NetcheckFamily, version string) string {
	switch f.Mapping {
	case localapi.MappingNone:
		return "public " + joined(f.Seen) + ", without NAT"
	case localapi.MappingSame:
		return "public " + joined(f.Seen) + ", by a NAT that lends the same port for all destinations" + keptText(f)
	case localapi.MappingByAddress:
		return "public " + joined(f.Seen) + ", by a NAT that lends another port for each address (address-dependent mapping)"
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
	who := r.Address.String()
	if r.Relay != "" {
		who += " of the relay " + r.Relay
	}
	switch {
	case r.Seen.IsValid():
		return fmt.Sprintf("%s answers in %s: %s", who, millis(r.Latency), r.Seen)
	case r.NoRoute:
		return fmt.Sprintf("%s cannot be reached: there is no route", who)
	}
	return fmt.Sprintf("%s does not answer", who)
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

const opens = "A port mapping at the gateway (PCP, NAT-PMP or UPnP), or a forwarded port with --port, opens this machine to all."

// oneAddress is what remains in doubt where all reflectors that answer over a version behind a NAT have one address.
func oneAddress(n localapi.Netcheck) string {
	for _, f := range []localapi.NetcheckFamily{n.IPv4, n.IPv6} {
		if f.Mapping == localapi.MappingSame && f.Addresses == 1 {
			return " A NAT that lends another port for each address would look the same: the reflectors that answer have but one (a relay's is another)."
		}
	}
	return ""
}

// outlook says in one sentence what to expect.
func outlook(n localapi.Netcheck) string {
	open := n.PortMapping.Protocol != ""
	is := func(m localapi.Mapping) bool { return n.IPv4.Mapping == m || n.IPv6.Mapping == m }
	switch {
	case !n.UDP:
		return "Direct paths are not possible beyond this network: let UDP out to the coordinator's reflectors and to peers."
	case is(localapi.MappingNone) || open:
		return "Direct paths: from and to every peer that can send UDP, unless a firewall here drops it."
	case is(localapi.MappingSame):
		return "Direct paths: with every peer whose NAT lends the same port for all destinations, and with open ones." + oneAddress(n)
	case is(localapi.MappingByAddress):
		return "Direct paths: with peers that are open, or whose NAT lets in whoever it has sent to, from any port; not with the many home routers that look at the port, too. " + opens
	case is(localapi.MappingVaries):
		return "Direct paths: only with peers that are open, or whose NAT lets anybody in. " + opens
	}
	return "Direct paths: with open peers; what else is possible takes a second reflector to tell."
}
