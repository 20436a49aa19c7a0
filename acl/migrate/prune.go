package migrate

import (
	"bytes"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"picket.internal/acl"
)

// step is one step down the tree: a member or an element.
type step struct {
	name  string // of the member
	index int    // among the members or elements
}

// maxRounds bounds how often the parser is asked again. Each time everything that it refuses goes, so that only what refers to what has
// gone is left for the next.
const maxRounds = 20

// prune takes out what the parser refuses until it refuses nothing.
func (im *importer) prune() (*acl.Policy, error) {
	for range maxRounds {
		var err error
		var p *acl.Policy
		im.packed = im.root.Pack()
		if p, err = acl.Parse(im.packed); err == nil {
			im.read, err = hujson.Parse(im.packed)
			return p, err
		}
		found := asErrors(err)
		if im.read, err = hujson.Parse(im.packed); found == nil || err != nil {
			return nil, found // it was parsed before, so it is not the syntax
		}
		var stuck acl.Errors // what cannot go
		var cuts []cut
		for _, d := range found {
			if d.Line == 0 { // "and 12 more errors"
				continue
			}
			if c, ok := im.cutFor(d); ok {
				cuts = append(cuts, c)
			} else {
				if v := im.originalAt(d); v != nil {
					d.Line, d.Column = im.position(v)
				}
				stuck = append(stuck, d)
			}
		}
		if len(stuck) > 0 {
			return nil, stuck
		}
		im.apply(cuts)
	}
	return nil, acl.Errors{{Severity: acl.SeverityError, Message: "too much of the policy refers to what cannot be imported"}}
}

// cut is something to take out.
type cut struct {
	path      []step // to it
	why, hint string
}

// pathOf finds the innermost value at a place of the packed text.
func (im *importer) pathOf(d acl.Diagnostic) []step {
	offset := 0
	for range d.Line - 1 {
		offset += bytes.IndexByte(im.packed[offset:], '\n') + 1
	}
	offset += d.Column - 1
	var path []step
	at := &im.read
	for {
		next, s, ok := childAt(at, offset)
		if !ok {
			return path
		}
		path, at = append(path, s), next
	}
}

// childAt returns the child that holds an offset; a member's name counts as the member.
func childAt(v *hujson.Value, offset int) (*hujson.Value, step, bool) {
	members := object(v)
	for i := range members {
		if m := &members[i]; m.Name.StartOffset <= offset && offset < m.Value.EndOffset {
			return &m.Value, step{str(&m.Name), i}, true
		}
	}
	for i, e := range elements(v) {
		if e.StartOffset <= offset && offset < e.EndOffset {
			return e, step{"", i}, true
		}
	}
	return nil, step{}, false
}

// follow walks a path in the tree.
func follow(v *hujson.Value, path []step) *hujson.Value {
	for _, s := range path {
		if o := object(v); o != nil && s.index < len(o) {
			v = &o[s.index].Value
		} else if e := elements(v); s.index < len(e) {
			v = e[s.index]
		} else {
			return nil
		}
	}
	return v
}

// originalAt is the value that a diagnostic of the packed text is about, which knows its place in the original; nil for the whole.
func (im *importer) originalAt(d acl.Diagnostic) *hujson.Value {
	if d.Line == 0 {
		return nil
	}
	path := im.pathOf(d)
	for len(path) > 0 {
		if v := follow(im.root, path); v != nil && v.StartOffset > 0 {
			return v
		}
		path = path[:len(path)-1]
	}
	return nil
}

// Lists of a rule from which an element can go: each only adds to what the rule allows.
var addingLists = []string{"src", "dst", "ip", "via", "srcPosture", "users", "target", "attr", "accept", "deny", "check", "recorder", "acceptEnv"}

// cutFor says what to take out so that an error goes away and nothing more is allowed; false where that cannot be.
//
// Of a rule it is the element of a list, or else the rule. Of what has a name it is all that has the name: less of a posture or of an ipset
// could allow more, and rules that name it will go next.
func (im *importer) cutFor(d acl.Diagnostic) (cut, bool) {
	path, why := im.pathOf(d), withoutLines(d.Message)
	if len(path) < 2 {
		return cut{}, false
	}
	switch section := path[0].name; section {
	case "acls", "grants", "ssh", "nodeAttrs", "tests", "sshTests":
		if len(path) == 4 && slices.Contains(addingLists, path[2].name) && (section != "ssh" || path[2].name != "recorder") {
			return cut{path, why, withoutLines(d.Hint)}, true
		}
		return cut{path[:2], why, withoutLines(d.Hint)}, true
	case "groups", "tagOwners":
		if len(path) == 3 {
			return cut{path, why, withoutLines(d.Hint)}, true
		}
		return cut{path[:2], why, withoutLines(d.Hint)}, true
	case "hosts", "ipsets", "postures":
		return cut{path[:2], why, withoutLines(d.Hint)}, true
	case "autoApprovers":
		return cut{path, why, withoutLines(d.Hint)}, true
	}
	return cut{}, false
}

// apply takes out what is to go, the last first, so that the places of the others stay true. A rule goes whole with the last element of one
// of its lists: without it the rule could allow more.
func (im *importer) apply(cuts []cut) {
	backwards := func(a, b cut) int { return -comparePaths(a.path, b.path) }
	same := func(a, b cut) bool { return comparePaths(a.path, b.path) == 0 }
	slices.SortStableFunc(cuts, backwards)
	var whole []cut
	for _, c := range slices.CompactFunc(cuts, same) {
		if len(c.path) == 2 {
			whole = append(whole, c)
			continue
		}
		list := follow(im.root, c.path[:len(c.path)-1])
		if len(c.path) == 4 && len(elements(list)) == 1 && c.path[0].name != "autoApprovers" {
			whole = append(whole, cut{c.path[:2], c.why, c.hint})
			continue
		}
		im.cut(c)
	}
	slices.SortStableFunc(whole, backwards)
	for _, c := range slices.CompactFunc(whole, same) {
		im.cut(c)
	}
}

func comparePaths(a, b []step) int {
	return slices.CompareFunc(a, b, func(x, y step) int { return x.index - y.index })
}

// cut takes one thing out and says so.
func (im *importer) cut(c cut) {
	parent, last := follow(im.root, c.path[:len(c.path)-1]), c.path[len(c.path)-1]
	v := follow(im.root, c.path)
	if parent == nil || v == nil {
		return
	}
	what := c.path[0].name
	if c.path[1].name != "" {
		what += " `" + c.path[1].name + "`"
	} else {
		what = refs(what, c.path[1].index)
	}
	if len(c.path) > 2 {
		what += ", " + strings.Trim(string(v.Pack()), " \t\r\n")
	}
	comment := ""
	if _, isString := v.Value.(hujson.Literal); !isString || last.name != "" {
		comment = visible("left out on import: " + what + ": " + c.why)
	}
	at := v
	if o := object(parent); o != nil {
		at = &o[last.index].Name
	}
	if c.hint != "" {
		c.why += ": " + c.hint
	}
	im.note(LeftOut, at, "%s: %s", what, c.why)
	if object(parent) != nil {
		removeMember(parent, last.index, comment)
	} else {
		removeElement(parent, last.index, comment)
	}
}
