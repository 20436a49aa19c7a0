package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/hostnet"
	"picket.internal/node/localapi"
	"picket.internal/node/statefile"
)

// What a map says of routes is used as far as this node's user wants it: networks behind peers when they are accepted, the internet through
// the one exit node that was chosen, and of what this node may serve, what it advertises. All else is taken out before the map is judged,
// so that tunnel, filter and host know one way for each address.

// exits are the routes of an exit node.
var exits = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// routed is what the user wants routed, as far as this agent can: without a network interface nothing.
func (n *Node) routed() statefile.Routing {
	if n.config.TUN == Userspace {
		return statefile.Routing{}
	}
	return n.id.node.Routing
}

// wantedRoutes is c as far as r wants it. c is not changed.
func wantedRoutes(c protocol.Content, r statefile.Routing) protocol.Content {
	offered := advertised(r)
	c.Self.Routes = keepRoutes(c.Self.Routes, func(p netip.Prefix) bool { return slices.Contains(offered, p) })
	c.Peers = slices.Clone(c.Peers)
	for i := range c.Peers {
		exit := r.Exit != "" && c.Peers[i].Node == r.ExitID
		c.Peers[i].Routes = keepRoutes(c.Peers[i].Routes, func(p netip.Prefix) bool {
			if protocol.IsExit(p) {
				return exit
			}
			return r.Accept
		})
	}
	return c
}

func keepRoutes(routes []netip.Prefix, keep func(netip.Prefix) bool) (out []netip.Prefix) {
	for _, p := range routes {
		if keep(p) {
			out = append(out, p)
		}
	}
	return out
}

// advertised is what the node tells the coordinator that it would serve.
func advertised(r statefile.Routing) []netip.Prefix {
	out := slices.Clone(r.Advertise)
	if r.ExitNode {
		out = append(out, exits...)
	}
	return out
}

// hostConfig is what the host is to have for a map that wantedRoutes narrowed. What peers serve that are refused leads into the tunnel all the
// same, where it is refused: it must not leave by another way.
func hostConfig(c protocol.Content, r statefile.Routing) hostnet.Config {
	out := hostnet.Config{Addresses: c.Self.Addresses, Overlay: c.Network.Overlay, Served: c.Self.Routes, KeepSource: r.KeepSource}
	for _, p := range c.Peers {
		out.Routes = append(out.Routes, keepRoutes(p.Routes, func(p netip.Prefix) bool { return !protocol.IsExit(p) })...)
	}
	switch {
	case r.Exit != "" && r.ExitLAN:
		out.Exit = hostnet.ExitWithLAN
	case r.Exit != "":
		out.Exit = hostnet.ExitNotLAN
	}
	return out
}

// Set changes what is routed.
func (a api) Set(ctx context.Context, c localapi.ChangeRouting) (localapi.Status, error) {
	var failed error
	if err := a.n.do(ctx, func() { failed = a.n.setRouting(c) }); err != nil {
		return localapi.Status{}, err
	}
	if failed != nil {
		return localapi.Status{}, failed
	}
	return a.n.view.Load().status(), nil
}

// setRouting checks a change, writes it down and puts it in force.
func (n *Node) setRouting(c localapi.ChangeRouting) error {
	if c.IsZero() {
		return nil
	}
	r, err := n.changedRouting(c)
	if err != nil {
		return err
	}
	was := n.id.node.Routing
	n.id.node.Routing = r
	if err := n.id.save(); err != nil {
		n.id.node.Routing = was
		return err
	}
	n.log.Info("what is routed was changed", "advertised", advertised(r), "accept", r.Accept, "exit", r.Exit)
	if n.overlay != nil && !n.map_.held.isZero() {
		if _, err := n.enforce(); err != nil {
			return fmt.Errorf("it is noted, but not in force: %w", err)
		}
	}
	n.report(true)
	return nil
}

// changedRouting is the routing after c. Errors are sentences for the user.
func (n *Node) changedRouting(c localapi.ChangeRouting) (statefile.Routing, error) {
	r := n.id.node.Routing
	if c.Advertise != nil {
		if err := n.checkAdvertised(*c.Advertise); err != nil {
			return r, err
		}
		r.Advertise = *c.Advertise
	}
	set(&r.ExitNode, c.AdvertiseExit)
	set(&r.Accept, c.Accept)
	if c.SNAT != nil {
		r.KeepSource = !*c.SNAT
	}
	if c.Exit != nil {
		if r.Exit, r.ExitID = *c.Exit, ""; r.Exit == "" {
			r.ExitLAN = false
		} else if err := n.chooseExit(&r); err != nil {
			return r, err
		}
	}
	set(&r.ExitLAN, c.ExitLAN)
	return r, n.checkRouting(r)
}

func set(field *bool, to *bool) {
	if to != nil {
		*field = *to
	}
}

