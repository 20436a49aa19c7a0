// Package policydiff shows what a change of policy does to a network, for both programs.
package policydiff

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"picket.internal/acl/review"
	"picket.internal/coordinator/protocol"
)

// ExitWidens is the exit status of a comparison whose new policy allows more.
const ExitWidens = 3

// Writers of each format.
var Writers = map[string]func(io.Writer, *review.Changes) error{
	"text":     func(w io.Writer, x *review.Changes) error { x.WriteText(w); return nil },
	"markdown": func(w io.Writer, x *review.Changes) error { x.WriteMarkdown(w); return nil },
	"json": func(w io.Writer, x *review.Changes) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(x)
	},
}

// Live is a coordinator's count, without what a terminal would act on.
func Live(i protocol.Impact) *review.Live {
	l := &review.Live{Flows: i.Live, Cut: i.Cut, Cuts: []review.LiveCut{}, Concerns: protocol.Printable(i.Concerns), Emptied: []string{},
		Unknown: printable(i.Unknown), Partly: printable(i.Truncated)}
	for _, c := range i.Cuts {
		l.Cuts = append(l.Cuts, review.LiveCut{
			From: protocol.Printable(c.Src), To: protocol.Printable(c.Dst), Ports: protocol.Printable(c.Ports), Rule: protocol.Printable(c.Rule), Flows: c.Flows,
		})
	}
	for _, g := range i.Emptied {
		people := "people"
		if g.Count == 1 {
			people = "person"
		}
		l.Emptied = append(l.Emptied, fmt.Sprintf("%s (%d %s)", protocol.Printable(g.Group), g.Count, people))
	}
	return l
}

func printable(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = protocol.Printable(s)
	}
	return out
}

// InForce names a policy in force: "the policy in force, commit 4f1c2d9e0b7a, generation 42". What is no commit's id is left out.
func InForce(p protocol.PolicyInForce) string {
	name := "the policy in force"
	if len(p.Commit) >= 40 && strings.Trim(p.Commit, "0123456789abcdef") == "" {
		name += ", commit " + p.Commit[:12]
	}
	return fmt.Sprintf("%s, generation %d", name, p.Generation)
}

// Text is the policy's; where there never was one, that of the policy that allows nothing.
func Text(p protocol.PolicyInForce) []byte {
	if p.Generation == 0 {
		return []byte("{}")
	}
	return []byte(p.Text)
}
