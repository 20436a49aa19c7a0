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

// maxIPSetWork bounds the work of all ipsets of a policy, in prefixes read, cut up and kept: sets that name one another multiply, ranges and
// removals come to many prefixes each.
const maxIPSetWork = 500_000

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
	for _, m := range members {
		r.resolve(m.name, nil)
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
	if !spoken {
		verb, target = "add", s
	}
	step.remove = verb == "remove"
	if verb != "add" && verb != "remove" || target == "" || target == "add" || target == "remove" || strings.ContainsAny(target, " \t") {
		r.err(step.at, "an element is a network, or `add` or `remove`, one space and a network", "%s is no operation on a set", quote(s))
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
	case strings.Contains(s, "-") && looksLikeAddress(strings.ReplaceAll(s, "-", "")):
		rg, err := netipx.ParseIPRange(s)
		if err != nil || rg.From().Is4In6() || rg.From().Zone() != "" || rg.To().Zone() != "" {
			r.err(at, "ranges are written `FIRST-LAST`, both addresses of one family", "%s is not a range of addresses", quote(s))
			return nil, false
		}
		b.AddRange(rg)
	case meantAsAddress(host):
		p, ok := r.prefix(host, at)
		if !ok {
			return nil, false
		}
		b.AddPrefix(p)
	default:
		hint := "sets hold addresses, networks, ranges, names from `hosts`, other sets and `autogroup:internet`"
		if near := r.nearest(host, r.hostNames); near != "" {
			hint = fmt.Sprintf("did you mean %s?", quote(near))
		}
		r.err(at, hint, "%s cannot be in an ipset", quote(s))
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

// resolve works out what a set comes to, those that it names first. path are the sets being worked out. Past maxIPSetWork it is nothing.
func (r *reader) resolve(name string, path []string) []netip.Prefix {
	set := r.sets[name]
	if set.state == done {
		return set.prefixes
	}
	set.state = visiting
	defer func() { set.state = done }()
	path = append(path, name)
	var b netipx.IPSetBuilder
	held := 0 // at most so many prefixes in b
	for i, step := range set.steps {
		if step.other != "" && r.sets[step.other].state == visiting {
			r.circle(step.other, step.at, path)
			continue
		}
		operand := r.operand(step, path)
		held += len(operand)
		if step.remove {
			held += maxCut
		}
		if i > 0 && step.remove != set.steps[i-1].remove { // the builder works out what it has
			r.setWork += held
		}
		if r.setWork += len(operand); r.exhausted(set.at) {
			return nil
		}
		for _, p := range operand {
			if step.remove {
				b.RemovePrefix(p)
			} else {
				b.AddPrefix(p)
			}
		}
	}
	if r.setWork += held; r.exhausted(set.at) {
		return nil
	}
	if whole, err := b.IPSet(); err == nil {
		set.prefixes = whole.Prefixes()
	}
	return set.prefixes
}

// maxCut is how many prefixes the removal of one address may leave of one.
const maxCut = 128

// operand is what a step adds or removes.
func (r *reader) operand(step ipsetStep, path []string) []netip.Prefix {
	if step.other != "" {
		return r.resolve(step.other, path)
	}
	return step.set.Prefixes()
}

// exhausted reports whether the work is done for, and says so once.
func (r *reader) exhausted(at int) bool {
	if r.setWork > maxIPSetWork && !r.setsExhausted {
		r.setsExhausted = true
		r.err(at, "use larger networks, and fewer removals", "the ipsets come to more than %d networks while they are worked out", maxIPSetWork)
	}
	return r.setsExhausted
}

// ipsetSelectors reads a set where a selector stands.
func (r *reader) ipsetSelectors(s string, at int) (out []selector, ok bool) {
	if !r.knownIPSet(s, at) {
		return nil, false
	}
	set := r.sets[s]
	if r.expanded += len(set.prefixes); r.expanded > maxIPSetWork {
		if r.expanded-len(set.prefixes) <= maxIPSetWork {
			r.err(at, "use larger networks, or name the set in fewer rules", "the ipsets that rules name come to more than %d networks", maxIPSetWork)
		}
		return nil, false
	}
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
