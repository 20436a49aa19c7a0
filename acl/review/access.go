package review

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"picket.internal/acl"
)

// Query narrows what Access lists. An end is a node's name, a selector of the policy, or the part of a login before the @.
type Query struct {
	From  string      // "" is everybody
	To    string      // "" is everything
	Ports []acl.Ports // nil is all
}

// Matrix is who may reach whom, by which rule.
type Matrix struct {
	StandIns bool   `json:"standIns"` // as in Changes
	Users    int    `json:"users"`
	Nodes    int    `json:"nodes"`
	Lines    []Line `json:"access"`
}

// ErrNobody is that an end of a query names nobody.
var ErrNobody = errors.New("names nobody")

// Access lists what a policy permits over a directory, as of now; over stand-ins where d is nil. Conditions are listed and not judged.
// Where an end is asked about, its parties list their nodes. The error says which end names nobody (it then wraps ErrNobody) or cannot be
// read.
func Access(s *Source, d *acl.Directory, q Query, now time.Time) (*Matrix, error) {
	out := &Matrix{StandIns: d == nil, Lines: []Line{}}
	if d == nil {
		var err error
		if d, err = standInsFor(s); err != nil {
			return nil, err
		}
	} else {
		out.Users, out.Nodes = len(d.Users), len(d.Nodes)
	}
	ends := [2]*target{}
	var sets []*acl.Ruleset
	for end, text := range []string{q.From, q.To} {
		if text == "" {
			continue
		}
		t, err := findTarget(s, d, text, end)
		if err != nil {
			return nil, err
		}
		ends[end] = t
		sets = append(sets, t.rules)
	}
	c, err := newComparison(Nothing(), s, d, now, out.StandIns, sets...)
	if err != nil {
		return nil, err
	}
	for end, at := range []*bits{&c.from, &c.to} {
		if ends[end] != nil {
			if *at, err = ends[end].places(c.world, end); err != nil {
				return nil, err
			}
		}
	}
	c.only = q.Ports
	found := c.run()
	n := newNamer(s, d, c.world)
	n.listNodes = !out.StandIns && (q.From != "" || q.To != "")
	out.Lines = append(out.Lines, c.lines(found, [2]*namer{n, n})...)
	for i := range out.Lines {
		out.Lines[i].Change, out.Lines[i].Other = "", nil
	}
	return out, nil
}

// Basis says what was looked at.
func (m *Matrix) Basis() string { return basis(m.StandIns, m.Nodes, m.Users) }

// target is one end of a query.
type target struct {
	text  string
	node  acl.NodeID   // the one meant, or
	rules *acl.Ruleset // its first rule is to or from what is meant
}

// findTarget reads one end of a query.
func findTarget(s *Source, d *acl.Directory, text string, end int) (*target, error) {
	t, selector := &target{text: text}, text
	if bare(text) {
		var err error
		if t.node, selector, err = meaning(s, d, text); err != nil {
			return nil, err
		}
	}
	if t.node != "" {
		selector = "*" // not used, but compiled
	}
	ends := [2][]string{}
	ends[end] = []string{selector}
	doc, err := s.definitions(ends[src], ends[dst])
	if err != nil {
		return nil, err
	}
	p, err := acl.Parse(doc)
	var wrong acl.Errors
	if errors.As(err, &wrong) {
		message := wrong[0].Message
		if h := wrong[0].Hint; h != "" && !strings.Contains(h, ", line ") { // of a text that nobody sees
			message += ": " + h
		}
		return nil, errors.New(message)
	}
	c, err := acl.Compile(p, d, nil)
	if err != nil {
		return nil, err
	}
	t.rules = c.Ruleset()
	return t, nil
}

// meaning returns the node or the selector that a bare word stands for: a node or a host of that name, else a user.
func meaning(s *Source, d *acl.Directory, word string) (node acl.NodeID, selector string, err error) {
	var found []string
	for _, n := range d.Nodes {
		if strings.EqualFold(n.Name, word) {
			node = n.ID
			found = append(found, "the node "+n.Name)
		}
	}
	if members(s.sections["hosts"])[word] != nil {
		selector = "host:" + word
		found = append(found, "the host "+word+" (write host:"+word+")")
	}
	if len(found) == 0 {
		for _, login := range loginsOf(s, d) {
			if local, _, _ := strings.Cut(login, "@"); local == strings.ToLower(word) {
				selector = login
				found = append(found, login)
			}
		}
	}
	switch len(found) {
	case 0:
		return "", "", fmt.Errorf("%q %w: it is no node of the directory, no host of the policy and no user", word, ErrNobody)
	case 1:
		return node, selector, nil
	}
	return "", "", fmt.Errorf("%q may be %s: say which", word, strings.Join(found, " or "))
}

// bare reports whether an end of a query is a word and not a selector.
func bare(s string) bool {
	if _, err := netip.ParsePrefix(s); err == nil {
		return false
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return false
	}
	return !strings.ContainsAny(s, ":@*")
}

func loginsOf(s *Source, d *acl.Directory) []string {
	all := s.logins()
	for _, u := range d.Users {
		all = append(all, strings.ToLower(u.Login))
	}
	return sortedSet(all)
}

// places returns what the target is in a world that was made with its rules.
func (t *target) places(w *world, end int) (bits, error) {
	m := newMatcher(t.rules.Rules, t.rules.Subjects, true, func(*acl.Rule) bool { return false })
	set := m.where(w, end)[0]
	if t.node != "" {
		set = newBits(len(w.places))
		for i, p := range w.places {
			if p.node == t.node {
				set.set(i)
			}
		}
	}
	if set.empty() {
		return nil, fmt.Errorf("%q %w %s", t.text, ErrNobody, map[bool]string{false: "in the directory", true: "in the policy"}[w.standIns])
	}
	return set, nil
}

// WriteDot writes the matrix as a graph for Graphviz, the same for the same matrix.
func (m *Matrix) WriteDot(w io.Writer) {
	ids := map[string]int{}
	var names []string
	id := func(list []Party) int {
		name := Parties(list, maxParties)
		if _, known := ids[name]; !known {
			ids[name] = len(names)
			names = append(names, name)
		}
		return ids[name]
	}
	var edges []string
	for _, l := range m.Lines {
		label := acl.FormatPorts(l.Ports) + "\n" + l.Rule.String()
		if len(l.Under) > 0 {
			label += "\n" + strings.Join(l.Under, " or ")
		}
		edges = append(edges, fmt.Sprintf("  n%d -> n%d [label=%s];\n", id(l.From), id(l.To), dotString(label)))
	}
	io.WriteString(w, "digraph access {\n  rankdir=LR;\n  node [shape=box];\n")
	for i, name := range names {
		fmt.Fprintf(w, "  n%d [label=%s];\n", i, dotString(name))
	}
	io.WriteString(w, strings.Join(edges, "")+"}\n")
}

// dotString is a quoted string of the DOT language, in which labels know escapes of their own (\N is a node's name).
func dotString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
