package acl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Account is an Explanation with all that a policy says of a flow, for whoever edits it.
type Account struct {
	Explanation
	Allowing []*Rule  // every rule that allows the flow, in the file's order, whatever Denying
	Denying  []*Rule  // every deny that refuses it, whatever Allowing; its conditions aside
	Changes  []Change // where no rule allows it: those that would after one change, the nearest first, then in the file's order
}

// Change is one change after which a rule would allow a flow.
type Change struct {
	Ref  Ref
	Miss Miss   // what is missing
	Text string // "if alice@example.com were in group:dba"
}

// Account explains a flow between the nodes of d in full. It compiles the policy, so ask a Judge where there are many flows.
func (p *Policy) Account(d *Directory, f Flow, now time.Time) (Account, error) {
	c, err := Compile(p, d, nil) // the salt is of no matter: the roles do not leave this function's result
	if err != nil {
		return Account{}, err
	}
	rs := c.Ruleset()
	a := accountant{policy: p, dir: d, flow: f, src: rs.resolve(f.Src), dst: rs.resolve(f.Dst), now: now}
	out := Account{Explanation: rs.Explain(f, now)}
	if out.Problem != ProblemNone {
		return out, nil
	}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		switch missing := a.missing(r); {
		case len(missing) == 0:
			out.Allowing = append(out.Allowing, r)
		case len(missing) == 1:
			out.Changes = append(out.Changes, Change{r.Ref, missing[0], a.change(r, missing[0])})
		}
	}
	for i := range rs.Denies {
		if r := &rs.Denies[i]; r.fits(a.src, a.dst) && r.covers(f.Proto, f.Port) && !r.over(now) {
			out.Denying = append(out.Denying, r)
		}
	}
	sameEntry := func(a, b *Rule) bool { return a.Ref == b.Ref } // one entry of the file may be several rules
	out.Allowing, out.Denying = slices.CompactFunc(out.Allowing, sameEntry), slices.CompactFunc(out.Denying, sameEntry)
	if len(out.Allowing) > 0 {
		out.Changes = nil
	}
	slices.SortStableFunc(out.Changes, func(a, b Change) int {
		return cmp.Compare(slices.Index(missOrder, a.Miss), slices.Index(missOrder, b.Miss))
	})
	out.Changes = slices.Compact(out.Changes)
	return out, nil
}

// accountant knows one flow.
type accountant struct {
	policy   *Policy
	dir      *Directory
	flow     Flow
	src, dst end
	now      time.Time
}

// missing lists all that keeps a rule from allowing the flow. A rule that opens no ports at all never comes near.
func (a *accountant) missing(r *Rule) (out []Miss) {
	src, dst := r.Src.matches(a.src), r.Dst.matches(a.dst)
	for _, m := range []struct {
		miss  Miss
		holds bool
	}{
		{MissSource, src}, {MissDestination, dst}, {MissOwner, !src || !dst || r.owners(a.src, a.dst)},
		{MissPorts, r.covers(a.flow.Proto, a.flow.Port)}, {MissPosture, r.postured(a.src)}, {MissVia, r.passes(a.dst)},
		{MissOver, !r.over(a.now)}, {MissRestriction, len(r.Restrictions) == 0},
	} {
		if !m.holds {
			out = append(out, m.miss)
		}
	}
	if len(r.Ports) == 0 {
		out = append(out, MissPorts, MissPorts)
	}
	return out
}

