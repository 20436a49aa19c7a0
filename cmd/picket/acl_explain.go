package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/acl"
	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
)

func aclExplainCommand() *cli.Command {
	return &cli.Command{
		Name:         "explain",
		Usage:        "list the rules that let SRC reach DST, or which would after one change",
		ArgsUsage:    "SRC DST:PORT[/PROTO]",
		BashComplete: directoryNames,
		Description: "SRC and DST are names of nodes in the directory, or addresses.\n\n" +
			"Exit status 0 when the flow is allowed, 1 when it is refused, 2 when the policy or the directory has errors or holds no such node, " +
			"or the coordinator cannot be asked. With --coordinator, and without --policy, it is the policy in force.\n\nExamples:\n\n" +
			"   picket acl explain --policy policy.hujson --directory nodes.json laptop db-1:5432\n" +
			"   picket acl explain --policy policy.hujson --directory nodes.json laptop 10.33.0.9:53/udp\n" +
			"   picket acl explain --policy policy.hujson --directory nodes.json laptop '[fd7a::8]/icmp' --json\n" +
			"   picket acl explain --coordinator 'https://…#…' --token-file token laptop db-1:5432",
		Flags: append([]cli.Flag{policyFlag(), atFlag(), jsonFlag()}, whereFlags()...),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 2, 2, "SRC DST:PORT[/PROTO]"); err != nil {
				return err
			}
			if err := needBoth(c); err != nil {
				return err
			}
			x, err := explainFlow(c)
			if err != nil {
				return err
			}
			if err := show(c, x.object(), func(w io.Writer) { x.write(w) }); err != nil || x.Allow {
				return err
			}
			return cli.Exit("", cliflags.ExitFailed)
		},
	}
}

// needBoth refuses a command line that does not say which policy, or who and what exists. A coordinator knows both.
func needBoth(c *cli.Context) error {
	if err := checkWhere(c); err != nil || c.String("coordinator") != "" {
		return err
	}
	return need(c, "policy", "directory")
}

// readBoth reads what --policy and --directory name, or asks the coordinator.
func readBoth(c *cli.Context) (f policyFile, d *acl.Directory, err error) {
	if c.String("policy") == "-" && c.String("directory") == "-" {
		return f, nil, cliflags.Usage(c, "--policy and --directory cannot both be standard input")
	}
	a, err := askerIfGiven(c)
	if err != nil {
		return f, nil, err
	}
	if f, err = policyOrInForce(c, a, c.String("policy")); err != nil {
		return f, nil, err
	}
	d, err = directoryIfGiven(c, a)
	return f, d, err
}

// directoryNames completes names of nodes, where the directory is on the line already.
func directoryNames(c *cli.Context) {
	cliflags.Candidates(func(c *cli.Context) (names []string) {
		text, err := readFile(c, c.String("directory"))
		d, bad := acl.ParseDirectory(text)
		if err != nil || bad != nil {
			return nil
		}
		for _, n := range d.Nodes {
			names = append(names, protocol.Printable(n.Name))
		}
		return names
	})(c)
}

// explained is an Account with what renders it.
type explained struct {
	acl.Account
	dir *acl.Directory
}

func explainFlow(c *cli.Context) (x explained, err error) {
	now, err := moment(c)
	if err != nil {
		return x, err
	}
	host, proto, port, err := destination(c.Args().Get(1))
	if err != nil {
		return x, cliflags.Usage(c, "%v", err)
	}
	f, d, err := readBoth(c)
	if err != nil {
		return x, err
	}
	flow := acl.Flow{Proto: proto, Port: port}
	if flow, err = between(d, c.Args().First(), host, flow); err == nil {
		x.dir = d
		x.Account, err = f.policy.Account(d, flow, now)
	}
	if err != nil {
		return x, cli.Exit(err, cliflags.ExitUsage)
	}
	return x, nil
}

