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
// accept holds when every node that src names may open the flow to every node that dst names, at each pair of their addresses that are of
// one family, of which there must be one; deny when none may at any. Where a user, tag, group or address names no node yet, a node as it would be stands in: with both
// address families, but no overlay address, so a rule by CIDR does not name it. srcPostureAttrs are the source's device for one test. A
// test without proto asks about TCP or UDP, as Tailscale's do; one about icmp asks about port 0.
func (p *Policy) Test(d *Directory, now time.Time) (failures []TestFailure) {
	if len(p.tests) == 0 {
		return p.sshFailures(d)
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
			if w.work > maxTestWork {
				failures = append(failures, TestFailure{e.at.line, e.at.column, fmt.Sprintf(
					"tests[%d]: not run to its end, nor any after it: the tests come to more than %d comparisons", t.index, maxTestWork)})
				return append(failures, p.sshFailures(d)...)
			}
		}
	}
	return slices.Clip(append(failures, p.sshFailures(d)...))
}

// maxTestWork bounds the comparisons of one Test, sshTests aside. Tests, nodes and rules multiply.
const (
	maxTestWork = 20_000_000
	entryWork   = 100 // what making a node's entry comes to
)

// world is a directory in which every selector of the tests names somebody, compiled.
type world struct {
	*Compiled
	policy  Policy // its memberOf knows the stand-ins
	dir     Directory
	byLogin map[string][]NodeID
	byTag   map[string][]NodeID
	byAddr  map[netip.Addr][]NodeID
	guests  map[netip.Addr][]NodeID // stand-ins for addresses that nobody has or serves
	users   map[string]UserID       // by login
	names   map[NodeID]string
	places  map[NodeID]int       // in dir.Nodes
	standIn map[NodeID]bool      // has both address families, and no address
	owners  bool                 // some rule looks at owners
	named   map[string][]NodeID  // by a selector's key
	ended   map[string][]testEnd // by a selector's key, as the nodes are
	asserts int                  // values that postures compare with
	work    int
}

func newWorld(p *Policy, d *Directory) (*world, error) {
	w := &world{
		policy: *p, dir: Directory{Users: slices.Clone(d.Users), Nodes: slices.Clone(d.Nodes)},
		byLogin: map[string][]NodeID{}, byTag: map[string][]NodeID{}, byAddr: map[netip.Addr][]NodeID{}, guests: map[netip.Addr][]NodeID{},
		users: map[string]UserID{}, names: map[NodeID]string{}, places: map[NodeID]int{}, standIn: map[NodeID]bool{},
		named: map[string][]NodeID{}, ended: map[string][]testEnd{},
	}
	for _, posture := range p.postures {
		for _, a := range posture.assertions {
			w.asserts += 1 + len(a.values)
		}
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
	w.owners = slices.ContainsFunc(slices.Concat(c.rules, c.denies), func(r compiledRule) bool { return r.SameOwner })
	return w, nil
}

// survey indexes the directory as it is.
func (w *world) survey() {
	logins := uniqueLogins(w.dir.Users)
	for id, who := range logins {
		w.users[who.login] = id
	}
	for i, n := range w.dir.Nodes {
		w.places[n.ID] = i
		w.names[n.ID] = cmp.Or(n.Name, string(n.ID))
		for _, t := range n.Tags {
			w.byTag[t] = append(w.byTag[t], n.ID)
		}
		if who, ok := logins[n.Owner]; ok && len(n.Tags) == 0 {
			w.byLogin[who.login] = append(w.byLogin[who.login], n.ID)
		}
		for _, a := range n.Addresses {
			w.byAddr[a] = append(w.byAddr[a], n.ID)
		}
	}
}

// nodes lists whom a test's selector names; before the world is compiled it adds a stand-in where that is nobody.
func (w *world) nodes(s selector) []NodeID {
	out, known := w.named[s.key()]
	if !known {
		out = w.lookUp(s)
		w.named[s.key()] = out
	}
	return out
}

func (w *world) lookUp(s selector) []NodeID {
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
		if len(w.byAddr[a]) == 0 && !w.isRouted(a) {
			w.guests[a] = w.add(Node{Addresses: []netip.Addr{a}}, false)
		}
		return slices.Concat(w.byAddr[a], w.guests[a])
	}
	return nil
}

