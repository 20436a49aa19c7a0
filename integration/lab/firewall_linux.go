//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
)

// FlushRules removes every nftables rule of the host, as a careless operator does.
func (h *Host) FlushRules() error {
	return h.ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
}

// OwnTable gives the host a table of another program's, which counts what is forwarded.
func (h *Host) OwnTable(name string) error {
	return h.ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
		return c.Flush()
	})
}

// Firewall lists the host's chains with how many rules each has: "inet picket forward 9", in order.
func (h *Host) Firewall() (out []string, err error) {
	err = h.ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := c.ListChains()
		for _, ch := range chains {
			rules, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return err
			}
			out = append(out, fmt.Sprintf("%s %s %s %d", map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet"}[ch.Table.Family], ch.Table.Name, ch.Name, len(rules)))
		}
		slices.Sort(out)
		return err
	})
	return out, err
}

// RoutingRules lists the host's rules of ip-rule(8) but the three that every host has.
func (h *Host) RoutingRules() (out []string, err error) {
	err = h.ns.Do(func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		for _, r := range rules {
			if r.Priority != 0 && r.Priority < 32766 {
				out = append(out, r.String())
			}
		}
		return err
	})
	return out, err
}

// Tracked lists the connections to port that the host's connection tracking knows, by the source of their first packets.
func (h *Host) Tracked(port uint16) (out []string, err error) {
	err = h.ns.Do(func() error {
		c, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer c.Close()
		flows, err := c.Dump(nil)
		for _, f := range flows {
			if f.TupleOrig.Proto.DestinationPort == port {
				out = append(out, f.TupleOrig.IP.SourceAddress.String())
			}
		}
		return err
	})
	return out, err
}

// Forwards reports whether the host forwards IPv4 packets.
func (h *Host) Forwards() (on bool, err error) {
	err = h.ns.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		on = strings.TrimSpace(string(text)) == "1"
		return err
	})
	return on, err
}

// AddRoute leads a network to a gateway.
func (h *Host) AddRoute(network, gateway string) error {
	dst, err := netlink.ParseIPNet(network)
	if err != nil {
		return err
	}
	return h.ns.Do(func() error {
		return netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: netip.MustParseAddr(gateway).AsSlice()})
	})
}
