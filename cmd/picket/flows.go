package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/node/localapi"
)

// Lines listed by default: of a list, and of a picture that is drawn anew each second.
const (
	listedLines  = 100
	picturedRows = 20
)

func flowsCommand() *cli.Command {
	return &cli.Command{
		Name:         "flows",
		Usage:        "list the live flows of this machine: who, what, by which rule, since and until when",
		ArgsUsage:    "[FILTER]",
		BashComplete: filterWords,
		Description: "The flows used last come first. WHAT is the protocol and the port that was asked for; IDLE, how long nothing passed; UNTIL, when a deadline of the\n" +
			"policy has it judged again.\n\n" + filterHelp +
			"Examples:\n\n   picket flows\n   picket flows peer web-1 port 443\n   picket flows -f in and proto tcp\n   picket flows --limit 1000 --json",
		Flags: asking(jsonFlag(), limitFlag(listedLines),
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f", "watch"}, Usage: "show them anew each second, until interrupted; with --json an object a line"}),
		Action: func(c *cli.Context) error {
			s, err := selection(c)
			if err != nil {
				return err
			}
			n, err := limit(c)
			if err != nil {
				return err
			}
			q := localapi.AskFlows{Selection: s, Limit: n}
			if c.Bool("follow") {
				return followFlows(c, q)
			}
			f, err := client(c).Flows(c.Context, q)
			if err != nil {
				return explain(err)
			}
			if err := show(c, f, func(w io.Writer) { flowsTable(w, f, time.Now()) }); err != nil {
				return err
			}
			fmt.Fprint(c.App.ErrWriter, flowsCut(f))
			return nil
		},
	}
}

// followFlows draws over the last picture on a terminal; elsewhere it prints one after the other.
func followFlows(c *cli.Context, q localapi.AskFlows) error {
	draws := onTerminal(c.App.Writer) && !c.Bool("json")
	if draws && !c.IsSet("limit") {
		q.Limit = picturedRows
	}
	return every(c.Context, func() error {
		f, err := client(c).Flows(c.Context, q)
		if err != nil {
			return err
		}
		var picture bytes.Buffer
		if c.Bool("json") {
			if err := json.NewEncoder(&picture).Encode(f); err != nil {
				return err
			}
		} else {
			fmt.Fprintf(&picture, "%s  %d live flows, %d shown\n", time.Now().Format("15:04:05"), f.Total, len(f.List))
			flowsTable(&picture, f, time.Now())
			fmt.Fprintln(&picture)
		}
		text := picture.Bytes()
		if draws {
			// Home, each line cleared to its end, then what is left below: without flicker.
			text = append([]byte("\x1b[H"), bytes.ReplaceAll(text, []byte("\n"), []byte("\x1b[K\n"))...)
			text = append(text, "\x1b[J"...)
		}
		_, err = c.App.Writer.Write(text)
		return err
	})
}

func flowsTable(w io.Writer, f localapi.Flows, now time.Time) {
	switch {
	case f.Total == 0:
		fmt.Fprintln(w, "No live flows.")
		return
	case len(f.List) == 0:
		fmt.Fprintf(w, "No live flow fits the filter, of %d.\n", f.Total)
		return
	}
	rows := [][]string{{"DIR", "PEER", "WHO", "WHAT", "RULE", "AGE", "IDLE", "PACKETS", "BYTES", "UNTIL"}}
	for _, x := range f.List {
		rows = append(rows, flowRow(x, now))
	}
	writeRows(w, rows, columnWidths(rows, tableWidth))
}

func flowRow(f localapi.Flow, now time.Time) []string {
	peer := f.Src
	if f.Out {
		peer = f.Dst
	}
	what := serviceText(f.Proto, f.Dst)
	if f.Out && f.Src.Routed {
		what += " from " + f.Src.Address.String()
	} else if !f.Out && f.Dst.Routed {
		what += " at " + f.Dst.Address.String()
	}
	until := "-"
	if !f.Until.IsZero() {
		until = "in " + span(max(0, f.Until.Sub(now)))
	}
	return []string{
		wayText(f.Out), endText(peer), whoText(peer), what, f.Rule, span(max(0, now.Sub(f.Opened))), span(max(0, now.Sub(f.LastSeen))),
		fmt.Sprint(f.Packets), size(f.Bytes), until,
	}
}

// flowsCut says that there are more; empty when there are not.
func flowsCut(f localapi.Flows) string {
	if len(f.List) == f.Matched {
		return ""
	}
	return fmt.Sprintf("These are the %d used last of %d flows: a filter narrows, and --limit N shows up to %d (picket flows --help).\n",
		len(f.List), f.Matched, localapi.MaxListed)
}
