package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"picket.internal/acl"
)

// Impact is what a policy would take from the network as it is now.
type Impact struct {
	Live int `json:"live"` // flows that the policy in force allows, each counted once
	Cut  int `json:"cut"`  // of them, those that the other policy does not allow
	// Cuts sums them up, the most first; at most maxCuts.
	Cuts []CutFlows `json:"cuts"`
	// Concerns is the one node or person at an end of every flow in Cut; empty when there is none such.
	Concerns string `json:"concerns,omitempty"`
	// Emptied are the groups that rules of the policy in force name and that nobody would be in any more.
	Emptied []EmptiedGroup `json:"emptied"`
	// Unknown are the nodes that may have flows which are not counted, and Truncated those that told a part of theirs only; by name.
	Unknown   []string `json:"unknown"`
	Truncated []string `json:"truncated"`
}

// CutFlows are flows between the same identities, by the same rule of the policy in force.
type CutFlows struct {
	Src   string `json:"src"` // the tags of a node, a group of its owner that rules name, its owner, or an address
	Dst   string `json:"dst"`
	Ports string `json:"ports"` // "tcp 443"
	Rule  string `json:"rule"`  // "grants[0], line 3"
	Flows int    `json:"flows"`
}

func (f CutFlows) String() string {
	return fmt.Sprintf("%s <- %s %s (%s): %s", f.Dst, f.Src, f.Ports, f.Rule, plural(f.Flows, "flow"))
}

// EmptiedGroup is a group with the people who were in it.
type EmptiedGroup struct {
	Group  string   `json:"group"`
	People []string `json:"people"` // at most maxPeople
	Count  int      `json:"count"`
}

// Bounds of an Impact, which is stored and shown.
const (
	maxCuts   = 50
	maxPeople = 50
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
		return Impact{}, refuse(CodeInvalid, "the policy is not sound: %s", policyErrors(err)[0])
	}
	i, err := c.impactOf(ctx, c.world.Load(), p)
	return i, c.outward(ctx, err)
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
		if node, ok := w.nodes[id]; ok {
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
	n, ok := j.w.nodes[node]
	if !ok || !slices.Contains(n.Addresses, addr) {
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
	i.Cuts = i.Cuts[:min(len(i.Cuts), maxCuts)]
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
		out = append(out, EmptiedGroup{Group: g, People: people[:min(len(people), maxPeople)], Count: len(people)})
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
