package main

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
	"picket.internal/coordinator/protocol"
)

func routesCommand() *cli.Command {
	common := []cli.Flag{dirFlag(), jsonFlag()}
	changing := append(waitFlags(), common...)
	return &cli.Command{
		Name: "routes", Usage: "see and approve what nodes offer to serve", HideHelpCommand: true,
		Description: "A route that a node advertises is in no map until the policy's autoApprovers or an operator approve it.\n\nExample:\n\n   picket-coordinator nodes routes list",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list every route, with who serves it", ArgsUsage: "[NODE]", Flags: common, Action: listRoutes, BashComplete: nodeNames,
				Description: "Of several routers of one prefix one serves; the others stand by. Where rules have `via`, it may be another one for some nodes.\n\n" +
					"Examples:\n\n   picket-coordinator nodes routes list\n   picket-coordinator nodes routes list router-1 --json"},
			{Name: "approve", Usage: "let a node serve routes", ArgsUsage: "NODE ROUTE...", Flags: changing, Action: approveRoutes, BashComplete: nodeNames,
				Description: "ROUTE is a prefix, or \"exit\" for 0.0.0.0/0 and ::/0. It may be approved before it is advertised.\n\n" +
					"Examples:\n\n   picket-coordinator nodes routes approve router-1 10.33.0.0/16 --wait\n   picket-coordinator nodes routes approve vps exit"},
			{Name: "revoke", Usage: "take routes from a node, whatever the policy approves", ArgsUsage: "NODE ROUTE...", Flags: changing, Action: revokeRoutes, BashComplete: nodeNames,
				Description: "Flows through them are cut at once.\n\nExample:\n\n   picket-coordinator nodes routes revoke router-1 10.33.0.0/16 --wait"},
		},
	}
}

func listRoutes(c *cli.Context) error {
	if c.NArg() > 1 {
		return cliflags.Usage(c, "give one node at most")
	}
	routes, err := opsocket.RoutesList.Do(c.Context, client(c), opsocket.None{})
	if err != nil {
		return err
	}
	if ref := c.Args().First(); ref != "" {
		var of []coordinator.RouteView
		for _, r := range routes {
			if r.Name == ref || string(r.Node) == ref {
				of = append(of, r)
			}
		}
		routes = append([]coordinator.RouteView{}, of...)
	}
	return show(c, routes, func(w io.Writer) {
		if len(routes) == 0 {
			fmt.Fprintln(w, "no routes: on a router, `picket set --advertise-routes 10.33.0.0/16`")
			return
		}
		var rows [][]string
		for _, r := range routes {
			rows = append(rows, []string{r.Route.String(), r.Name, routeText(r), dash(r.Approved), map[bool]string{true: "yes", false: "no"}[r.Online]})
		}
		table(w, "ROUTE|NODE|STATE|APPROVED BY|ONLINE", rows)
	})
}

// routeText is a state in words, with what can be done where something is amiss.
func routeText(r coordinator.RouteView) string {
	switch r.State {
	case coordinator.RouteWaiting:
		return "waiting for approval"
	case coordinator.RouteUnserved:
		return "not advertised"
	case coordinator.RouteAway:
		return "away, another one serves"
	case coordinator.RouteBarred:
		return "its node takes no part"
	}
	return string(r.State)
}

func approveRoutes(c *cli.Context) error { return judgeRoutes(c, opsocket.RoutesApprove) }

func revokeRoutes(c *cli.Context) error { return judgeRoutes(c, opsocket.RoutesRevoke) }

func judgeRoutes(c *cli.Context, call opsocket.Call[opsocket.NodeRoutes, coordinator.Change]) error {
	if c.NArg() < 2 {
		return cliflags.Usage(c, "give a node, and the routes")
	}
	request := opsocket.NodeRoutes{Ref: c.Args().First()}
	for _, text := range c.Args().Tail() {
		routes, err := parseRoute(text)
		if err != nil {
			return cliflags.Usage(c, "%s", err)
		}
		request.Routes = append(request.Routes, routes...)
	}
	change, err := call.Do(c.Context, client(c), request)
	if err != nil {
		return unknown(err, "node", request.Ref)
	}
	return report(c, change)
}

// parseRoute reads a prefix, or "exit" for both exit routes.
func parseRoute(text string) ([]netip.Prefix, error) {
	if text == "exit" {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return nil, fmt.Errorf("%.60q is no route: write 10.33.0.0/16, fd00:33::/32 or exit", text)
	}
	return []netip.Prefix{p}, protocol.CheckRoute(p)
}
