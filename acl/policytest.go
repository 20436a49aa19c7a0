package acl

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// TestFailure is one expectation of the policy's own tests that did not hold.
type TestFailure struct {
	Line, Column int
	Message      string // "tests[2]: alice@example.com -> tag:db:22 is refused, but the test accepts it: no rule ..."
}

// String is "line 9, column 15: tests[2]: …".
func (f TestFailure) String() string {
	return fmt.Sprintf("line %d, column %d: %s", f.Line, f.Column, f.Message)
}

// Test runs the policy's own tests against the directory: every failure, in the file's order. d may be empty, and is not changed.
//
// accept holds when every node that src names may open the flow to every node that dst names; deny when none may to any. Where a user,
// tag, group or address names no node yet, a node as it would be stands in: with both address families, but no overlay address, so a
// rule by CIDR does not name it. A test without proto asks about TCP or UDP, as Tailscale's do; one about icmp needs no port.
func (p *Policy) Test(d *Directory, now time.Time) (failures []TestFailure) {
	if len(p.tests) == 0 {
		return nil
	}
	w, err := newWorld(p, d)
	if err != nil {
		return []TestFailure{{Message: err.Error()}}
	}
	for _, t := range p.tests {
		for _, e := range t.expects {
			if message := w.judge(t, e, now); message != "" {
				failures = append(failures, TestFailure{e.at.line, e.at.column, message})
			}
		}
	}
	return slices.Clip(failures)
}

// world is a directory in which every selector of the tests names somebody, compiled.
type world struct {
	*Compiled
	policy  Policy // its memberOf knows the stand-ins
	dir     Directory
	byLogin map[string][]NodeID
	byTag   map[string][]NodeID
	byAddr  map[netip.Addr][]NodeID
	users   map[string]UserID // by login
	names   map[NodeID]string
	standIn map[NodeID]bool // gets both address families
	owners  bool            // some rule looks at owners
}

func newWorld(p *Policy, d *Directory) (*world, error) {
	w := &world{
		policy: *p, dir: Directory{Users: slices.Clone(d.Users), Nodes: slices.Clone(d.Nodes)},
		byLogin: map[string][]NodeID{}, byTag: map[string][]NodeID{}, byAddr: map[netip.Addr][]NodeID{},
		users: map[string]UserID{}, names: map[NodeID]string{}, standIn: map[NodeID]bool{},
	}
	w.policy.memberOf = maps.Clone(p.memberOf)
	w.survey()
	for _, t := range p.tests {
		w.nodes(t.src)
		for _, e := range t.expects {
			w.nodes(e.dst)
		}
	}
	// The salt is of no matter: the roles do not leave this function's result.
	c, err := Compile(&w.policy, &w.dir, nil)
	if err != nil {
		return nil, err
	}
	w.Compiled = c
	for id := range w.standIn {
		c.families[c.index[id]] = family4 | family6
	}
	w.owners = slices.ContainsFunc(c.rules, func(r compiledRule) bool { return r.SameOwner })
	return w, nil
}

// survey indexes the directory as it is.
func (w *world) survey() {
	logins := uniqueLogins(w.dir.Users)
	for id, login := range logins {
		w.users[login] = id
	}
	for _, n := range w.dir.Nodes {
		w.names[n.ID] = cmp.Or(n.Name, string(n.ID))
		for _, t := range n.Tags {
			w.byTag[t] = append(w.byTag[t], n.ID)
		}
		if login, ok := logins[n.Owner]; ok && len(n.Tags) == 0 {
			w.byLogin[login] = append(w.byLogin[login], n.ID)
		}
		for _, a := range n.Addresses {
			w.byAddr[a] = append(w.byAddr[a], n.ID)
		}
	}
}

// nodes lists whom a test's selector names; before the world is compiled it adds a stand-in where that is nobody.
func (w *world) nodes(s selector) []NodeID {
	switch s.kind {
	case kindUser:
		return w.userNodes(s.text)
	case kindTag:
		if len(w.byTag[s.text]) == 0 {
			w.byTag[s.text] = w.add(Node{Tags: []string{s.text}}, true)
		}
		return w.byTag[s.text]
	case kindGroup:
		return w.groupNodes(s.text)
	case kindPrefix:
		a := s.prefix.Addr()
		if len(w.byAddr[a]) == 0 {
			w.byAddr[a] = w.add(Node{Addresses: []netip.Addr{a}}, false)
		}
		return w.byAddr[a]
	}
	return nil
}

// add puts a stand-in into the directory. Its id is none that a real node can have.
func (w *world) add(n Node, bothFamilies bool) []NodeID {
	n.ID = NodeID(fmt.Sprintf("?%d", len(w.dir.Nodes)))
	w.dir.Nodes = append(w.dir.Nodes, n)
	if bothFamilies {
		w.standIn[n.ID] = true
	}
	return []NodeID{n.ID}
}

