package main

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/acl/review"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
)

func aclWhoCommand() *cli.Command {
	return &cli.Command{
		Name:      "who",
		Usage:     "list who may reach what, by which line of a policy",
		ArgsUsage: "[FILE]",
		Description: "FILE, or --policy, is the policy; without either, with --coordinator, it is the one in force. TARGET and SUBJECT are a node of the directory, a user, the part of a login before the @, " +
			"or a selector of the policy: group:…, tag:…, autogroup:…, a host, an address, a network. What denials take away is not listed; conditions " +
			"are listed and not judged. Without --directory and --coordinator, stand-ins take the place of nodes: one for each name in the policy.\n\nExamples:\n\n" +
			"   picket acl who policy.hujson --directory nodes.json --can-reach db-1:5432\n" +
			"   picket acl who policy.hujson --directory nodes.json --can-reach db-1/icmp\n" +
			"   picket acl who policy.hujson --directory nodes.json --from alice\n" +
			"   picket acl who policy.hujson --from group:eng --can-reach tag:web\n" +
			"   picket acl who policy.hujson --format dot | dot -Tsvg >access.svg\n" +
			"   picket acl who --coordinator 'https://…#…' --token-file token --can-reach db-1:5432",
		Flags: append([]cli.Flag{
			policyFlag(), atFlag(),
			&cli.StringFlag{Name: "can-reach", Usage: "who may reach `TARGET`, written NAME, NAME:PORT, NAME:PORT/udp or NAME/icmp"},
			&cli.StringFlag{Name: "from", Usage: "what `SUBJECT` may reach"},
			formatFlag("table", "json", "dot"),
		}, whereFlags()...),
		Action: aclWho,
	}
}

func aclWho(c *cli.Context) error {
	if err := cliflags.NArgs(c, 0, 1, "FILE"); err != nil {
		return err
	}
	path := c.String("policy")
	switch err := checkWhere(c); {
	case err != nil:
		return err
	case path == "" && c.NArg() == 0 && c.String("coordinator") == "":
		return cliflags.Usage(c, "FILE is missing")
	case path != "" && c.NArg() == 1:
		return cliflags.Usage(c, "%q is one word too many: --policy names the file", c.Args().First())
	case path == "":
		path = c.Args().First()
	}
	if path == "-" && c.String("directory") == "-" {
		return cliflags.Usage(c, "the policy and the directory cannot both be standard input")
	}
	q := review.Query{From: c.String("from")}
	if to := c.String("can-reach"); to != "" {
		var err error
		if q.To, q.Ports, err = reachable(to); err != nil {
			return cliflags.Usage(c, "%v", err)
		}
	}
	write, err := format(c, map[string]func(io.Writer, *review.Matrix) error{
		"table": func(w io.Writer, m *review.Matrix) error { return whoTable(w, q, m) },
		"json":  func(w io.Writer, m *review.Matrix) error { return writeJSON(w, m) },
		"dot":   func(w io.Writer, m *review.Matrix) error { m.WriteDot(w); return nil },
	})
	if err != nil {
		return err
	}
	now, err := moment(c)
	if err != nil {
		return err
	}
	a, err := askerIfGiven(c)
	if err != nil {
		return err
	}
	s, _, err := readSource(c, a, path)
	if err != nil {
		return err
	}
	d, err := directoryIfGiven(c, a)
	if err != nil {
		return err
	}
	m, err := review.Access(s, d, q, now)
	if err != nil {
		return cli.Exit(protocol.Printable(err.Error()), cliflags.ExitUsage)
	}
	return write(c.App.Writer, m)
}

