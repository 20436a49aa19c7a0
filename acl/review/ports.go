package review

import (
	"cmp"
	"slices"

	"picket.internal/acl"
)

// union is what a or b have: sorted, no two ranges touching. Neither is changed.
func union(a, b []acl.Ports) []acl.Ports {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(a, b acl.Ports) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	out := all[:0]
	for _, p := range all {
		if n := len(out); n > 0 && out[n-1].Proto == p.Proto && int(p.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, p.Last)
			continue
		}
		out = append(out, p)
	}
	return out
}

// without is what ports have and gone have not. Neither is changed.
func without(ports, gone []acl.Ports) []acl.Ports {
	left := ports
	for _, g := range gone {
		var next []acl.Ports
		for _, p := range left {
			if p.Proto != g.Proto || g.Last < p.First || p.Last < g.First {
				next = append(next, p)
				continue
			}
			if p.First < g.First {
				next = append(next, acl.Ports{Proto: p.Proto, First: p.First, Last: g.First - 1})
			}
			if p.Last > g.Last {
				next = append(next, acl.Ports{Proto: p.Proto, First: g.Last + 1, Last: p.Last})
			}
		}
		left = next
	}
	return left
}

// common is what both have.
func common(a, b []acl.Ports) []acl.Ports { return without(a, without(a, b)) }
