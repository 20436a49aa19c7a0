package acl

import "slices"

// GroupsInRules lists the groups that rules name, at either end, with everybody in them, nested groups included: logins in lower case,
// sorted. A group that nobody is in has an empty list. The map is the caller's own.
func (p *Policy) GroupsInRules() map[string][]string {
	out := make(map[string][]string)
	add := func(sels []selector) {
		for _, s := range sels {
			if s.kind == kindGroup {
				out[s.text] = slices.Clone(p.groups[s.text].flat)
			}
		}
	}
	for _, s := range p.rules {
		add(s.src)
		for _, t := range s.targets {
			add(t.dst)
		}
	}
	return out
}
