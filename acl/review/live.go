package review

import (
	"fmt"
	"strings"
)

// Live is what a policy would take from the flows that are open now, as a coordinator counted them. They are judged by the policy that is in
// force there, whichever one the new policy is compared with.
type Live struct {
	Flows int       `json:"flows"`
	Cut   int       `json:"cut"`  // of them
	Cuts  []LiveCut `json:"cuts"` // the most first; not all, when there are very many
	// Concerns is the one node or person at an end of every flow that is cut; empty when there is none such.
	Concerns string `json:"concerns,omitempty"`
	// Emptied are groups that rules in force name and that nobody would be in any more: "group:eng (2 people)".
	Emptied []string `json:"emptied"`
	// Unknown are nodes whose flows are not counted, and Partly those of which a part is.
	Unknown []string `json:"unknown"`
	Partly  []string `json:"partly"`
}

// LiveCut are flows that are cut, between the same identities by the same rule.
type LiveCut struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Ports string `json:"ports"` // "tcp 443"
	Rule  string `json:"rule"`  // that allows them, in the policy in force: "grants[0], line 3"
	Flows int    `json:"flows"`
}

// Summary is one sentence without an end mark: "12 of the 20 live flows would be cut".
func (l *Live) Summary() string {
	switch {
	case l.Flows == 0:
		return "no flow is live that could be cut"
	case l.Flows == 1 && l.Cut == 0:
		return "the one live flow would not be cut"
	case l.Flows == 1:
		return "the one live flow would be cut"
	case l.Cut == 0:
		return fmt.Sprintf("none of the %d live flows would be cut", l.Flows)
	}
	return fmt.Sprintf("%d of the %d live flows would be cut", l.Cut, l.Flows)
}

func (l *Live) markdown() string {
	if l.Cut > 0 {
		return "**" + capital(l.Summary()) + "**"
	}
	return capital(l.Summary())
}

// maxNodeNames bounds how many nodes a line names.
const maxNodeNames = 10

// section of a report; without lines when there is nothing to say beyond the summary.
func (l *Live) section() section {
	s := section{title: "Live flows that would be cut"}
	listed := 0
	for _, c := range l.Cuts {
		listed += c.Flows
		s.lines = append(s.lines, fmt.Sprintf("- %s -> %s %s (was %s): %s", c.From, c.To, c.Ports, c.Rule, number(c.Flows, "flow")))
	}
	if rest := l.Cut - listed; rest > 0 {
		s.lines = append(s.lines, fmt.Sprintf("- and %s more", number(rest, "flow")))
	}
	if l.Concerns != "" {
		s.lines = append(s.lines, "- one end of each is "+l.Concerns)
	}
	for _, g := range l.Emptied {
		s.lines = append(s.lines, "- nobody would be in "+g+" any more")
	}
	if len(l.Unknown) > 0 {
		s.lines = append(s.lines, "! not counted, as they do not answer: "+nodeList(l.Unknown))
	}
	if len(l.Partly) > 0 {
		s.lines = append(s.lines, "! counted in part, as they have too many: "+nodeList(l.Partly))
	}
	return s
}

func nodeList(all []string) string {
	if len(all) > maxNodeNames+1 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxNodeNames], ", "), len(all)-maxNodeNames)
	}
	return strings.Join(all, ", ")
}
