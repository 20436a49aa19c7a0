package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Miss says why a rule that comes near does not allow a flow.
type Miss string

// The misses, nearest first.
const (
	MissOver        Miss = "over"        // it would allow the flow, but has ended
	MissRestriction Miss = "restriction" // it would allow the flow, but for a restriction that does not hold
	MissPosture     Miss = "posture"     // it would allow the flow, but for the source's device
	MissVia         Miss = "via"         // it would allow the flow through another router
	MissPorts       Miss = "ports"       // both ends match; it allows other ports
	MissOwner       Miss = "owner"       // it is for nodes of one owner
	MissSource      Miss = "source"      // destination and ports match
	MissDestination Miss = "destination" // source and ports match
)

var missOrder = []Miss{MissOver, MissRestriction, MissPosture, MissVia, MissPorts, MissOwner, MissSource, MissDestination}

// NearMiss is a rule that nearly allows a flow.
type NearMiss struct {
	Rule *Rule `json:"rule"`
	Miss Miss  `json:"miss"`
}

// Problem is why no rule was even looked at.
type Problem string

// The problems; none when the rules decided.
const (
	ProblemNone        Problem = ""
	ProblemAddress     Problem = "address"     // an address is not in its one form
	ProblemFamilies    Problem = "families"    // IPv4 to IPv6, or the other way
	ProblemSource      Problem = "source"      // nobody has or serves the source address
	ProblemDestination Problem = "destination" // nobody has or serves the destination address
)

// Explanation is a Decision with what led to it. Nodes are ids: who renders it knows their names.
type Explanation struct {
	Flow      Flow       `json:"flow"`
	Allow     bool       `json:"allow"`
	Rule      *Rule      `json:"rule,omitempty"` // as in Decision
	Deny      *Rule      `json:"deny,omitempty"` // as in Decision
	Until     time.Time  `json:"until,omitzero"` // as in Decision
	Problem   Problem    `json:"problem,omitempty"`
	Src       NodeID     `json:"src,omitempty"` // who has, or serves the route to, the source
	Dst       NodeID     `json:"dst,omitempty"`
	SrcRouted bool       `json:"srcRouted,omitempty"` // the source lies behind a route of Src
	DstRouted bool       `json:"dstRouted,omitempty"`
	Near      []NearMiss `json:"near,omitempty"` // on refusal: nearest first, in the file's order, at most 16
}

// maxNear bounds Explanation.Near, and maxNearWords how many of them the text names.
const (
	maxNear      = 16
	maxNearWords = 3
)

// Explain says what Allows decides and why: which rule allows, or what is missing.
func (rs *Ruleset) Explain(f Flow, now time.Time) Explanation {
	src, dst := rs.resolve(f.Src), rs.resolve(f.Dst)
	e, open := explanation(f, rs.decide(f, now), src, dst)
	if !open {
		return e
	}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		if miss, near := r.missing(src, dst, r.covers(f.Proto, f.Port), now); near {
			e.Near = append(e.Near, NearMiss{r, miss})
		}
	}
	e.Near = nearest(e.Near)
	return e
}

// explanation is all of an Explanation but Near, which is wanted where open is true.
func explanation(f Flow, d Decision, src, dst end) (e Explanation, open bool) {
	e = Explanation{Flow: f, Allow: d.Allow, Rule: d.Rule, Deny: d.Deny, Until: d.Until, SrcRouted: src.routed, DstRouted: dst.routed}
	if src.subject != nil {
		e.Src = src.subject.Node
	}
	if dst.subject != nil {
		e.Dst = dst.subject.Node
	}
	switch {
	case d.Allow || d.Deny != nil:
	case !plainAddr(f.Src) || !plainAddr(f.Dst):
		e.Problem = ProblemAddress
	case f.Src.Is4() != f.Dst.Is4():
		e.Problem = ProblemFamilies
	case src.subject == nil:
		e.Problem = ProblemSource
	case dst.subject == nil:
		e.Problem = ProblemDestination
	default:
		return e, true
	}
	return e, false
}

// missing says how near a refusing rule comes; ports reports whether it covers the flow's.
func (r *Rule) missing(a, b end, ports bool, now time.Time) (Miss, bool) {
	return r.missed(r.Src.matches(a), r.Dst.matches(b), a, b, ports, now)
}

// missed is missing where it is known whether src and dst match.
func (r *Rule) missed(src, dst bool, a, b end, ports bool, now time.Time) (Miss, bool) {
	switch {
	case src && dst && !r.owners(a, b):
		return MissOwner, ports
	case src && dst && !ports:
		return MissPorts, len(r.Ports) > 0
	case src && dst && !r.postured(a):
		return MissPosture, true
	case src && dst && !r.passes(b):
		return MissVia, true
	case src && dst && r.over(now):
		return MissOver, true
	case src && dst:
		return MissRestriction, true
	case src && ports:
		return MissDestination, true
	case dst && ports:
		return MissSource, true
	}
	return "", false
}

// nearest sorts near misses and keeps the first.
func nearest(near []NearMiss) []NearMiss {
	slices.SortStableFunc(near, func(a, b NearMiss) int {
		return slices.Index(missOrder, a.Miss) - slices.Index(missOrder, b.Miss)
	})
	return near[:min(len(near), maxNear)]
}

// String is Text with the ids.
func (e Explanation) String() string { return e.Text(func(id NodeID) string { return string(id) }) }