// destination reads DST:PORT[/PROTO] or DST/PROTO.
func destination(s string) (host string, proto acl.Proto, port uint16, err error) {
	at, name, named := strings.Cut(s, "/")
	if !named {
		name = "tcp"
	}
	proto, ok := acl.ParseProto(name)
	if !ok {
		return "", 0, 0, fmt.Errorf("%.40q is no protocol: write tcp, udp, icmp or a number", name)
	}
	if !proto.HasPorts() {
		host = strings.TrimSuffix(strings.TrimPrefix(at, "["), "]")
	} else {
		host, name, err = net.SplitHostPort(at)
		n, bad := strconv.ParseUint(name, 10, 16)
		if err == nil && (bad != nil || n == 0 || strconv.FormatUint(n, 10) != name) { // canonical digits only (R34)
			return "", 0, 0, fmt.Errorf("%.40q is no port: write a number from 1 to 65535", name)
		}
		port = uint16(n)
	}
	if err != nil || host == "" {
		return "", 0, 0, fmt.Errorf("%.80q is no destination: write NAME:PORT, [ADDRESS]:PORT, NAME:PORT/udp or NAME/icmp", s)
	}
	return host, proto, port, nil
}

// between completes a flow with addresses of one family, where the two ends have such, and the protocol as it is spoken there.
func between(d *acl.Directory, from, to string, f acl.Flow) (acl.Flow, error) {
	srcs, err := addressesOf(d, from)
	if err != nil {
		return f, err
	}
	dsts, err := addressesOf(d, to)
	if err != nil {
		return f, err
	}
	f.Src, f.Dst = srcs[0], dsts[0]
	for _, dst := range slices.Backward(dsts) { // the first that fits is to stay
		for _, src := range slices.Backward(srcs) {
			if src.Is4() == dst.Is4() && (f.Proto != acl.ICMPv6 || dst.Is6()) {
				f.Src, f.Dst = src, dst
			}
		}
	}
	f.Proto = f.Proto.For(f.Dst)
	return f, nil
}

// addressesOf are those of a node by name or id, or the one that ref is.
func addressesOf(d *acl.Directory, ref string) ([]netip.Addr, error) {
	for _, n := range d.Nodes {
		if strings.EqualFold(n.Name, ref) || string(n.ID) == ref {
			if len(n.Addresses) == 0 {
				return nil, fmt.Errorf("%s has no address", protocol.Printable(n.Name))
			}
			return n.Addresses, nil
		}
	}
	a, err := netip.ParseAddr(ref)
	if err != nil {
		return nil, errors.New("the directory has no node " + protocol.Printable(strconv.Quote(clip(ref, 80))))
	}
	return []netip.Addr{a}, nil
}

// end describes one end for people: "laptop (alice@example.com, 100.64.0.7)", "10.33.0.9 (behind router)".
func (x explained) end(a netip.Addr, id acl.NodeID, routed bool) string {
	i := slices.IndexFunc(x.dir.Nodes, func(n acl.Node) bool { return n.ID == id })
	if i < 0 {
		return a.String()
	}
	n := x.dir.Nodes[i]
	if routed {
		return fmt.Sprintf("%s (behind %s)", a, n.Name)
	}
	who := strings.Join(n.Tags, " ")
	for _, u := range x.dir.Users {
		if who == "" && u.ID == n.Owner {
			who = u.Login
		}
	}
	if who != "" {
		who += ", "
	}
	return fmt.Sprintf("%s (%s%s)", n.Name, who, a)
}

func (x explained) on() string {
	if x.Flow.Proto.HasPorts() {
		return fmt.Sprintf("%s %d", x.Flow.Proto, x.Flow.Port)
	}
	return x.Flow.Proto.String()
}

// reason is why a flow is refused, in words; "" when it is allowed.
func (x explained) reason() string {
	switch {
	case x.Allow:
		return ""
	case x.Problem != acl.ProblemNone:
		return x.Text(func(id acl.NodeID) string { return nodeNames(x.dir)[id] })
	case len(x.Allowing) > 0:
		return "a deny refuses it"
	}
	return "no rule allows it"
}

