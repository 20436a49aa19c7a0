package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// RouteState is what becomes of a route.
type RouteState string

// The states. Only a route that is served or on standby is in a map.
const (
	RouteServing  RouteState = "serving"
	RouteStandby  RouteState = "standby"  // another router serves the same prefix
	RouteAway     RouteState = "away"     // its router is not connected, and others serve or none does
	RouteWaiting  RouteState = "waiting"  // advertised, but nobody approves it
	RouteRevoked  RouteState = "revoked"  // by an operator
	RouteUnserved RouteState = "unserved" // approved by an operator, but not advertised
	RouteBarred   RouteState = "barred"   // its node is expired, in quarantine, or was never connected
)

// RouteView is a route as operators see it. Where rules have `via`, nodes may be served by another router than State tells.
type RouteView struct {
	Node     acl.NodeID   `json:"node"`
	Name     string       `json:"name"`
	Route    netip.Prefix `json:"route"`
	State    RouteState   `json:"state"`
	Approved string       `json:"approved,omitempty"` // by whom: "policy" or "operator"
	Online   bool         `json:"online"`
}

// Routes lists every route that is advertised, or that an operator said something to, by prefix.
func (c *Coordinator) Routes(ctx context.Context, a Actor) ([]RouteView, error) {
	if err := c.viewAllowed(ctx, a, rightApproveRoutes); err != nil {
		return nil, c.outward(ctx, err)
	}
	w := c.world.Load()
	routers := w.routers()
	out := []RouteView{}
	for _, n := range w.nodes.all() {
		all := slices.Concat(n.Routing.routes(), n.Routing.Approved, n.Routing.Revoked)
		slices.SortFunc(all, comparePrefixes)
		_, online := c.presenceOf(n)
		for _, r := range slices.Compact(all) {
			out = append(out, RouteView{
				Node: n.ID, Name: n.Name, Route: r, State: w.routeState(routers, n, r), Approved: w.approval(w.policy, n, r), Online: online,
			})
		}
	}
	slices.SortFunc(out, func(a, b RouteView) int {
		return cmp.Or(comparePrefixes(a.Route, b.Route), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

func (w *world) routeState(routers map[netip.Prefix][]*NodeRow, n *NodeRow, r netip.Prefix) RouteState {
	switch list := routers[r]; {
	case slices.Contains(n.Routing.Revoked, r):
		return RouteRevoked
	case !slices.Contains(n.Routing.routes(), r):
		return RouteUnserved
	case w.approval(w.policy, n, r) == "":
		return RouteWaiting
	case !reachable(n):
		return RouteBarred
	case n.Routing.Away:
		return RouteAway
	case protocol.IsExit(r) || list[0].ID == n.ID:
		return RouteServing
	}
	return RouteStandby
}

// ApproveRoutes lets a node serve routes as soon as it advertises them, whatever the policy says.
func (c *Coordinator) ApproveRoutes(ctx context.Context, a Actor, ref string, routes []netip.Prefix) (Change, error) {
	return c.judgeRoutes(ctx, a, ref, routes, true)
}

// RevokeRoutes takes routes from a node, and keeps the policy from approving them there.
func (c *Coordinator) RevokeRoutes(ctx context.Context, a Actor, ref string, routes []netip.Prefix) (Change, error) {
	return c.judgeRoutes(ctx, a, ref, routes, false)
}

func (c *Coordinator) judgeRoutes(ctx context.Context, a Actor, ref string, routes []netip.Prefix, approve bool) (Change, error) {
	var summary string
	g, err := c.update(ctx, a, func(ch *change) error {
		n, err := c.pickNode(ch, a, rightApproveRoutes, ref)
		if err != nil {
			return err
		}
		if err := c.checkRoutes(n, routes, approve); err != nil {
			return err
		}
		w, before, was := c.world.Load(), n, n.Routing
		if summary = fmt.Sprintf("node %s may serve %s", n.Name, prefixList(routes)); approve {
			n.Routing.Approved, n.Routing.Revoked = with(was.Approved, routes), without(was.Revoked, routes)
			// A router that may serve only now takes nothing from one that does.
			n.Routing.renew(without(routes, w.served(w.policy, &before)), ch.Now())
		} else {
			summary = fmt.Sprintf("node %s may not serve %s", n.Name, prefixList(routes))
			n.Routing.Approved, n.Routing.Revoked = without(was.Approved, routes), with(was.Revoked, routes)
		}
		if n.Routing.equal(was) {
			return nil
		}
		if len(n.Routing.Approved) > maxJudged || len(n.Routing.Revoked) > maxJudged {
			return refuse(CodeInvalid, "more than %d routes of %s would be approved, or revoked: take some back first", maxJudged, n.Name)
		}
		ch.narrow()
		ch.record(map[bool]string{true: "route.approve", false: "route.revoke"}[approve], string(n.ID), n.Name+": "+prefixList(routes))
		return ch.UpdateNode(n)
	})
	if err != nil {
		return Change{}, c.outward(ctx, err)
	}
	return Change{Generation: g, Summary: summary}, nil
}

// maxJudged bounds what operators can say of one node's routes.
const maxJudged = 4 * protocol.MaxAdvertised

// checkRoutes refuses what could not take effect: a route to approve that nobody may serve, or one to revoke that n has nothing to do with.
func (c *Coordinator) checkRoutes(n NodeRow, routes []netip.Prefix, approve bool) error {
	if len(routes) == 0 {
		return refuse(CodeInvalid, "name the routes")
	}
	for _, r := range routes {
		if err := protocol.CheckRoute(r); err != nil {
			return refuse(CodeInvalid, "%s", err)
		}
		if len(c.routable([]netip.Prefix{r})) == 0 {
			return refuse(CodeInvalid, "%s overlaps the overlay: a router there would take other nodes' addresses over", r)
		}
		if !approve && !slices.Contains(n.Routing.routes(), r) && !slices.Contains(n.Routing.Approved, r) {
			return refuse(CodeNotFound, "%s neither advertises %s nor is it approved for it", n.Name, r)
		}
	}
	return nil
}

func with(list, more []netip.Prefix) []netip.Prefix {
	out := slices.Concat(list, more)
	slices.SortFunc(out, comparePrefixes)
	return slices.Compact(out)
}

func without(list, less []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return slices.Contains(less, p) })
}
