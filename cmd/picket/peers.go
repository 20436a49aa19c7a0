package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func peersCommand() *cli.Command {
	return &cli.Command{
		Name:         "peers",
		Usage:        "list whom this machine may talk to, or show one peer in full",
		ArgsUsage:    "[NAME]",
		BashComplete: peerNames,
		Description:  "OUT is what this machine may open there, IN what the peer may open here. PATH is \"idle\" for a peer without traffic\nfor some minutes: the next packet, from either side, finds a path anew.\n\nExamples:\n\n   picket peers\n   picket peers db-1\n   picket peers --json",
		Flags:        asking(jsonFlag()),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 1, "a NAME"); err != nil {
				return err
			}
			peers, err := client(c).Peers(c.Context)
			if err != nil {
				return explain(err)
			}
			if name := c.Args().First(); name != "" {
				return showPeer(c, peers, name)
			}
			return show(c, peers, func(w io.Writer) { peersTable(w, peers, time.Now()) })
		},
	}
}

func peersTable(w io.Writer, peers []localapi.Peer, now time.Time) {
	if len(peers) == 0 {
		fmt.Fprintln(w, "No peers: the policy allows no flow from or to this machine, or it is not connected (picket status).")
		return
	}
	rows := [][]string{{"NAME", "OWNER", "ADDRESS", "PATH", "RTT", "SEEN", "RX/TX", "OUT", "IN"}}
	for _, p := range peers {
		rows = append(rows, peerRow(p, now))
	}
	writeRows(w, rows, columnWidths(rows, tableWidth))
	for _, p := range peers {
		if p.Indirect != "" {
			fmt.Fprintf(w, "! no direct path to %s: %s\n", protocol.Printable(p.Name), protocol.Printable(p.Indirect))
		}
		if p.Refused != "" {
			fmt.Fprintf(w, "! %s is refused: %s\n", protocol.Printable(p.Name), protocol.Printable(p.Refused))
		}
	}
}

func peerRow(p localapi.Peer, now time.Time) []string {
	address := ""
	if len(p.Addresses) > 0 {
		address = p.Addresses[0].String()
	}
	seen := "-"
	if !p.LastHandshake.IsZero() {
		seen = span(max(0, now.Sub(p.LastHandshake)))
	}
	row := []string{
		p.Name, ownerText(p), address, pathText(p), millis(p.Latency), seen, size(p.RxBytes) + "/" + size(p.TxBytes), allowedText(p.Out), allowedText(p.In),
	}
	for i := range row {
		row[i] = protocol.Printable(row[i])
	}
	return row
}

func ownerText(p localapi.Peer) string {
	if p.Owner != "" {
		return p.Owner
	}
	return strings.Join(p.Tags, " ")
}

func pathText(p localapi.Peer) string {
	switch {
	case p.Refused != "":
		return "refused"
	case p.Path != "":
		return strings.TrimPrefix(p.Path, "direct ")
	case !p.Online:
		return "offline"
	case p.Idle:
		return "idle"
	}
	return "-"
}

func allowedText(a []localapi.Allowed) string {
	if len(a) == 0 {
		return "-"
	}
	return ports(a)
}

// showPeer prints one peer, found by name, node id or address.
func showPeer(c *cli.Context, peers []localapi.Peer, ref string) error {
	for _, p := range peers {
		match := strings.EqualFold(p.Name, ref) || string(p.Node) == ref
		for _, a := range p.Addresses {
			match = match || a.String() == ref
		}
		if match {
			return show(c, p, func(w io.Writer) { writePeer(w, p, time.Now()) })
		}
	}
	return fmt.Errorf("no peer is called %.80q: either there is none, or the policy allows no flow between it and this machine", ref)
}

func writePeer(w io.Writer, p localapi.Peer, now time.Time) {
	online := "no"
	if p.Online {
		online = "yes"
	}
	fields(w,
		"Name", p.Name, "Refused", p.Refused, "Owner", p.Owner, "Tags", strings.Join(p.Tags, " "), "System", p.OS, "Postures", strings.Join(p.Postures, " "), "Addresses", addresses(p.Addresses),
		"Online", online, "Path", p.Path, "Not direct", p.Indirect, "Latency", millis(p.Latency), "Last handshake", clock(p.LastHandshake, now),
		"Received", size(p.RxBytes), "Sent", size(p.TxBytes), "Node", string(p.Node),
	)
	for _, side := range []struct {
		title   string
		allowed []localapi.Allowed
	}{{"This machine may open there", p.Out}, {"It may open here", p.In}} {
		fmt.Fprintf(w, "%s:\n", side.title)
		if len(side.allowed) == 0 {
			fmt.Fprintln(w, "  nothing")
		}
		for _, a := range side.allowed {
			fmt.Fprintf(w, "  %-16s by %s\n", protocol.Printable(a.Ports), protocol.Printable(a.Rule))
		}
	}
}