// Text is one sentence for people, without an end mark. name turns a node's id into what people call it.
func (e Explanation) Text(name func(NodeID) string) string {
	from, to := endText(e.Flow.Src, e.Src, e.SrcRouted, name), endText(e.Flow.Dst, e.Dst, e.DstRouted, name)
	on := FormatPorts([]Ports{{e.Flow.Proto, e.Flow.Port, e.Flow.Port}})
	if !e.Flow.Proto.HasPorts() {
		on = e.Flow.Proto.String()
	}
	switch e.Problem {
	case ProblemAddress:
		return "an address is not in its plain form (no zone, no IPv4 dressed as IPv6)"
	case ProblemFamilies:
		return fmt.Sprintf("%s and %s are of different address families", e.Flow.Src, e.Flow.Dst)
	case ProblemSource:
		return fmt.Sprintf("no node known here has the address %s or serves a route to it", e.Flow.Src)
	case ProblemDestination:
		return fmt.Sprintf("no node known here has the address %s or serves a route to it", e.Flow.Dst)
	}
	if e.Deny != nil {
		return fmt.Sprintf("%s refuses %s to reach %s on %s%s", e.Deny.Ref, from, to, on, denyText(e.Deny))
	}
	if e.Allow {
		return fmt.Sprintf("%s lets %s reach %s on %s", e.Rule.Ref, from, to, on)
	}
	return fmt.Sprintf("no rule lets %s reach %s on %s%s", from, to, on, nearText(e.Near, from, to))
}

// denyText is what a deny says of itself, and when it ends.
func denyText(r *Rule) string {
	words := ""
	if r.Reason != "" {
		words = ": " + r.Reason
	}
	if r.Until != 0 {
		words += " (until " + r.end().UTC().Format(time.RFC3339) + ")"
	}
	return words
}

func endText(a netip.Addr, id NodeID, routed bool, name func(NodeID) string) string {
	if routed {
		return fmt.Sprintf("%s (behind %s)", a, name(id))
	}
	return name(id)
}

// nearText names the nearest misses of one kind: "; grants[0], line 4 allows only tcp 5432".
func nearText(near []NearMiss, from, to string) string {
	var b strings.Builder
	for i, n := range near {
		first := slices.IndexFunc(near, func(o NearMiss) bool { return o.Rule.Ref == n.Rule.Ref })
		if n.Miss != near[0].Miss || first == i && strings.Count(b.String(), ";") == maxNearWords {
			break
		}
		if first == i { // one entry of the file may be several rules
			b.WriteString("; " + n.Rule.Ref.String() + " " + missText(near, i, from, to))
		}
	}
	return b.String()
}

// missText ends the sentence that near[i]'s reference begins.
func missText(near []NearMiss, i int, from, to string) string {
	r := near[i].Rule
	switch near[i].Miss {
	case MissOver:
		return "allowed it until " + r.end().UTC().Format(time.RFC3339)
	case MissRestriction:
		return "allows it under a condition that is not met: " + r.Restrictions[0].Kind
	case MissPosture:
		return "allows it only from devices that meet " + strings.Join(r.Postures, " or ")
	case MissVia:
		return "allows it only through other routers"
	case MissPorts:
		var ports []Ports
		for _, n := range near {
			if n.Miss == MissPorts && n.Rule.Ref == r.Ref {
				ports = append(ports, n.Rule.Ports...)
			}
		}
		return "allows only " + strings.Replace(FormatPorts(ports), "any", "icmp, tcp, udp", 1)
	case MissOwner:
		return "allows it between nodes of one owner only"
	case MissDestination:
		return "allows it to others than " + to
	}
	return "allows it from others than " + from
}

// Allowed is what one rule lets one node open on another.
type Allowed struct {
	Ref   Ref       `json:"ref"`
	Ports []Ports   `json:"ports"`
	Until time.Time `json:"until,omitzero"` // zero: never ends
}

// String is FormatPorts of the ports.
func (a Allowed) String() string { return FormatPorts(a.Ports) }

// Between returns what lists what src may open on dst at their own addresses, a rule at a time, in the file's order. The list is empty when
// either is unknown or they have no address family in common.
func (rs *Ruleset) Between() func(src, dst NodeID, now time.Time) []Allowed {
	own := make(map[NodeID]end, len(rs.Subjects))
	for i := range rs.Subjects {
		s := &rs.Subjects[i]
		own[s.Node] = end{subject: s}
	}
	return func(src, dst NodeID, now time.Time) []Allowed { return rs.between(own[src], own[dst], now) }
}

func (rs *Ruleset) between(a, b end, now time.Time) (out []Allowed) {
	if a.subject == nil || b.subject == nil || familiesOf(a.subject)&familiesOf(b.subject) == 0 {
		return nil
	}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		if !r.fits(a, b) || len(r.Via) > 0 || !r.inForce(now) {
			continue
		}
		if ports := rs.undenied(r.Ports, a, b, now); len(ports) > 0 {
			out = append(out, Allowed{r.Ref, ports, r.end()})
		}
	}
	return out
}

// undenied is what denies leave of ports between two nodes.
func (rs *Ruleset) undenied(ports []Ports, a, b end, now time.Time) []Ports {
	for i := range rs.Denies {
		if d := &rs.Denies[i]; d.fits(a, b) && !d.over(now) {
			ports = PortsWithout(ports, d.Ports)
		}
	}
	return ports
}

func familiesOf(s *Subject) (f family) {
	for _, a := range s.Addresses {
		f |= familyOf(a)
	}
	return f
}
