package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func denialsCommand() *cli.Command {
	return &cli.Command{
		Name:         "denials",
		Usage:        "list what was refused lately: who, what, how often, and why",
		ArgsUsage:    "[FILTER]",
		BashComplete: filterWords,
		Description: "Packets that were refused alike are one line; the one refused last comes first. [egress-bypass] marks what the peer, by the same rules,\n" +
			"would have refused itself. Whether a flow is allowed now, and what is missing, is what picket why tells.\n\n" + filterHelp +
			"Of ports, port knows only that of the packet's destination here.\n\n" +
			"Examples:\n\n   picket denials\n   picket denials -f\n   picket denials in peer laptop-2\n   picket denials --json port 22",
		Flags: asking(jsonFlag(), limitFlag(listedLines),
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on, a line for what is refused each second, until interrupted; with --json an object a line"}),
		Action: func(c *cli.Context) error {
			s, err := selection(c)
			if err != nil {
				return err
			}
			n, err := limit(c)
			if err != nil {
				return err
			}
			q := localapi.AskDenials{Selection: s, Limit: n}
			if c.Bool("follow") {
				return followDenials(c, q)
			}
			d, err := client(c).Denials(c.Context, q)
			if err != nil {
				return explain(err)
			}
			if err := show(c, d, func(w io.Writer) { denialsTable(w, d, time.Now()) }); err != nil {
				return err
			}
			fmt.Fprint(c.App.ErrWriter, denialsCut(d))
			return nil
		},
	}
}

// followDenials prints what is there, oldest first, and then whatever is added to.
func followDenials(c *cli.Context, q localapi.AskDenials) error {
	encoder := json.NewEncoder(c.App.Writer)
	return every(c.Context, func() error {
		d, err := client(c).Denials(c.Context, q)
		if err != nil {
			return err
		}
		q.After = d.Seq
		if more := d.Matched - len(d.List); more > 0 {
			fmt.Fprintf(c.App.ErrWriter, "%d more lines are left out: a filter narrows, and --limit N shows up to %d.\n", more, localapi.MaxListed)
		}
		slices.Reverse(d.List)
		for _, x := range d.List {
			if c.Bool("json") {
				err = encoder.Encode(x)
			} else {
				_, err = fmt.Fprintln(c.App.Writer, denialLine(x))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// denialLine is "15:04:05  in   laptop-2 (bob@example.com) -> web-1 tcp/22: no rule allows it (3 packets since 15:03:58)".
func denialLine(d localapi.Denial) string {
	times := ""
	if d.Count > 1 {
		times = fmt.Sprintf(" (%d packets since %s)", d.Count, d.First.Local().Format("15:04:05"))
	}
	return fmt.Sprintf("%s  %-3s  %s -> %s %s: %s%s", d.Last.Local().Format("15:04:05"), wayText(d.Out), endAndWho(d.Src), endAndWho(d.Dst),
		serviceText(d.Proto, d.Dst), whyText(d), times)
}

// whyText says why in a clause, with the policy line when there is one: "denies[0], line 12, refuses it".
func whyText(d localapi.Denial) string {
	why := refusalText(d.Words, d.Rule)
	if d.Bypass {
		why += " [egress-bypass]"
	}
	return why
}

func refusalText(words, rule string) string {
	if rule != "" {
		return protocol.Printable(rule) + " refuses it"
	}
	return protocol.Printable(words)
}

func denialsTable(w io.Writer, d localapi.Denials, now time.Time) {
	switch {
	case d.Packets == 0:
		fmt.Fprintln(w, "Nothing was refused.")
		return
	case len(d.List) == 0:
		fmt.Fprintf(w, "Nothing that was refused fits the filter, of %d packets.\n", d.Packets)
		return
	}
	rows := [][]string{{"LAST", "PACKETS", "DIR", "FROM", "TO", "WHAT"}}
	bypass := false
	for _, x := range d.List {
		bypass = bypass || x.Bypass
		rows = append(rows, []string{
			span(max(0, now.Sub(x.Last))) + " ago", fmt.Sprint(x.Count), wayText(x.Out), endAndWho(x.Src), endAndWho(x.Dst), serviceText(x.Proto, x.Dst),
		})
	}
	// The last column says why, which must not be clipped: it may stand out.
	widths := append(columnWidths(rows, tableWidth-30), 200)
	rows[0] = append(rows[0], "WHY")
	for i, x := range d.List {
		rows[i+1] = append(rows[i+1], whyText(x))
	}
	writeRows(w, rows, widths)
	if bypass {
		fmt.Fprintln(w, "[egress-bypass]: by the same rules the peer would have refused it itself. Its filter is off, or its rules were older just then.")
	}
	if i := slices.IndexFunc(d.List, func(x localapi.Denial) bool { return askWhy(x) != "" }); i >= 0 {
		fmt.Fprintf(w, "To see what is missing: %s\n", askWhy(d.List[i]))
	}
}

// askWhy is the command that explains a refusal by the rules; empty for other refusals, and where an end has no name.
func askWhy(d localapi.Denial) string {
	if d.Reason != "no-rule" && d.Reason != "deny" || d.Src.Name == "" || d.Dst.Name == "" || d.Src.Routed || d.Dst.Routed {
		return ""
	}
	dst := d.Dst.Name + "/" + d.Proto
	if d.Dst.Port != 0 {
		dst = net.JoinHostPort(d.Dst.Name, fmt.Sprint(d.Dst.Port))
		if d.Proto != "tcp" {
			dst += "/" + d.Proto
		}
	}
	words := []string{"picket", "why", dst}
	if !d.Out {
		words = []string{"picket", "why", d.Src.Name, dst}
	}
	return protocol.Printable(strings.Join(words, " "))
}

// denialsCut says what the table leaves out; empty when that is nothing.
func denialsCut(d localapi.Denials) (text string) {
	if len(d.List) < d.Matched {
		text = fmt.Sprintf("These are the last %d of %d lines: a filter narrows, and --limit N shows up to %d (picket denials --help).\n",
			len(d.List), d.Matched, localapi.MaxListed)
	}
	if d.Unlisted > 0 {
		text += fmt.Sprintf("%d of %d refused packets are in no line: theirs made room for later ones.\n", d.Unlisted, d.Packets)
	}
	return text
}