// maxShown bounds the changes that are shown to people.
const maxShown = 12

func (x explained) write(w io.Writer) {
	verdict := "allowed"
	if !x.Allow {
		verdict = "refused"
	}
	text := fmt.Sprintf("%s: %s -> %s on %s", verdict, x.end(x.Flow.Src, x.Src, x.SrcRouted), x.end(x.Flow.Dst, x.Dst, x.DstRouted), x.on())
	if why := x.reason(); why != "" {
		text += ": " + why
	}
	lines := []string{text}
	add := func(format string, a ...any) { lines = append(lines, "  "+fmt.Sprintf(format, a...)) }
	for _, r := range x.Denying {
		verb := "refuses it"
		if len(x.Allowing) == 0 {
			verb = "would refuse it all the same"
		}
		add("%s %s: %s%s", r.Ref, verb, r.Reason, untilText(r))
	}
	for _, r := range x.Allowing {
		verb := "allows it"
		if !x.Allow {
			verb = "would allow it otherwise"
		}
		add("%s %s%s", r.Ref, verb, untilText(r))
	}
	for i, c := range x.Changes {
		if i == maxShown {
			add("and %s more", plural(len(x.Changes)-i, "rule"))
			break
		}
		add("%s would, %s", c.Ref, c.Text)
	}
	for _, line := range lines {
		fmt.Fprintln(w, protocol.Printable(line))
	}
}

func untilText(r *acl.Rule) string {
	if r.Until == 0 {
		return ""
	}
	return " (until " + time.UnixMilli(r.Until).UTC().Format(time.RFC3339) + ")"
}

// The form of --json.
type (
	explainedFlow struct {
		Flow    acl.Flow        `json:"flow"`
		Allow   bool            `json:"allow"`
		Reason  string          `json:"reason,omitempty"`
		Src     explainedEnd    `json:"src"`
		Dst     explainedEnd    `json:"dst"`
		Rules   []explainedRule `json:"rules"`   // that allow it, whatever the denies
		Denies  []explainedRule `json:"denies"`  // that refuse it, whatever the rules
		Changes []explainedRule `json:"changes"` // after which a rule would allow it
	}
	explainedEnd struct {
		Node   string `json:"node,omitempty"`
		Routed bool   `json:"routed,omitempty"` // the address lies behind a route of the node
	}
	explainedRule struct {
		Rule   string    `json:"rule"`
		Line   int       `json:"line"`
		Until  time.Time `json:"until,omitzero"`
		Reason string    `json:"reason,omitempty"`
		Miss   acl.Miss  `json:"miss,omitempty"`
		Change string    `json:"change,omitempty"`
	}
)

func (x explained) object() explainedFlow {
	names := nodeNames(x.dir)
	return explainedFlow{
		Flow: x.Flow, Allow: x.Allow, Reason: x.reason(),
		Src: explainedEnd{names[x.Src], x.SrcRouted}, Dst: explainedEnd{names[x.Dst], x.DstRouted},
		Rules: ruleObjects(x.Allowing), Denies: ruleObjects(x.Denying), Changes: changeObjects(x.Changes),
	}
}

func ruleObjects(rules []*acl.Rule) []explainedRule {
	out := []explainedRule{}
	for _, r := range rules {
		one := explainedRule{Rule: fmt.Sprintf("%s[%d]", r.Ref.Section, r.Ref.Index), Line: r.Ref.Line, Reason: r.Reason}
		if r.Until != 0 {
			one.Until = time.UnixMilli(r.Until).UTC()
		}
		out = append(out, one)
	}
	return out
}

func changeObjects(changes []acl.Change) []explainedRule {
	out := []explainedRule{}
	for _, c := range changes {
		out = append(out, explainedRule{Rule: fmt.Sprintf("%s[%d]", c.Ref.Section, c.Ref.Index), Line: c.Ref.Line, Miss: c.Miss, Change: c.Text})
	}
	return out
}