// add puts a stand-in into the directory. Its id is none that a real node can have.
func (w *world) add(n Node, bothFamilies bool) []NodeID {
	n.ID = NodeID(fmt.Sprintf("?%d", len(w.dir.Nodes)))
	w.places[n.ID] = len(w.dir.Nodes)
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
	logins := w.policy.groups[name].users
	if len(logins) == 0 {
		somebody := foldLogin("?" + name)
		if w.policy.memberOf[somebody] == nil {
			w.policy.memberOf[somebody] = []string{name}
		}
		logins = []string{somebody}
	}
	for _, login := range logins {
		out = append(out, w.userNodes(login)...)
	}
	return out
}

// judge returns what is wrong with an expectation, "" when it holds.
func (w *world) judge(t test, e expectation, now time.Time) string {
	dsts, asked := w.alternatives(e.dst, w.ends(e.dst)), false
	for _, from := range w.alternatives(t.src, w.assume(w.ends(t.src), t.attrs)) {
		for _, to := range dsts {
			v, ok := w.anyWay(t, e, from, to, now)
			if w.work > maxTestWork {
				return ""
			}
			if !ok {
				continue
			}
			asked = true
			if v.passes() != e.accept {
				return w.failure(t, e, v, now)
			}
		}
	}
	if e.accept && !asked { // nothing asked is not a yes
		return fmt.Sprintf("tests[%d]: %s -> %s is refused, but the test accepts it: the two have no address family in common", t.index, t.src.text, e.text)
	}
	return ""
}

// outcome is what decide gave for a flow.
type outcome struct {
	a, b            end
	allowed, denied *Rule
}

func (v outcome) passes() bool { return v.allowed != nil && v.denied == nil }

// anyWay decides a flow between two places, each of which may be one of several: it passes when it does in one of these ways. It is false
// when there is no way, for want of an address family.
func (w *world) anyWay(t test, e expectation, from, to []testEnd, now time.Time) (v outcome, ok bool) {
	for _, a := range from {
		rules := w.candidates(&entry{subject: *a.subject}, w.bySrc, &w.bySrcPrefix)
		w.work += 1 + len(rules)
		for _, b := range to {
			w.work++
			if a.family&b.family == 0 || v.passes() {
				continue
			}
			v, ok = outcome{a: a.end, b: b.end}, true
			v.allowed, v.denied = w.decide(rules, a.end, b.end, t.protos, e.port, now)
		}
	}
	return v, ok
}

// alternatives groups the ends of a selector: those of an address are ways to read it, any other's are places of their own.
func (w *world) alternatives(s selector, ends []testEnd) (out [][]testEnd) {
	if s.kind == kindPrefix {
		return [][]testEnd{ends}
	}
	for i := range ends {
		out = append(out, ends[i:i+1])
	}
	return out
}

// testEnd is one of a node's addresses, or a stand-in for it without one.
type testEnd struct {
	end
	family family
}

// ends lists the addresses of those that a selector names, one of those that no rule can tell apart.
func (w *world) ends(s selector) []testEnd {
	if out, known := w.ended[s.key()]; known {
		return out
	}
	var out []testEnd
	if s.kind == kindPrefix {
		out = w.behind(s.prefix.Addr())
	}
	seen := map[string]bool{}
	for _, id := range w.nodes(s) {
		for _, e := range w.addresses(id, &w.find(id).subject) {
			if s.kind == kindPrefix && e.addr != s.prefix.Addr() {
				continue
			}
			like := fmt.Sprint(e.family, e.subject.Roles, w.bySrcPrefix.around(e.addr), w.byDstPrefix.around(e.addr))
			if w.owners {
				like += string(e.subject.Owner)
			}
			if !seen[like] {
				seen[like] = true
				out = append(out, e)
			}
		}
	}
	w.ended[s.key()] = out
	return out
}