func (n *Node) checkRouting(r statefile.Routing) error {
	switch {
	case n.config.TUN == Userspace && !r.IsZero():
		return errors.New("serving networks, and using those behind peers, needs a network interface, which only Linux has here: run the agent there without --tun=userspace")
	case r.ExitNode && r.Exit != "":
		return errors.New("an exit node cannot use another one: choose one of --advertise-exit-node and --exit-node")
	case r.ExitLAN && r.Exit == "":
		return errors.New("--exit-node-allow-lan-access means something with an exit node only: give --exit-node, too")
	}
	return nil
}

func (n *Node) checkAdvertised(routes []netip.Prefix) error {
	if len(routes)+len(exits) > protocol.MaxAdvertised {
		return fmt.Errorf("%d routes are too many: at most %d", len(routes), protocol.MaxAdvertised-len(exits))
	}
	for _, p := range routes {
		if err := protocol.CheckRoute(p); err != nil {
			return err
		}
		if protocol.IsExit(p) {
			return fmt.Errorf("%s is the internet: use --advertise-exit-node", p)
		}
		for _, o := range n.map_.held.content.Network.Overlay {
			if o.Overlaps(p) {
				return fmt.Errorf("%s overlaps the overlay range %s: that is where the nodes' own addresses are", p, o)
			}
		}
	}
	return nil
}

// chooseExit finds the exit node that r names among the peers. Before there is a map it is left open; enforce finds it then.
func (n *Node) chooseExit(r *statefile.Routing) error {
	c := n.map_.held.content
	if n.map_.held.isZero() {
		return nil
	}
	var found []acl.NodeID
	var offering []string
	for _, p := range c.Peers {
		if !slices.ContainsFunc(p.Routes, protocol.IsExit) {
			continue
		}
		offering = append(offering, p.Name)
		if strings.EqualFold(p.Name, r.Exit) || string(p.Node) == r.Exit || slices.ContainsFunc(p.Addresses, func(a netip.Addr) bool { return a.String() == r.Exit }) {
			found = append(found, p.Node)
		}
	}
	if len(found) == 1 {
		r.ExitID = found[0]
		return nil
	}
	if len(offering) == 0 {
		return fmt.Errorf("%.80q is no exit node for this node: there is none that it may use; one must run picket set --advertise-exit-node, be approved, "+
			"and the policy must grant autogroup:internet", r.Exit)
	}
	return fmt.Errorf("%.80q is no exit node for this node: those it may use are %s", r.Exit, strings.Join(offering, ", "))
}

// settleExit finds the exit node that was chosen before there was a map. From then on it is known by its id: another node that takes its name
// over is not sent this one's traffic.
func (n *Node) settleExit() {
	r := n.id.node.Routing
	if r.Exit == "" || r.ExitID != "" || n.chooseExit(&r) != nil {
		return
	}
	n.id.node.Routing = r
	n.noteSave(n.id.save())
}

// routing is the part of the status about routes.
func (v *view) routing() (out localapi.Routing) {
	r := v.id.Routing
	out = localapi.Routing{KeepSource: r.KeepSource, Accepts: r.Accept, Exit: r.Exit, ExitLAN: r.ExitLAN}
	for _, p := range advertised(r) {
		out.Serves = append(out.Serves, localapi.Served{Route: p, Approved: slices.Contains(v.held.content.Self.Routes, p)})
	}
	for _, p := range v.held.content.Peers {
		for _, route := range p.Routes {
			used := r.Accept && !protocol.IsExit(route) || protocol.IsExit(route) && r.Exit != "" && p.Node == r.ExitID
			out.Offers = append(out.Offers, localapi.Offer{Route: route, Peer: p.Name, Used: used && v.judged.refused[p.Node] == ""})
		}
	}
	slices.SortFunc(out.Offers, func(a, b localapi.Offer) int {
		return strings.Compare(a.Route.String()+" "+a.Peer, b.Route.String()+" "+b.Peer)
	})
	return out
}

// exitTroubles are sentences on an exit node that is wanted and does not work.
func (v *view) exitTroubles() (out []string) {
	r := v.id.Routing
	if r.Exit == "" || v.held.isZero() {
		return nil
	}
	if v.overlay != nil {
		if strict := hostnet.StrictSources(v.overlay.Interface()); len(strict) > 0 {
			out = append(out, fmt.Sprintf("the kernel drops what peers send to %s, because it would answer by the exit node: sysctl net.ipv4.conf.%s.rp_filter=2",
				strings.Join(strict, ", "), strict[0]))
		}
	}
	for _, p := range v.held.content.Peers {
		if p.Node != r.ExitID || !slices.ContainsFunc(p.Routes, protocol.IsExit) {
			continue
		}
		if v.judged.refused[p.Node] == "" && !v.online[p.Node] { // of a refused peer there is a warning
			out = append(out, fmt.Sprintf("the exit node %s is not connected: the internet is not reached until it is, or until you choose another one or none (picket set --exit-node=)", p.Name))
		}
		return out
	}
	return append(out, fmt.Sprintf("%s is no exit node for this node now: the internet is not reached until you choose another one or none (picket set --exit-node=)", r.Exit))
}
