package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// What a policy would take from the network as it is now, as it goes over the wire and into the store.
type (
	Impact       = protocol.Impact
	CutFlows     = protocol.CutFlows
	EmptiedGroup = protocol.EmptiedGroup
)

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// PolicyImpact judges a policy's text by the flows that are live now, without putting it in force.
func (c *Coordinator) PolicyImpact(ctx context.Context, a Actor, text []byte) (Impact, error) {
	if err := c.viewAllowed(ctx, a, rightReadFlows); err != nil {
		return Impact{}, c.outward(ctx, err)
	}
	p, err := acl.Parse(text)
	if err != nil {
		return Impact{}, unsound(err)
	}
	i, err := c.impactOf(ctx, c.world.Load(), p)
	return i, c.outward(ctx, err)
}

// unsound is a refusal of a policy's text with all that acl.Parse found in it; the sentence names the first.
func unsound(err error) error {
	e := refuse(CodeInvalid, "the policy is not sound: %s", oneLine(policyErrors(err)[0], 900))
	var all acl.Errors
	if errors.As(err, &all) {
		e.Errors = all
	}
	return e
}

// impactOf counts the live flows and judges them by the policy of w and by next.
func (c *Coordinator) impactOf(ctx context.Context, w *world, next *acl.Policy) (Impact, error) {
	compiled, err := acl.Compile(next, c.directory(w, next, reachable), c.config.Salt)
	if err != nil {
		return Impact{}, err
	}
	n, err := c.countFlows(ctx)
	if err != nil {
		return Impact{}, err
	}
	j := &impactJudge{c: c, w: w, next: compiled, groups: w.policy.GroupsInRules(), sums: make(map[CutFlows]int)}
	for _, f := range n.flows {
		j.judge(f)
	}
	i := j.impact()
	i.Emptied = emptied(w.policy, next)
	i.Unknown, i.Truncated = c.unknown(w, n), []string{}
	for _, id := range n.truncated {
		if node := w.node(id); node != nil {
			i.Truncated = append(i.Truncated, node.Name)
		}
	}
	slices.Sort(i.Truncated)
	return i, nil
}

// impactJudge judges flows, one opener's after the other's: a node's own view of the rules is small, and agrees with the whole.
type impactJudge struct {
	c      *Coordinator
	w      *world
	next   *acl.Compiled
	groups map[string][]string // that rules in force name, with who is in them

	opener        acl.NodeID
	before, after *acl.Ruleset // as opener sees them

	live, cut int
	sums      map[CutFlows]int // with Flows 0
	common    map[string]bool  // the nodes and people at an end of every flow cut so far
}

func (j *impactJudge) judge(f liveFlow) {
	if j.before == nil || f.opener != j.opener {
		j.opener, j.before, j.after = f.opener, viewOf(j.w.compiled, f.opener), viewOf(j.next, f.opener)
	}
	q := acl.Flow{Src: f.src, Dst: f.dst, Proto: f.proto, Port: f.port}
	now := j.c.now()
	was := j.before.Allows(q, now)
	if !was.Allow {
		return // it is about to end, or was never there
	}
	j.live += f.count
	if j.after.Allows(q, now).Allow {
		return
	}
	src, dst := j.end(f.opener, f.src), j.end(f.answerer, f.dst)
	j.cut += f.count
	j.sums[CutFlows{Src: src.label, Dst: dst.label, Ports: ports(q), Rule: was.Rule.Ref.String()}] += f.count
	both := append(src.concerned, dst.concerned...)
	if j.common == nil {
		j.common = make(map[string]bool)
		for _, who := range both {
			j.common[who] = true
		}
	}
	maps.DeleteFunc(j.common, func(who string, _ bool) bool { return !slices.Contains(both, who) })
}

// viewOf is the rules as node sees them; all of them for what is no node.
func viewOf(c *acl.Compiled, node acl.NodeID) *acl.Ruleset {
	if v, ok := c.View(node); ok {
		return v.Ruleset()
	}
	return c.Ruleset()
}

func ports(f acl.Flow) string {
	if !f.Proto.HasPorts() {
		return f.Proto.String()
	}
	return fmt.Sprintf("%s %d", f.Proto, f.Port)
}

// cutEnd is an end of a flow that is cut.
type cutEnd struct {
	label     string
	concerned []string // the node, and the person who owns it; of what lies behind a node, the address
}

// end describes addr, which is node's own or lies behind it.
func (j *impactJudge) end(node acl.NodeID, addr netip.Addr) cutEnd {
	n := j.w.node(node)
	if n == nil || !slices.Contains(n.Addresses, addr) {
		return cutEnd{addr.String(), []string{addr.String()}}
	}
	if len(n.Tags) > 0 {
		return cutEnd{strings.Join(n.Tags, "+"), []string{"node " + n.Name}}
	}
	login := j.w.login(n)
	if login == "" { // the account is gone, and so will the node be
		return cutEnd{"node " + n.Name, []string{"node " + n.Name}}
	}
	return cutEnd{j.groupOf(login), []string{"node " + n.Name, login}}
}

// groupOf is the smallest group with login in it that rules name, or else login itself.
func (j *impactJudge) groupOf(login string) string {
	best := login
	for _, g := range slices.Sorted(maps.Keys(j.groups)) {
		if slices.Contains(j.groups[g], login) && (best == login || len(j.groups[g]) < len(j.groups[best])) {
			best = g
		}
	}
	return best
}

func (j *impactJudge) impact() Impact {
	i := Impact{Live: j.live, Cut: j.cut, Cuts: []CutFlows{}}
	for f, n := range j.sums {
		f.Flows = n
		i.Cuts = append(i.Cuts, f)
	}
	slices.SortFunc(i.Cuts, func(a, b CutFlows) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), strings.Compare(a.String(), b.String()))
	})
	i.Cuts = i.Cuts[:min(len(i.Cuts), protocol.MaxCuts)]
	for _, who := range slices.Sorted(maps.Keys(j.common)) {
		if i.Concerns == "" || strings.HasPrefix(who, "node ") { // which says more than whose it is
			i.Concerns = who
		}
	}
	return i
}

// emptied lists the groups that rules of was name, with people in them, and that nobody is in by next. A group that next does not have any
// more counts too, unless a group that rules of next name has somebody of it: then it was renamed, or went up in another.
func emptied(was, next *acl.Policy) []EmptiedGroup {
	out := []EmptiedGroup{}
	named := next.GroupsInRules()
	before := was.GroupsInRules()
	for _, g := range slices.Sorted(maps.Keys(before)) {
		people := before[g]
		if len(people) == 0 || len(named[g]) > 0 {
			continue
		}
		_, there := named[g]
		if !there && slices.ContainsFunc(people, func(login string) bool { return lives(next, named, g, login) }) {
			continue
		}
		out = append(out, EmptiedGroup{Group: g, People: people[:min(len(people), protocol.MaxEmptied)], Count: len(people)})
	}
	return out
}

// lives reports whether login, who was in g, is in it still, though no rule names it now, or in another group that rules name.
func lives(next *acl.Policy, named map[string][]string, g, login string) bool {
	return slices.ContainsFunc(next.Groups(login), func(other string) bool {
		_, ok := named[other]
		return ok || other == g
	})
}
