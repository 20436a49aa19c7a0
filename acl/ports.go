package acl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// lastPort is the last of a range that holds every port.
const lastPort = 65535

// String is "tcp 22", "tcp 8000-8080", "tcp" for every port, or "icmp" for a protocol without ports.
func (p Ports) String() string {
	switch {
	case p.First == 0 && p.Last == lastPort:
		return p.Proto.String()
	case p.First == p.Last:
		return fmt.Sprintf("%s %d", p.Proto, p.First)
	}
	return fmt.Sprintf("%s %d-%d", p.Proto, p.First, p.Last)
}

// Contains reports whether a flow of proto to port is among p. For protocols without ports port is 0.
func (p Ports) Contains(proto Proto, port uint16) bool {
	return p.Proto == proto && p.First <= port && port <= p.Last
}

// FormatPorts lists ports for people: "tcp 22, tcp 80, udp 53", "icmp" for ICMP of both families, "any" for all that "*" allows,
// "nothing" for an empty list.
func FormatPorts(ports []Ports) string {
	if len(ports) == 0 {
		return "nothing"
	}
	ports = normalize(slices.Clone(ports))
	if slices.Equal(ports, anyPorts()) {
		return "any"
	}
	both := slices.Contains(ports, whole(ICMP))
	var words []string
	for _, p := range ports {
		if p == whole(ICMPv6) && both {
			continue
		}
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

func whole(p Proto) Ports { return Ports{Proto: p, First: 0, Last: lastPort} }

// anyPorts is what "*" allows.
func anyPorts() []Ports { return []Ports{whole(ICMP), whole(TCP), whole(UDP), whole(ICMPv6)} }

// normalize sorts ports by protocol and merges ranges that touch. It may change its argument.
func normalize(ports []Ports) []Ports {
	slices.SortFunc(ports, func(a, b Ports) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	out := ports[:0]
	for _, p := range ports {
		if n := len(out); n > 0 && out[n-1].Proto == p.Proto && int(p.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, p.Last)
			continue
		}
		out = append(out, p)
	}
	return out
}

// UnionPorts is what any of lists has: sorted, no two ranges touching. None is changed.
func UnionPorts(lists ...[]Ports) []Ports { return normalize(slices.Concat(lists...)) }

// span is a range of ports before it has a protocol.
type span struct{ first, last uint16 }

// parseSpans reads "*", "22", "80,443" or "8000-8080". A problem is a sentence's end, as in "`22x` is not a port".
func parseSpans(s string) (spans []span, problem, hint string) {
	if s == "*" {
		return []span{{0, lastPort}}, "", ""
	}
	for part := range strings.SplitSeq(s, ",") {
		sp, problem, hint := parseSpan(part)
		if problem != "" {
			return nil, problem, hint
		}
		spans = append(spans, sp)
	}
	return spans, "", ""
}

func parseSpan(s string) (sp span, problem, hint string) {
	from, to, ranged := strings.Cut(s, "-")
	if !ranged {
		to = from
	}
	first, ok1 := decimal(from, lastPort)
	last, ok2 := decimal(to, lastPort)
	switch {
	case !ok1 || !ok2:
		return span{}, quote(s) + " is not a port", "ports are written `22`, `80,443`, `8000-8080` or `*`, from 1 to 65535, without spaces, signs or leading zeros"
	case first == 0:
		return span{}, "port 0 is none that a flow goes to", "write `*` for every port"
	case first > last:
		return span{}, "the range " + quote(s) + " runs backwards", fmt.Sprintf("did you mean `%d-%d`?", last, first)
	}
	return span{uint16(first), uint16(last)}, "", ""
}

// portsFor joins spans with the protocol named, or with TCP, UDP and ICMP when protos is empty.
func portsFor(protos []Proto, spans []span) []Ports {
	var out []Ports
	ported := protos
	if len(protos) == 0 {
		out = append(out, whole(ICMP), whole(ICMPv6))
		ported = []Proto{TCP, UDP}
	}
	for _, p := range ported {
		for _, s := range spans {
			out = append(out, Ports{p, s.first, s.last})
		}
	}
	return normalize(out)
}

// portless reports whether protos are named and one of them has no ports.
func portless(protos []Proto) bool {
	return slices.ContainsFunc(protos, func(p Proto) bool { return !p.HasPorts() })
}

// PortsWithout is what of ports is in none of gone. Neither is changed; the result may be ports itself.
func PortsWithout(ports, gone []Ports) []Ports {
	left := ports
	for _, g := range gone {
		var next []Ports
		for _, p := range left {
			if p.Proto != g.Proto || g.Last < p.First || p.Last < g.First {
				next = append(next, p)
				continue
			}
			if p.First < g.First {
				next = append(next, Ports{p.Proto, p.First, g.First - 1})
			}
			if p.Last > g.Last {
				next = append(next, Ports{p.Proto, g.Last + 1, p.Last})
			}
		}
		left = next
	}
	return left
}