// change ends the sentence "RULE would allow it, …".
func (a *accountant) change(r *Rule, miss Miss) string {
	s := a.statementOf(r)
	switch miss {
	case MissOver:
		return "had it not ended at " + r.end().UTC().Format(time.RFC3339)
	case MissRestriction:
		var words []string
		for _, c := range r.Restrictions {
			words = append(words, strings.TrimSpace(c.Kind+" "+c.Value))
		}
		return "if what it demands were met, which a file cannot tell: " + strings.Join(words, "; ")
	case MissPosture:
		return a.postureChange(r)
	case MissVia:
		return fmt.Sprintf("if the way to %s were through a router with %s", a.flow.Dst, strings.Join(s.via, " or "))
	case MissPorts:
		return "if it also listed " + a.portText()
	case MissOwner:
		return "if both nodes were of one user"
	case MissSource:
		return a.endChange(s.src, a.src, "src")
	}
	var dst []selector
	for _, t := range s.targets {
		if slices.Equal(t.ports, r.Ports) {
			dst = append(dst, t.dst...)
		}
	}
	return a.endChange(dst, a.dst, "dst")
}

func (a *accountant) portText() string {
	if a.flow.Proto.HasPorts() {
		return fmt.Sprintf("%s %d", a.flow.Proto, a.flow.Port)
	}
	return a.flow.Proto.String()
}

func (a *accountant) statementOf(r *Rule) statement {
	i := slices.IndexFunc(a.policy.rules, func(s statement) bool { return s.ref == r.Ref })
	return a.policy.rules[i]
}

// postureChange says what the source's device lacks of each posture, of which one would do.
func (a *accountant) postureChange(r *Rule) string {
	if a.src.routed {
		return fmt.Sprintf("if %s were a node's own address: what lies behind a route has no device that could meet %s", a.flow.Src, strings.Join(r.Postures, " or "))
	}
	n := a.nodeOf(a.src)
	var words []string
	for _, name := range r.Postures {
		words = append(words, fmt.Sprintf("%s: %s", name, strings.Join(a.policy.postures[name].failing(n.Attributes), ", and ")))
	}
	return "if the device met " + strings.Join(words, "; or ")
}

// maxAlternatives bounds how many ways to one end a Change names.
const maxAlternatives = 3

// endChange says how what stands at an end could come to be among sels, or how sels could come to name it.
func (a *accountant) endChange(sels []selector, e end, field string) string {
	if e.routed {
		return fmt.Sprintf("if its `%s` also named %s", field, e.addr)
	}
	n := a.nodeOf(e)
	var ways []string
	for _, s := range sels {
		if way := a.way(s, n); way != "" && len(ways) < maxAlternatives {
			ways = append(ways, way)
		}
	}
	if len(ways) == 0 {
		return fmt.Sprintf("if its `%s` also named %s", field, a.whatIs(n))
	}
	return "if " + strings.Join(ways, ", or ")
}

// way is how a node could come to be among those that s names: "" where that would make another node of it.
func (a *accountant) way(s selector, n *Node) string {
	login := a.loginOf(n)
	switch {
	case s.kind == kindGroup && login != "":
		return login + " were in " + s.text
	case s.kind == kindRole && login != "":
		return login + " were in " + s.text
	case s.kind == kindTag && len(n.Tags) > 0:
		return a.nameOf(n) + " had " + s.text
	case s.kind == kindMember && len(n.Tags) == 0 && login == "":
		return a.nameOf(n) + " belonged to a user"
	}
	return ""
}

// whatIs is the selector that names a node best.
func (a *accountant) whatIs(n *Node) string {
	if len(n.Tags) > 0 {
		return n.Tags[0]
	}
	if login := a.loginOf(n); login != "" {
		return login
	}
	return n.Addresses[0].String()
}

// loginOf is the login of an untagged node's owner; "" where there is none that rules could name.
func (a *accountant) loginOf(n *Node) string {
	if len(n.Tags) > 0 {
		return ""
	}
	return uniqueLogins(a.dir.Users)[n.Owner].login
}

func (a *accountant) nameOf(n *Node) string { return cmp.Or(n.Name, string(n.ID)) }

// nodeOf is the node at an end. It was compiled from the directory, so it is there.
func (a *accountant) nodeOf(e end) *Node {
	i := slices.IndexFunc(a.dir.Nodes, func(n Node) bool { return n.ID == e.subject.Node })
	return &a.dir.Nodes[i]
}
