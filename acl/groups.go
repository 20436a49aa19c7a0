package acl

import (
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// group is one member of groups, as written.
type group struct {
	at     int
	users  []string
	groups []groupRef
	flat   []string // every login in it, nested groups included; sorted
}

// groupRef is a group named inside another.
type groupRef struct {
	name string
	at   int
}

// Groups lists the groups (sorted) that name login directly or through another group.
func (p *Policy) Groups(login string) []string { return slices.Clone(p.memberOf[foldLogin(login)]) }

// groups reads the section in three passes: the names, the members, then the nesting.
func (r *reader) groups(v *hujson.Value) {
	members, _ := r.members(v, quote("groups"))
	r.pol.groups = make(map[string]*group, len(members))
	members = slices.DeleteFunc(members, func(m member) bool {
		if !r.name(m, "group:", "a group") {
			return true
		}
		r.pol.groups[m.name] = &group{at: m.at}
		r.groupNames = append(r.groupNames, m.name)
		return false
	})
	r.refuseCaseVariants(members)
	for _, m := range members {
		g := r.pol.groups[m.name]
		elems, _ := r.array(m.value, quote(m.name))
		for i := range elems {
			r.groupMember(g, m.name, &elems[i])
		}
	}
	r.flatten(members)
}

// groupMember reads one element of a group: a user or another group.
func (r *reader) groupMember(g *group, name string, v *hujson.Value) {
	s, ok := r.text(v, "a member of "+quote(name))
	if !ok {
		return
	}
	switch {
	case strings.HasPrefix(s, "group:"):
		if _, ok := r.knownGroup(s, v.StartOffset); ok {
			g.groups = append(g.groups, groupRef{s, v.StartOffset})
		}
	case strings.Contains(s, "@") && !strings.Contains(s, ":"):
		if login, ok := r.login(s, v.StartOffset); ok {
			g.users = append(g.users, login)
		}
	default:
		r.err(v.StartOffset, "", "%s cannot be in a group: groups hold users (`alice@example.com`) and groups", quote(s))
	}
}

// flattener works out who is in each group, each group once.
type flattener struct {
	r     *reader
	state map[string]int // visiting or done
	path  []string
	work  int
}

const (
	visiting = iota + 1
	done
)

// flatten fills group.flat and Policy.memberOf.
func (r *reader) flatten(members []member) {
	f := &flattener{r: r, state: make(map[string]int, len(members))}
	for _, m := range members {
		f.visit(m.name)
	}
	if f.work > maxExpanded {
		r.err(members[0].at, "nest less", "nested groups come to more than %d memberships", maxExpanded)
		return
	}
	r.pol.memberOf = make(map[string][]string)
	for _, m := range members {
		for _, login := range r.pol.groups[m.name].flat {
			r.pol.memberOf[login] = append(r.pol.memberOf[login], m.name)
		}
	}
	for _, names := range r.pol.memberOf {
		slices.Sort(names)
	}
}

// visit flattens the groups inside name and then name itself. It stops when the work exceeds the budget.
func (f *flattener) visit(name string) {
	if f.state[name] != 0 || f.work > maxExpanded {
		return
	}
	g := f.r.pol.groups[name]
	f.state[name] = visiting
	f.path = append(f.path, name)
	all := make(map[string]bool, len(g.users))
	for _, u := range g.users {
		all[u] = true
	}
	f.work += len(g.users)
	for _, ref := range g.groups {
		if f.state[ref.name] == visiting {
			f.cycle(ref)
			continue
		}
		f.visit(ref.name)
		inner := f.r.pol.groups[ref.name].flat
		if f.work += 1 + len(inner); f.work > maxExpanded {
			return
		}
		for _, u := range inner {
			all[u] = true
		}
	}
	g.flat = sortedKeys(all)
	f.path = f.path[:len(f.path)-1]
	f.state[name] = done
}

// maxCycleShown bounds how many groups of a cycle an error names.
const maxCycleShown = 6

func (f *flattener) cycle(ref groupRef) {
	loop := append(slices.Clone(f.path[slices.Index(f.path, ref.name):]), ref.name)
	if len(loop) > maxCycleShown {
		loop = append(loop[:maxCycleShown-1:maxCycleShown-1], "…", ref.name)
	}
	f.r.err(ref.at, "", "%s contains itself: %s", quote(ref.name), strings.Join(loop, " > "))
}

func sortedKeys(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
