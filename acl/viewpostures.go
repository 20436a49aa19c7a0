package acl

import "slices"

// postures is View.Postures. What no rule by which a peer comes in asks of its device is not for self to know, and neither is what the
// device does not meet.
func (v *viewer) postures() map[NodeID][]string {
	out := map[NodeID][]string{}
	for i := range v.in {
		r := &v.rules[i]
		if len(r.Postures) == 0 {
			continue
		}
		for p := range v.peers {
			id := p.subject.Node
			if met := v.met(r, p, out[id]); len(met) > 0 && v.opens(i, p, v.self) {
				out[id] = append(out[id], met...)
			}
		}
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}

// met lists the names of the postures that rule r asks for and n meets, but those known already.
func (v *viewer) met(r *compiledRule, n *entry, known []string) (names []string) {
	for _, name := range r.Postures {
		role, ok := v.book.ids[name]
		if _, has := slices.BinarySearch(n.subject.Roles, role); ok && has && !slices.Contains(known, name) {
			names = append(names, name)
		}
	}
	return names
}

// opens is couples for the nodes' own addresses alone. A rule without ports, which only tells applications something, opens nothing.
func (c *Compiled) opens(i int, src, dst *entry) bool {
	own, _ := c.reach(i, src, dst)
	return own && len(c.undenied(c.rules[i].Ports, src, dst)) > 0
}
