package acl

import "slices"

// GroupsInRules lists the groups that rules and denies name, at either end, with everybody in them: logins in lower case, sorted. A group that nobody is in has an empty list. The map is the caller's own.
func (p *Policy) GroupsInRules() map[string][]string {
	out := make(map[string][]string)
	add := func(sels []selector) {
		for _, s := range sels {
			if s.kind == kindGroup {
				out[s.text] = slices.Clone(p.groups[s.text].users)
			}
		}
	}
	for _, s := range slices.Concat(p.rules, p.denies) {
		add(s.src)
		for _, t := range s.targets {
			add(t.dst)
		}
	}
	return out
}
