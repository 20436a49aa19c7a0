package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
	"go4.org/netipx"
)

// ipset is one member of ipsets: operations on a set of addresses, done in order.
type ipset struct {
	at       int
	steps    []ipsetStep
	prefixes []netip.Prefix // what it comes to
	state    int            // visiting or done
}

// ipsetStep adds a set to what the steps before it made, or removes it.
type ipsetStep struct {
	at     int
	remove bool
	other  string // an ipset's name, or
	set    *netipx.IPSet
}

// The states of a set while sets are worked out.
const (
	visiting = iota + 1
	done
)

// maxIPSetPrefixes bounds what all ipsets of a policy come to, in prefixes.
const maxIPSetPrefixes = 100_000

// ipsets reads the section in three passes: the names, the steps, then what they come to.
func (r *reader) ipsets(v *hujson.Value) {
	members, _ := r.members(v, quote("ipsets"))
	r.sets = make(map[string]*ipset, len(members))
	members = slices.DeleteFunc(members, func(m member) bool {
		if !r.name(m, "ipset:", "an ipset") {
			return true
		}
		r.sets[m.name] = &ipset{at: m.at}
		r.setNames = append(r.setNames, m.name)
		return false
	})
	r.refuseCaseVariants(members)
	for _, m := range members {
		elems, _ := r.array(m.value, quote(m.name))
		for i := range elems {
			r.ipsetStep(r.sets[m.name], m.name, &elems[i])
		}
		r.verbs(r.sets[m.name], m)
	}
	total := 0
	for _, m := range members {
		if total += len(r.resolve(m.name, nil)); total > maxIPSetPrefixes {
			r.err(m.at, "use larger networks", "the ipsets come to more than %d networks", maxIPSetPrefixes)
			return
		}
	}
}

// verbs refuses a set that removes and leaves add out elsewhere: who reads it must not guess which of the two is meant.
func (r *reader) verbs(set *ipset, m member) {
	removes := slices.ContainsFunc(set.steps, func(s ipsetStep) bool { return s.remove })
	elems, _ := m.value.Value.(*hujson.Array)
	for i := range set.steps {
		if removes && elems != nil && len(elems.Elements) == len(set.steps) {
			if s, ok := r.text(&elems.Elements[i], ""); ok && !strings.Contains(strings.TrimSpace(s), " ") {
				r.err(set.steps[i].at, fmt.Sprintf("write %s", quote("add "+s)), "%s removes something, so each of its elements says `add` or `remove`", quote(m.name))
			}
		}
	}
}

// ipsetStep reads "TARGET", "add TARGET" or "remove TARGET".
func (r *reader) ipsetStep(set *ipset, name string, v *hujson.Value) {
	s, ok := r.text(v, "an element of "+quote(name))
	if !ok {
		return
	}
	step := ipsetStep{at: v.StartOffset}
	verb, target, spoken := strings.Cut(s, " ")
	switch {
	case !spoken:
		target = s
	case verb == "remove":
		step.remove = true
	case verb != "add":
		r.err(step.at, "an element is a network, or `add` or `remove` and a network", "%s is no operation on a set", quote(s))
		return
	}
	if strings.HasPrefix(target, "ipset:") {
		step.other = target
		ok = r.knownIPSet(target, step.at)
	} else {
		step.set, ok = r.addresses(target, step.at)
	}
	if ok {
		set.steps = append(set.steps, step)
	}
}

// addresses reads what an ipset may hold: an address, a CIDR, a range "FIRST-LAST", a host or autogroup:internet.
func (r *reader) addresses(s string, at int) (*netipx.IPSet, bool) {
	var b netipx.IPSetBuilder
	host, _ := strings.CutPrefix(s, "host:")
	switch h, known := r.pol.hosts[host]; {
	case known:
		b.AddPrefix(h.prefix)
	case s == "autogroup:internet":
		for _, p := range internet {
			b.AddPrefix(p)
		}
	case strings.HasPrefix(s, "tag:"), strings.HasPrefix(s, "group:"), strings.HasPrefix(s, "autogroup:"), strings.Contains(s, "@"):
		r.err(at, "sets hold addresses, networks, ranges, hosts, other sets and `autogroup:internet`", "%s cannot be in an ipset", quote(s))
		return nil, false
	case strings.Contains(s, "-") && looksLikeAddress(strings.ReplaceAll(s, "-", "")):
		rg, err := netipx.ParseIPRange(s)
		if err != nil || rg.From().Is4In6() || rg.From().Zone() != "" || rg.To().Zone() != "" {
			r.err(at, "ranges are written `FIRST-LAST`, both addresses of one family", "%s is not a range of addresses", quote(s))
			return nil, false
		}
		b.AddRange(rg)
	case looksLikeAddress(host):
		p, ok := r.prefix(host, at)
		if !ok {
			return nil, false
		}
		b.AddPrefix(p)
	default:
		r.unknownHost(host, at)
		return nil, false
	}
	set, err := b.IPSet()
	return set, err == nil
}

func (r *reader) knownIPSet(s string, at int) bool {
	if r.sets[s] != nil {
		return true
	}
	hint := "define it in `ipsets`"
	if near := r.nearest(s, r.setNames); near != "" {
		hint = fmt.Sprintf("did you mean %s, line %d?", quote(near), r.src.at(r.sets[near].at).line)
	}
	r.err(at, hint, "unknown ipset %s", quote(s))
	return false
}

// resolve works out what a set comes to, those that it names first. path are the sets being worked out.
func (r *reader) resolve(name string, path []string) []netip.Prefix {
	set := r.sets[name]
	if set.state == done {
		return set.prefixes
	}
	set.state = visiting
	path = append(path, name)
	var b netipx.IPSetBuilder
	for _, step := range set.steps {
		other := step.set
		if step.other != "" {
			if r.sets[step.other].state == visiting {
				r.circle(step.other, step.at, path)
				continue
			}
			var inner netipx.IPSetBuilder
			for _, p := range r.resolve(step.other, path) {
				inner.AddPrefix(p)
			}
			other, _ = inner.IPSet()
		}
		if step.remove {
			b.RemoveSet(other)
		} else {
			b.AddSet(other)
		}
	}
	whole, err := b.IPSet()
	if err == nil {
		set.prefixes = whole.Prefixes()
	}
	set.state = done
	return set.prefixes
}

// ipsetSelectors reads a set where a selector stands.
func (r *reader) ipsetSelectors(s string, at int, in place) (out []selector, ok bool) {
	if in == inTest {
		r.err(at, "name one address in it", "%s is a set of networks: a test goes from one address to one", quote(s))
		return nil, false
	}
	if !r.knownIPSet(s, at) {
		return nil, false
	}
	set := r.sets[s]
	if len(set.prefixes) == 0 {
		r.warn(at, "", "nothing is in %s", quote(s))
	}
	for _, p := range set.prefixes {
		out = append(out, selector{kind: kindPrefix, text: s, prefix: p})
	}
	return out, true
}

// maxCycleShown bounds how many sets of a circle an error names.
const maxCycleShown = 6

func (r *reader) circle(name string, at int, path []string) {
	loop := append(slices.Clone(path[slices.Index(path, name):]), name)
	if len(loop) > maxCycleShown {
		loop = append(loop[:maxCycleShown-1:maxCycleShown-1], "…", name)
	}
	r.err(at, "", "%s contains itself: %s", quote(name), strings.Join(loop, " > "))
}
