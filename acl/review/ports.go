package review

import (
	"cmp"
	"slices"

	"picket.internal/acl"
)

// common is what both have.
func common(a, b []acl.Ports) []acl.Ports { return acl.PortsWithout(a, acl.PortsWithout(a, b)) }

// slice is ports that every rule opens all or none of, with the rules that do.
type slice struct {
	ports []acl.Ports
	lists [4][]int // rules by list
}

// sliced cuts the ports that several lists of rules are about into slices. Each port is in one slice at most, and ports with the same rules
// are in the same one.
func sliced(lists [4]*matcher) (out []*slice) {
	type border struct {
		at      int // a protocol and a port
		list, i int
		begins  bool
	}
	var borders []border
	for l, m := range lists {
		for i := range m.rules {
			if m.skipped.has(i) {
				continue
			}
			for _, p := range acl.UnionPorts(m.rules[i].Ports) {
				base := int(p.Proto) << 17
				borders = append(borders, border{base + int(p.First), l, i, true}, border{base + int(p.Last) + 1, l, i, false})
			}
		}
	}
	slices.SortFunc(borders, func(a, b border) int { return cmp.Compare(a.at, b.at) })
	var open [4]bits
	for l, m := range lists {
		open[l] = newBits(len(m.rules))
	}
	known := map[string]*slice{}
	for k, b := range borders {
		if b.begins {
			open[b.list].set(b.i)
		} else {
			open[b.list].unset(b.i)
		}
		if k+1 == len(borders) || borders[k+1].at == b.at {
			continue
		}
		var key []byte
		empty := true
		for l := range open {
			key = open[l].appendKey(key)
			empty = empty && open[l].empty()
		}
		if empty {
			continue
		}
		s := known[string(key)]
		if s == nil {
			s = &slice{}
			for l := range open {
				s.lists[l] = slices.Collect(open[l].all())
			}
			known[string(key)] = s
			out = append(out, s)
		}
		s.ports = append(s.ports, acl.Ports{Proto: acl.Proto(b.at >> 17), First: uint16(b.at & (1<<17 - 1)), Last: uint16((borders[k+1].at - 1) & (1<<17 - 1))})
	}
	return out
}
