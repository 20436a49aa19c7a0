package main

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// routingFlags are those of `up` and `set`. What is not given stays as it is.
func routingFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "advertise-routes", Usage: "offer to serve these networks: `ROUTES` such as 10.33.0.0/16,fd00:33::/32; empty for none"},
		&cli.BoolFlag{Name: "advertise-exit-node", Usage: "offer to be a way to the internet"},
		&cli.BoolFlag{Name: "snat-subnet-routes", Value: true, Usage: "give what is forwarded into served networks this host's address; without, these need a route back"},
		&cli.BoolFlag{Name: "accept-routes", Usage: "use the networks that peers serve"},
		&cli.StringFlag{Name: "exit-node", Usage: "reach the internet through the peer `NODE`; empty for none"},
		&cli.BoolFlag{Name: "exit-node-allow-lan-access", Usage: "with an exit node, reach this host's own networks directly"},
	}
}

// readRouting reads routingFlags.
func readRouting(c *cli.Context) (r localapi.ChangeRouting, err error) {
	if c.IsSet("advertise-routes") {
		routes, err := readRoutes(c)
		if err != nil {
			return r, err
		}
		r.Advertise = &routes
	}
	for name, field := range map[string]**bool{
		"advertise-exit-node": &r.AdvertiseExit, "snat-subnet-routes": &r.SNAT, "accept-routes": &r.Accept, "exit-node-allow-lan-access": &r.ExitLAN,
	} {
		if c.IsSet(name) {
			value := c.Bool(name)
			*field = &value
		}
	}
	if c.IsSet("exit-node") {
		exit := strings.TrimSpace(c.String("exit-node"))
		r.Exit = &exit
	}
	return r, nil
}

func readRoutes(c *cli.Context) ([]netip.Prefix, error) {
	routes := []netip.Prefix{}
	for text := range strings.SplitSeq(c.String("advertise-routes"), ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, cliflags.Usage(c, "--advertise-routes: %.60q is no network: write 10.33.0.0/16 or fd00:33::/32", text)
		}
		if err := protocol.CheckRoute(p); err != nil {
			return nil, cliflags.Usage(c, "--advertise-routes: %s", err)
		}
		if protocol.IsExit(p) {
			return nil, cliflags.Usage(c, "--advertise-routes: %s is the internet: use --advertise-exit-node", p)
		}
		if !slices.Contains(routes, p) {
			routes = append(routes, p)
		}
	}
	return routes, nil
}

func setCommand() *cli.Command {
	return &cli.Command{
		Name:  "set",
		Usage: "change what is routed: networks to serve, and those of peers to use",
		Description: "What is not given stays as it is. Networks that are served need the approval of the policy (autoApprovers) or of an operator\n" +
			"(picket-coordinator nodes routes approve), and grants for who may reach what in them.\n\nExamples:\n\n" +
			"   picket set --advertise-routes 10.33.0.0/16,fd00:33::/32\n" +
			"   picket set --advertise-exit-node\n" +
			"   picket set --accept-routes\n" +
			"   picket set --exit-node vps --exit-node-allow-lan-access\n" +
			"   picket set --exit-node= --accept-routes=false --advertise-routes=",
		Flags: asking(append(routingFlags(), jsonFlag())...),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			r, err := readRouting(c)
			if err != nil {
				return err
			}
			if r.IsZero() {
				return cliflags.Usage(c, "say what to change")
			}
			s, err := client(c).Set(c.Context, r)
			if err != nil {
				return explain(err)
			}
			return show(c, s, func(w io.Writer) { showRouting(w, s) })
		},
	}
}

// showRouting is the part of `status` about routes; a line when nothing is routed.
func showRouting(w io.Writer, s localapi.Status) {
	pairs := routingFields(s.Routing)
	if len(pairs) == 0 {
		fmt.Fprintln(w, "Nothing is served, and nothing of peers' networks is used.")
	}
	fields(w, pairs...)
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "! %s\n", protocol.Printable(warning))
	}
}

// routingFields are the lines about routes.
func routingFields(r localapi.Routing) (pairs []string) {
	var serves, waiting, used, unused, beyond []string
	for _, s := range r.Serves {
		if s.Approved {
			serves = append(serves, routeText(s.Route))
		} else {
			waiting = append(waiting, routeText(s.Route))
		}
	}
	for _, o := range r.Offers {
		switch text := fmt.Sprintf("%s by %s", routeText(o.Route), o.Peer); {
		case o.Used && protocol.IsExit(o.Route):
			beyond = append(beyond, familyText(o.Route))
		case o.Used:
			used = append(used, text)
		case !protocol.IsExit(o.Route):
			unused = append(unused, text)
		}
	}
	line := func(name string, list []string, more string) {
		if len(list) > 0 {
			pairs = append(pairs, name, strings.Join(list, ", ")+more)
		}
	}
	line("Serves", serves, map[bool]string{true: " (without SNAT)"}[r.KeepSource])
	line("Not approved", waiting, ": picket-coordinator nodes routes approve, or the policy's autoApprovers")
	line("Routes used", used, "")
	line("Not used", unused, ": use --accept-routes (picket set)")
	if r.Exit != "" {
		line("Exit node", []string{r.Exit + " for " + cmp.Or(strings.Join(beyond, " and "), "nothing now")}, map[bool]string{true: ", own networks directly"}[r.ExitLAN])
	}
	return pairs
}

// routeText is a route as people say it.
func routeText(p netip.Prefix) string {
	if protocol.IsExit(p) {
		return "the internet (" + familyText(p) + ")"
	}
	return p.String()
}

func familyText(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}
