package coordinator

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"picket.internal/acl"
)

// WhyAnswer is a judged flow.
type WhyAnswer struct {
	Src    string `json:"src"`
	Dst    string `json:"dst"`
	Allow  bool   `json:"allow"`
	Rule   string `json:"rule,omitempty"` // "grants[0], line 3"
	Reason string `json:"reason,omitempty"`
}

// Why judges a flow between any two nodes (by name, id or address), for operators. dst has a port, except for protocols without ports, and
// may have a protocol: "db:5432", "db:53/udp", "db/icmp", "[fd7a::1]:22".
func (c *Coordinator) Why(ctx context.Context, a Actor, src, dst string) (WhyAnswer, error) {
	if err := c.viewAllowed(ctx, a, rightAskWhy); err != nil {
		return WhyAnswer{}, c.outward(ctx, err)
	}
	w := c.world.Load()
	from, err := w.end(src)
	if err != nil {
		return WhyAnswer{}, err
	}
	host, flow, err := parseTarget(dst)
	if err != nil {
		return WhyAnswer{}, err
	}
	to, err := w.end(host)
	if err != nil {
		return WhyAnswer{}, err
	}
	if flow.Src, flow.Dst, err = pair(from, to, flow.Proto); err != nil {
		return WhyAnswer{}, err
	}
	return c.judgeFlow(w, flow, from, to), nil
}

// end is one end of a flow as asked: a node, an address, or both.
type end struct {
	node  *NodeRow // nil for an address that is no node's
	addrs []netip.Addr
}

func (w *world) end(ref string) (end, error) {
	if a, err := netip.ParseAddr(ref); err == nil {
		a = a.Unmap()
		for _, n := range w.nodes.all() {
			for _, have := range n.Addresses {
				if have == a {
					return end{node: n, addrs: []netip.Addr{a}}, nil
				}
			}
		}
		return end{addrs: []netip.Addr{a}}, nil
	}
	n, err := nodeByRef(w, ref)
	if err != nil {
		return end{}, refuse(CodeNotFound, "there is no node %s", oneLine(ref, 80))
	}
	return end{node: w.node(n.ID), addrs: n.Addresses}, nil
}

func (e end) name(a netip.Addr) string {
	if e.node == nil {
		return a.String()
	}
	return fmt.Sprintf("%s (%s)", e.node.Name, a)
}

// parseTarget splits HOST:PORT[/PROTO] or HOST/PROTO.
func parseTarget(s string) (host string, f acl.Flow, err error) {
	s, proto, named := strings.Cut(s, "/")
	f.Proto = acl.TCP
	if named {
		var ok bool
		if f.Proto, ok = acl.ParseProto(proto); !ok {
			return "", f, refuse(CodeInvalid, "%q is no protocol: use tcp, udp, icmp or a number", oneLine(proto, 40))
		}
	}
	if !f.Proto.HasPorts() {
		return strings.Trim(s, "[]"), f, nil
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.Count(s, ":") > 1 && !strings.HasPrefix(s, "[") {
		return "", f, refuse(CodeInvalid, "say which port is meant, as in %s:22 or [ADDRESS]:22", strings.Trim(oneLine(s, 80), "[]"))
	}
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != s[i+1:] { // canonical digits only (R34)
		return "", f, refuse(CodeInvalid, "%q is no port from 1 to 65535", oneLine(s[i+1:], 40))
	}
	f.Port = uint16(port)
	return strings.Trim(s[:i], "[]"), f, nil
}

// pair picks the addresses of one family for both ends; the protocol ICMPv6 asks for IPv6.
func pair(from, to end, p acl.Proto) (src, dst netip.Addr, err error) {
	for _, dst := range to.addrs {
		for _, src := range from.addrs {
			if src.Is4() == dst.Is4() && (p != acl.ICMPv6 || src.Is6()) && (p != acl.ICMP || src.Is4()) {
				return src, dst, nil
			}
		}
	}
	return src, dst, refuse(CodeInvalid, "the two ends have no address of one family for this protocol")
}

func (c *Coordinator) judgeFlow(w *world, f acl.Flow, from, to end) WhyAnswer {
	answer := WhyAnswer{Src: from.name(f.Src), Dst: to.name(f.Dst) + " " + f.Proto.String()}
	if f.Proto.HasPorts() {
		answer.Dst += " port " + strconv.Itoa(int(f.Port))
	}
	for _, e := range []end{from, to} {
		if e.node != nil && !reachable(e.node) {
			answer.Reason = fmt.Sprintf("%s %s", e.node.Name, unreachableBecause(e.node))
			return answer
		}
	}
	d := w.compiled.Ruleset().Allows(f, c.now())
	answer.Allow, answer.Reason = d.Allow, d.Reason
	if d.Rule != nil {
		answer.Rule = d.Rule.Ref.String()
	}
	return answer
}

func unreachableBecause(n *NodeRow) string {
	switch {
	case n.Quarantined:
		return "is quarantined: nothing passes to or from it"
	case n.Expired:
		return "must log in again: its login ended on " + n.Expires.Format("2006-01-02 15:04")
	}
	return "has never been connected"
}
