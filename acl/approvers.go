package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// approvers is the section autoApprovers: whose nodes need nobody's approval for what they advertise.
type approvers struct {
	routes   []routeApprovers
	exitNode []selector
}

// routeApprovers is one member of autoApprovers.routes.
type routeApprovers struct {
	prefix netip.Prefix // may have length 0, which is every route of its family but no exit node
	by     []selector
}

// ApprovesRoute reports whether the policy approves route for n as soon as n advertises it. owner is n's owner and counts only where n has
// no tags. A route is approved when autoApprovers.routes lists it, or a network around it, for the owner, a group or role of the owner, or
// a tag of n. An exit node's routes, 0.0.0.0/0 and ::/0, are approved by exitNode and by nothing else: who may serve any network does not
// thereby take all traffic. False for what is no masked prefix.
func (p *Policy) ApprovesRoute(n *Node, owner User, route netip.Prefix) bool {
	if !route.IsValid() || route != route.Masked() || route.Addr().Is4In6() {
		return false
	}
	who := p.identify(n.Tags, owner.Login, owner.Role)
	if route.Bits() == 0 {
		return slices.ContainsFunc(p.approvers.exitNode, who.is)
	}
	return slices.ContainsFunc(p.approvers.routes, func(a routeApprovers) bool {
		return a.prefix.Bits() <= route.Bits() && a.prefix.Contains(route.Addr()) && slices.ContainsFunc(a.by, who.is)
	})
}

// identity is what a node is to selectors that go by whose it is: its tags or, when it has none, its owner.
type identity struct {
	tags   []string
	login  string // folded
	groups []string
	role   string
}

func (p *Policy) identify(tags []string, login, role string) identity {
	if len(tags) > 0 {
		return identity{tags: tags}
	}
	if login == "" {
		return identity{}
	}
	login = foldLogin(login)
	return identity{login: login, groups: p.memberOf[login], role: role}
}

// is reports whether s names nodes of this identity. A selector that does not go by identity names none.
func (w identity) is(s selector) bool {
	switch s.kind {
	case kindUser:
		return w.login == s.text
	case kindGroup:
		return slices.Contains(w.groups, s.text)
	case kindDomain:
		_, domain, _ := strings.Cut(w.login, "@")
		return w.login != "" && s.text == domainSelector+domain
	case kindMember:
		return w.login != ""
	case kindRole:
		return w.role != "" && s.text == "autogroup:"+w.role
	case kindTag:
		return slices.Contains(w.tags, s.text)
	case kindTagged:
		return len(w.tags) > 0
	}
	return false
}

// purpose is what selectors that go by whose a node is are read for, in words for those that do not fit.
type purpose struct {
	cannot, can string
	autogroups  []kind
}

// people are autogroups of users.
var people = []kind{kindMember, kindRole}

var approving = purpose{
	"cannot approve routes", "users, groups, tags, `autogroup:member`, `autogroup:tagged` and roles such as `autogroup:admin` can", append([]kind{kindTagged}, people...),
}

// autoApprovers reads the section.
func (r *reader) autoApprovers(v *hujson.Value) {
	a := &r.pol.approvers
	r.object(v, quote("autoApprovers"), []field{
		{"routes", func(v *hujson.Value) { a.routes = r.routeApprovers(v) }},
		{"exitNode", func(v *hujson.Value) { a.exitNode = r.approverList(v, "autoApprovers.exitNode") }},
		{"services", r.serviceApprovers},
	})
}

func (r *reader) routeApprovers(v *hujson.Value) (out []routeApprovers) {
	members, _ := r.members(v, "autoApprovers.routes")
	for _, m := range members {
		by := r.approverList(m.value, "autoApprovers.routes of "+quote(m.name))
		if prefix, ok := r.approvedPrefix(m); ok {
			out = append(out, routeApprovers{prefix, by})
		}
	}
	return out
}

// approvedPrefix reads the name of a member of routes. Unlike anywhere else the network of every address may stand here.
func (r *reader) approvedPrefix(m member) (netip.Prefix, bool) {
	for _, every := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		if m.name == every.String() {
			r.warn(m.at, "exit nodes are approved by `exitNode`", "%s approves every route of its family, but no exit node", quote(m.name))
			return every, true
		}
	}
	if h, known := r.pol.hosts[m.name]; known {
		r.err(m.at, fmt.Sprintf("write %s", quote(h.prefix.String())), "%s is a host: routes are written as networks", quote(m.name))
		return netip.Prefix{}, false
	}
	return r.prefix(m.name, m.at)
}

// approverList reads a list of approvers. An empty one approves nobody's, as in Tailscale.
func (r *reader) approverList(v *hujson.Value, what string) (out []selector) {
	elems, _ := r.array(v, what)
	for i := range elems {
		if s, ok := r.text(&elems[i], "an element of "+what); ok {
			at := elems[i].StartOffset
			if sel, ok := r.identitySelector(s, at, inSrc, approving); ok {
				out = append(out, sel)
			}
		}
	}
	return distinct(out)
}

// serviceApprovers checks services, of which Picket has none.
func (r *reader) serviceApprovers(v *hujson.Value) {
	members, _ := r.members(v, "autoApprovers.services")
	for _, m := range members {
		name, isService := strings.CutPrefix(m.name, "svc:")
		switch {
		case strings.HasPrefix(m.name, "tag:"):
			r.knownTag(m.name, m.at)
		case !isService || badService(name):
			r.err(m.at, "services are named `svc:NAME`, with letters, digits and hyphens, or by a tag", "%s is not the name of a service", quote(m.name))
		}
		r.approverList(m.value, "autoApprovers.services of "+quote(m.name))
	}
	if len(members) > 0 {
		r.warn(v.StartOffset, "", "`services` has no effect: Picket has no services to approve")
	}
}

// badService reports whether s is no name of a service, which is a DNS label.
func badService(s string) bool {
	return s == "" || len(s) > 63 || strings.Trim(s, "-") != s || strings.ContainsFunc(s, func(c rune) bool { return !isAlnum(c) && c != '-' })
}

// identitySelector reads a selector that goes by whose a node is: a user, a group, a tag, or an autogroup that fits.
func (r *reader) identitySelector(s string, at int, in place, as purpose) (selector, bool) {
	prefix, _, marked := strings.Cut(s, ":")
	hint := as.can
	switch {
	case prefix == "autogroup":
		if k, known := autogroupKind(s); !known || slices.Contains(as.autogroups, k) {
			return r.selector(s, at, in)
		}
	case marked && slices.Contains([]string{"group", "tag", "user"}, prefix), !marked && strings.Contains(s, "@"):
		return r.selector(s, at, in)
	case r.pol.tags["tag:"+s] != nil:
		hint = fmt.Sprintf("did you mean %s?", quote("tag:"+s))
	case r.pol.groups["group:"+s] != nil:
		hint = fmt.Sprintf("did you mean %s?", quote("group:"+s))
	}
	r.err(at, hint, "%s %s", quote(s), as.cannot)
	return selector{}, false
}

// autogroupKind returns the kind of an autogroup, false where there is none of that name.
func autogroupKind(s string) (kind, bool) {
	for _, a := range autogroups {
		if a.name == s {
			return a.kind, true
		}
	}
	return 0, false
}
