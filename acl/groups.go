package acl

import (
	"maps"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// group is one member of groups.
type group struct {
	at    int
	users []string // sorted, each once
}

// Groups lists the groups (sorted) that name login.
func (p *Policy) Groups(login string) []string { return slices.Clone(p.memberOf[foldLogin(login)]) }

// groups reads the section.
func (r *reader) groups(v *hujson.Value) {
	members, _ := r.members(v, quote("groups"))
	r.pol.groups, r.pol.memberOf = make(map[string]*group, len(members)), map[string][]string{}
	members = slices.DeleteFunc(members, func(m member) bool { return !r.name(m, "group:", "a group") })
	r.refuseCaseVariants(members)
	for _, m := range members {
		g := &group{at: m.at}
		r.pol.groups[m.name] = g
		r.groupNames = append(r.groupNames, m.name)
		elems, _ := r.array(m.value, quote(m.name))
		for i := range elems {
			r.groupMember(g, m.name, &elems[i])
		}
		slices.Sort(g.users)
		g.users = slices.Compact(g.users)
		for _, login := range g.users {
			r.pol.memberOf[login] = append(r.pol.memberOf[login], m.name)
		}
	}
	for _, names := range r.pol.memberOf {
		slices.Sort(names)
	}
}

// groupMember reads one element of a group: a user.
func (r *reader) groupMember(g *group, name string, v *hujson.Value) {
	s, ok := r.text(v, "a member of "+quote(name))
	if !ok {
		return
	}
	switch {
	case strings.HasPrefix(s, "group:"):
		r.err(v.StartOffset, "name its users, or name both groups in the rule", "%s cannot be in a group: groups hold users, as in Tailscale's files", quote(s))
	case strings.Contains(s, "@") && !strings.Contains(s, ":"):
		if login, ok := r.login(s, v.StartOffset); ok {
			g.users = append(g.users, login)
		}
	default:
		r.err(v.StartOffset, "", "%s cannot be in a group: groups hold users (`alice@example.com`)", quote(s))
	}
}

func sortedKeys[V any](set map[string]V) []string { return slices.Sorted(maps.Keys(set)) }
