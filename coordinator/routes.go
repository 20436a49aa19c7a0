package coordinator

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// A route is in a map when its node advertises it and the policy (autoApprovers) or an operator approves it. What the policy approves is
// not stored: it follows from the policy in force, so an approval ends with the policy that gave it. Of several routers of one prefix a
// map names one, because a tunnel sends each address to one peer only: see settle.

// Routing is what a node offers to serve, and what operators said to that.
type Routing struct {
	Advertised []Advertised   `json:"advertised,omitempty"` // by route
	Approved   []netip.Prefix `json:"approved,omitempty"`   // by an operator, whether or not they are advertised now
	Revoked    []netip.Prefix `json:"revoked,omitempty"`    // by an operator, whatever the policy says
	Away       bool           `json:"away,omitempty"`       // it had no session for too long, and others serve
}

// Advertised is a route that a node offers to serve. The longer it has been at hand, the sooner it is used.
type Advertised struct {
	Route netip.Prefix `json:"route"`
	Since time.Time    `json:"since"`
}

func (r Routing) equal(o Routing) bool {
	same := func(a, b Advertised) bool { return a.Route == b.Route && a.Since.Equal(b.Since) }
	return slices.EqualFunc(r.Advertised, o.Advertised, same) && slices.Equal(r.Approved, o.Approved) && slices.Equal(r.Revoked, o.Revoked) && r.Away == o.Away
}

// routes lists what is advertised, in order.
func (r Routing) routes() (out []netip.Prefix) {
	for _, a := range r.Advertised {
		out = append(out, a.Route)
	}
	return out
}

// since is from when on route is advertised; the zero time when it is not.
func (r Routing) since(route netip.Prefix) time.Time {
	for _, a := range r.Advertised {
		if a.Route == route {
			return a.Since
		}
	}
	return time.Time{}
}

// advertise notes what the node offers from now on.
func (r *Routing) advertise(routes []netip.Prefix, now time.Time) {
	var next []Advertised
	for _, p := range routes {
		since := r.since(p)
		if since.IsZero() {
			since = now
		}
		next = append(next, Advertised{p, since})
	}
	if r.Advertised = next; len(next) == 0 {
		r.Away = false
	}
}

// renew puts routes at the end of the line: they have just come, or come back.
func (r *Routing) renew(routes []netip.Prefix, now time.Time) {
	r.Advertised = slices.Clone(r.Advertised)
	for i, a := range r.Advertised {
		if slices.Contains(routes, a.Route) {
			r.Advertised[i].Since = now
		}
	}
}

// routable is what of the advertised routes can be served at all, in order and each once. A route into the overlay would be a way to take
// other nodes' addresses over.
func (c *Coordinator) routable(routes []netip.Prefix) (out []netip.Prefix) {
	for _, r := range routes {
		inOverlay := slices.ContainsFunc(overlays(c.config), r.Overlaps) && !protocol.IsExit(r)
		if len(out) < protocol.MaxAdvertised && protocol.CheckRoute(r) == nil && !inOverlay {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, comparePrefixes)
	return slices.Compact(out)
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// approval is who approves a route: "" for nobody, "policy" or "operator".
func (w *world) approval(p *acl.Policy, n *NodeRow, route netip.Prefix) string {
	switch {
	case slices.Contains(n.Routing.Revoked, route):
		return ""
	case slices.Contains(n.Routing.Approved, route):
		return approvedByOperator
	}
	node := n.acl()
	var owner acl.User
	if u, ok := w.users.get(n.Owner); ok {
		owner = u.acl()
	}
	if p.ApprovesRoute(&node, owner, route) {
		return approvedByPolicy
	}
	return ""
}

const (
	approvedByPolicy   = "policy"
	approvedByOperator = "operator"
)

// served lists the routes that n advertises and, under policy p, may serve.
func (w *world) served(p *acl.Policy, n *NodeRow) (out []netip.Prefix) {
	for _, r := range n.Routing.routes() {
		if w.approval(p, n, r) != "" {
			out = append(out, r)
		}
	}
	return out
}

// serving is n as policy p sees it.
func (w *world) serving(p *acl.Policy, n *NodeRow) acl.Node {
	out := n.acl()
	out.Routes = w.served(p, n)
	return out
}

// settle leaves each prefix in v to one peer, and what v's own node serves to nobody else: a tunnel sends each address to one peer only, so
// that both ends of `via` see the same router. Of exit nodes all stay that a rule leads through, since the node's user chooses among them.
func (w *world) settle(v *acl.View) {
	claims := make(map[netip.Prefix][]int)
	for i := range v.Peers {
		for _, r := range v.Peers[i].Routes {
			claims[r] = append(claims[r], i)
		}
	}
	lost := make(map[int][]netip.Prefix)
	for route, peers := range claims {
		keep := func(int) bool { return false }
		switch {
		case slices.Contains(v.Self.Routes, route):
		case protocol.IsExit(route):
			keep = func(i int) bool { return leading(v, route, i) < len(v.Rules) }
		case len(peers) == 1:
			continue
		default:
			chosen := w.choose(v, route, peers)
			keep = func(i int) bool { return i == chosen }
		}
		for _, i := range peers {
			if !keep(i) {
				lost[i] = append(lost[i], route)
			}
		}
	}
	for i, routes := range lost {
		v.Peers[i].Routes = without(v.Peers[i].Routes, routes)
	}
}

// leading is the first of v's rules that lets flows to something behind route pass through peer i, and the number of rules where none does.
func leading(v *acl.View, route netip.Prefix, i int) int {
	if n := slices.IndexFunc(v.Rules, func(r acl.Rule) bool { return r.LeadsThrough(&v.Peers[i], route) }); n >= 0 {
		return n
	}
	return len(v.Rules)
}

// choose returns which of the peers serves route in v: one that a rule leads through; then one that is not away; then by the first rule in
// the file that leads through it (so `via` chooses, and rules of several `via` are an order of preference); then who has been at hand
// longest, so that who comes back takes nothing back.
func (w *world) choose(v *acl.View, route netip.Prefix, peers []int) int {
	rank := make(map[int]int, len(peers))
	for _, i := range peers {
		rank[i] = leading(v, route, i)
	}
	return slices.MinFunc(peers, func(i, j int) int {
		a, b := w.node(v.Peers[i].Node), w.node(v.Peers[j].Node)
		return cmp.Or(
			compareBools(rank[i] == len(v.Rules), rank[j] == len(v.Rules)), compareBools(a.Routing.Away, b.Routing.Away), cmp.Compare(rank[i], rank[j]),
			a.Routing.since(route).Compare(b.Routing.since(route)), compareIDs(a.ID, b.ID))
	})
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// routers lists the reachable nodes that serve something, by the prefixes they serve, the one that serves by default first.
func (w *world) routers() map[netip.Prefix][]*NodeRow {
	out := make(map[netip.Prefix][]*NodeRow)
	for _, n := range w.nodes.all() {
		if len(n.Routing.Advertised) == 0 || !reachable(n) {
			continue
		}
		for _, r := range w.served(w.policy, n) {
			out[r] = append(out[r], n)
		}
	}
	for route, list := range out {
		slices.SortFunc(list, func(a, b *NodeRow) int {
			return cmp.Or(compareBools(a.Routing.Away, b.Routing.Away), a.Routing.since(route).Compare(b.Routing.since(route)), compareIDs(a.ID, b.ID))
		})
	}
	return out
}