func (w *world) userNodes(login string) []NodeID {
	if len(w.byLogin[login]) == 0 {
		id, known := w.users[login]
		if !known {
			id = UserID("?" + login)
			w.users[login] = id
			w.dir.Users = append(w.dir.Users, User{ID: id, Login: login})
		}
		w.byLogin[login] = w.add(Node{Owner: id}, true)
	}
	return w.byLogin[login]
}

// groupNodes lists the nodes of a group's users. In a group of nobody stands a user without a name.
func (w *world) groupNodes(name string) (out []NodeID) {
	logins := w.policy.groups[name].flat
	if len(logins) == 0 {
		somebody := foldLogin("?" + name)
		if w.policy.memberOf[somebody] == nil {
			w.policy.memberOf[somebody] = w.policy.groupsAround(name)
		}
		logins = []string{somebody}
	}
	for _, login := range logins {
		out = append(out, w.userNodes(login)...)
	}
	return out
}

// groupsAround lists the groups that hold the group name, itself included.
func (p *Policy) groupsAround(name string) (out []string) {
	known := map[string]bool{}
	var holds func(outer string) bool
	holds = func(outer string) bool {
		if outer == name {
			return true
		}
		if h, ok := known[outer]; ok {
			return h
		}
		known[outer] = slices.ContainsFunc(p.groups[outer].groups, func(g groupRef) bool { return holds(g.name) })
		return known[outer]
	}
	for outer := range p.groups {
		if holds(outer) {
			out = append(out, outer)
		}
	}
	return out
}

// judge returns what is wrong with an expectation, "" when it holds.
func (w *world) judge(t test, e expectation, now time.Time) string {
	srcs, dsts := w.distinct(w.nodes(t.src)), w.distinct(w.nodes(e.dst))
	for _, a := range srcs {
		rules := w.candidates(a, w.bySrc)
		for _, b := range dsts {
			r := w.allowing(rules, a, b, t.protos, e.port, now)
			if (r != nil) != e.accept {
				return w.failure(t, e, r, a, b, now)
			}
		}
	}
	return ""
}

// distinct returns the subjects of ids, but one of those that no rule can tell apart.
func (w *world) distinct(ids []NodeID) (out []int) {
	seen := make(map[string]bool, len(ids))
	for _, id := range ids {
		i := w.index[id]
		s := &w.subjects[i]
		like := fmt.Sprint(w.families[i], s.Roles)
		if w.owners {
			like += string(s.Owner)
		}
		if !seen[like] {
			seen[like] = true
			out = append(out, i)
		}
	}
	return out
}

// allowing returns the first of rules, all of which name a as source, that allows the flow; nil when none does.
func (w *world) allowing(rules []int, a, b int, protos []Proto, port uint16, now time.Time) *Rule {
	for _, i := range rules {
		r := &w.rules[i].Rule
		if src, dst, owners, ports := w.fit(r, a, b, protos, port); src && dst && owners && ports && !r.over(now) && len(r.Restrictions) == 0 {
			return r
		}
	}
	return nil
}

// fit says what of a rule matches a flow between two nodes.
func (w *world) fit(r *Rule, a, b int, protos []Proto, port uint16) (src, dst, owners, ports bool) {
	from, to := end{subject: &w.subjects[a]}, end{subject: &w.subjects[b]}
	src = holds(r.Src, from.subject)
	dst = holds(r.Dst, to.subject) && w.families[a]&w.families[b] != 0
	ports = slices.ContainsFunc(protos, func(p Proto) bool { return r.covers(p, port) })
	return src, dst, src && dst && r.owners(from, to), ports
}

// failure is the sentence for an expectation that does not hold between a and b; r is what allows the flow, if anything does.
func (w *world) failure(t test, e expectation, r *Rule, a, b int, now time.Time) string {
	flow := fmt.Sprintf("tests[%d]: %s -> %s", t.index, t.src.text, e.text)
	if through := w.between(a, b); through != "" {
		flow += " (" + through + ")"
	}
	if r != nil {
		return fmt.Sprintf("%s is allowed by %s, but the test denies it", flow, r.Ref)
	}
	var near []NearMiss
	for i := range w.rules {
		r := &w.rules[i].Rule
		src, dst, owners, ports := w.fit(r, a, b, t.protos, e.port)
		if miss, ok := r.miss(src, dst, owners, ports, now); ok {
			near = append(near, NearMiss{r, miss})
		}
	}
	return fmt.Sprintf("%s is refused, but the test accepts it: no rule allows it%s", flow, nearText(nearest(near), t.src.text, e.dst.text))
}

// between names the nodes of a failure, where they are real.
func (w *world) between(a, b int) string {
	from, to := w.names[w.subjects[a].Node], w.names[w.subjects[b].Node]
	switch {
	case from != "" && to != "":
		return "from " + from + " to " + to
	case from != "":
		return "from " + from
	case to != "":
		return "to " + to
	}
	return ""
}