// reachable reads NAME, NAME:PORT, NAME:PORT/PROTO or NAME/PROTO. NAME may be a selector, a network or an address, [bracketed] or not. A
// port without a protocol is that of TCP and of UDP. No port and no protocol is no ports: all.
func reachable(s string) (name string, ports []acl.Ports, err error) {
	if inner, ok := strings.CutPrefix(s, "["); !ok && isNetwork(s) || ok && isNetwork(strings.TrimSuffix(inner, "]")) {
		return strings.Trim(s, "[]"), nil, nil
	}
	name, protos := s, []acl.Proto{acl.TCP, acl.UDP}
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		if p, ok := acl.ParseProto(s[i+1:]); ok {
			if name, protos = s[:i], []acl.Proto{p}; p == acl.ICMP {
				protos = append(protos, acl.ICMPv6)
			}
		} else if !isNetwork(hostOf(s)) {
			return "", nil, fmt.Errorf("%.40q is no protocol: write tcp, udp, icmp or a number", s[i+1:])
		}
	}
	first, last := uint16(0), uint16(65535)
	if i := strings.LastIndexByte(name, ':'); i >= 0 && !isNetwork(name) && !strings.HasSuffix(name, "]") && !slices.Contains(selectorPrefixes, name[:i]) {
		n, err := strconv.ParseUint(name[i+1:], 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != name[i+1:] { // canonical digits only (R34)
			return "", nil, fmt.Errorf("%.40q is no port: write a number from 1 to 65535", name[i+1:])
		}
		name, first, last = name[:i], uint16(n), uint16(n)
	} else if name == s {
		return name, nil, nil
	}
	for _, p := range protos {
		if first != 0 && !p.HasPorts() {
			return "", nil, fmt.Errorf("%s has no ports: write %.80q", p, name+"/"+p.String())
		}
		ports = append(ports, acl.Ports{Proto: p, First: first, Last: last})
	}
	return strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"), ports, nil
}

// selectorPrefixes stand before a colon behind which there is no port.
var selectorPrefixes = []string{"tag", "group", "autogroup", "user", "ipset", "host", "svc"}

// hostOf is s without a port.
func hostOf(s string) string { return s[:max(strings.LastIndexByte(s, ':'), 0)] }

// isNetwork reports whether s is an address or a network.
func isNetwork(s string) bool {
	_, notAddr := netip.ParseAddr(s)
	_, notPrefix := netip.ParsePrefix(s)
	return notAddr == nil || notPrefix == nil
}

// whoTable writes a row for each of those that were asked about, or for each line of a whole matrix.
func whoTable(w io.Writer, q review.Query, m *review.Matrix) error {
	if len(m.Lines) == 0 {
		fmt.Fprintf(w, "nobody (%s)\n", m.Basis())
		return nil
	}
	var table bytes.Buffer
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(whoColumns(q), "\t"))
	for i := range m.Lines {
		for _, row := range whoRows(q, &m.Lines[i]) {
			fmt.Fprintln(t, strings.Join(row, "\t"))
		}
	}
	t.Flush()
	for line := range strings.Lines(table.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
	fmt.Fprintf(w, "\n%s\n", capital(m.Basis()))
	return nil
}

func whoColumns(q review.Query) []string {
	switch {
	case q.To != "":
		return []string{"WHO", "NODES", "REACHES", "ON", "BY", "UNDER"}
	case q.From != "":
		return []string{"REACHES", "NODES", "FROM", "ON", "BY", "UNDER"}
	}
	return []string{"WHO", "REACHES", "ON", "BY", "UNDER"}
}

func whoRows(q review.Query, l *review.Line) (rows [][]string) {
	last := []string{acl.FormatPorts(l.Ports), l.Rule.String(), strings.Join(l.Under, " or ")}
	each, other := l.From, l.To
	switch {
	case q.To != "":
	case q.From != "":
		each, other = l.To, l.From
	default:
		return [][]string{append([]string{review.Parties(l.From, maxWhoNames), review.Parties(l.To, maxWhoNames)}, last...)}
	}
	for _, p := range each {
		rows = append(rows, append([]string{p.Name, nodesText(p.Nodes), review.Parties(other, maxWhoNames)}, last...))
	}
	return rows
}

// maxWhoNames and maxWhoNodes bound how many names one cell shows.
const (
	maxWhoNames = 6
	maxWhoNodes = 4
)

func nodesText(nodes []string) string {
	switch {
	case len(nodes) == 0:
		return "-"
	case len(nodes) > maxWhoNodes+1:
		return fmt.Sprintf("%s and %d more", strings.Join(nodes[:maxWhoNodes], " "), len(nodes)-maxWhoNodes)
	}
	return strings.Join(nodes, " ")
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