// behind lists how an address that no node has may be reached besides: by the router that serves it; or, when the directory has none and the
// address is not in a range that nodes are given theirs from, as one behind some subnet router with every tag, or beyond some exit node.
func (w *world) behind(a netip.Addr) []testEnd {
	if len(w.byAddr[a]) > 0 {
		return nil
	}
	if w.isRouted(a) {
		var routers Ruleset
		for e := range w.routers.at("") {
			routers.Subjects = append(routers.Subjects, e.subject)
		}
		return []testEnd{{routers.resolve(a), familyOf(a)}}
	}
	if slices.ContainsFunc(slices.Concat(overlayRanges, w.dir.Overlay), func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	router := w.entryOf(&Node{ID: "?router", Tags: sortedKeys(w.policy.tags), Routes: everyPrefix()}).subject
	e := end{addr: a, subject: &router, routed: true, routers: []*Subject{&router}}
	exit := e
	exit.beyond = true
	return []testEnd{{e, familyOf(a)}, {exit, familyOf(a)}}
}

// isRouted reports whether a node of the directory serves a route to a.
func (w *world) isRouted(a netip.Addr) bool {
	return slices.ContainsFunc(w.dir.Nodes, func(n Node) bool {
		return slices.ContainsFunc(n.Routes, func(p netip.Prefix) bool { return plainPrefix(p) && p.Contains(a) })
	})
}

// assume returns ends as they were if their nodes had these attributes; attrs may be nil, and they are as they are.
func (w *world) assume(ends []testEnd, attrs map[string]string) []testEnd {
	if attrs == nil {
		return ends
	}
	out := slices.Clone(ends)
	for i := range out {
		if w.work += entryWork + w.asserts; w.work > maxTestWork {
			return nil
		}
		if out[i].routed { // what is behind a router has no attributes
			continue
		}
		n := w.dir.Nodes[w.places[out[i].subject.Node]]
		n.Attributes = attrs
		out[i].subject = &w.entryOf(&n).subject
	}
	return out
}

func (w *world) addresses(id NodeID, s *Subject) (out []testEnd) {
	if w.standIn[id] {
		return []testEnd{{end{subject: s}, family4 | family6}}
	}
	for _, a := range s.Addresses {
		out = append(out, testEnd{end{addr: a, subject: s}, familyOf(a)})
	}
	return out
}

// decide returns the first of rules that allows one of protos, and the deny that refuses what it allows.
func (w *world) decide(rules []int, a, b end, protos []Proto, port uint16, now time.Time) (allowed, denied *Rule) {
	for _, p := range protos {
		for _, i := range rules {
			r := &w.rules[i].Rule
			w.work++
			if !r.fits(a, b) || !r.passes(b) || !r.covers(p, port) || !r.inForce(now) {
				continue
			}
			if denied = w.deniedBy(a, b, p, port, now); denied == nil {
				return r, nil
			}
			allowed = r
			break
		}
	}
	return allowed, denied
}

func (w *world) deniedBy(a, b end, p Proto, port uint16, now time.Time) *Rule {
	w.work += len(w.denies)
	for i := range w.denies {
		if r := &w.denies[i].Rule; r.fits(a, b) && r.covers(p, port) && !r.over(now) {
			return r
		}
	}
	return nil
}

// failure is the sentence for an expectation that does not hold.
func (w *world) failure(t test, e expectation, v outcome, now time.Time) string {
	a, b, allowed, denied := v.a, v.b, v.allowed, v.denied
	flow := fmt.Sprintf("tests[%d]: %s -> %s", t.index, t.src.text, e.text)
	if through := w.between(a, b); through != "" {
		flow += " (" + through + ")"
	}
	if denied != nil {
		return fmt.Sprintf("%s is refused, but the test accepts it: %s refuses it%s", flow, denied.Ref, denyText(denied))
	}
	if allowed != nil {
		return fmt.Sprintf("%s is allowed by %s, but the test denies it", flow, allowed.Ref)
	}
	var near []NearMiss
	w.work += 2 * len(w.rules)
	for i := range w.rules {
		r := &w.rules[i].Rule
		covers := slices.ContainsFunc(t.protos, func(p Proto) bool { return r.covers(p, e.port) })
		if miss, ok := r.missing(a, b, covers, now); ok {
			near = append(near, NearMiss{r, miss})
		}
	}
	return fmt.Sprintf("%s is refused, but the test accepts it: no rule allows it%s", flow, nearText(nearest(near), t.src.text, e.dst.text))
}

// between names the nodes of a failure, where they are real.
func (w *world) between(a, b end) string {
	from, to := w.names[a.subject.Node], w.names[b.subject.Node]
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
