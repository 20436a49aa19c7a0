//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
)

// NATConfig is what a home router does, in the terms of RFC 4787. The zero NATConfig is Linux's own: each inside port keeps its number outside while
// that is free, so that all destinations see one port, and in comes only what answers.
type NATConfig struct {
	Mapping   Mapping
	Other     bool // lend another port than the inside's, by MapSame: a constant one each
	Filtering Filtering
	Hairpin   bool // lead what the inside sends to a lent port back in, as from the sender's lent port; by MapSame without Other

	NoUDP   bool   // forward no UDP, as a strict company does
	TCPPort uint16 // forward TCP to this port alone, and nothing else; 0 forwards all
	Closed  bool   // forward nothing: the way out is a proxy
	Loss    int    // percent of forwarded packets that are dropped, each way
}

// Mapping is what the outside port of an inside one depends on (RFC 4787, section 4.1).
type Mapping int

// Mappings.
const (
	MapSame      Mapping = iota // nothing: one port for all destinations ("endpoint-independent")
	MapByAddress                // the remote address
	MapByPort                   // remote address and port ("symmetric")
)

// Filtering is who gets in at a lent port (RFC 4787, section 5).
type Filtering int

// Filterings. All but FilterByPort take MapSame without Other.
const (
	FilterByPort    Filtering = iota // remote ports that the inside port has sent to ("address and port-dependent")
	FilterByAddress                  // remote addresses that it has sent to
	FilterNone                       // anybody, once it has sent to somebody ("endpoint-independent")
)

// NAT makes network number n behind a router of its own, which is place 1 there and has one address on the internet.
func (w *World) NAT(n int, c NATConfig) (*LAN, *Host, error) {
	router, err := w.Host(fmt.Sprintf("router%d", n))
	if err != nil {
		return nil, nil, err
	}
	if err := router.ns.Do(func() error { return address("eth0", router.Routable()+"/24") }); err != nil {
		return nil, nil, fmt.Errorf("make router %d: %w", n, err)
	}
	lan, err := w.behind(router, n, c)
	return lan, router, err
}

// NAT makes network number n behind a router that is itself at place i of this one: carrier-grade NAT, where this network has a router too.
func (l *LAN) NAT(n, i int, c NATConfig) (*LAN, *Host, error) {
	name := fmt.Sprintf("router%d", n)
	router, err := l.bare(name, i)
	if err != nil {
		return nil, nil, err
	}
	if err := l.PlugAs(router, "eth0", i); err != nil {
		return nil, nil, err
	}
	if err := router.AddRoute("0.0.0.0/0", l.Address(1)); err != nil {
		return nil, nil, fmt.Errorf("make router %d: %w", n, err)
	}
	lan, err := l.world.behind(router, n, c)
	return lan, router, err
}

// behind makes network number n, whose router this host becomes.
func (w *World) behind(router *Host, n int, c NATConfig) (*LAN, error) {
	lan, err := w.LAN(n)
	if err != nil {
		return nil, err
	}
	if err := lan.Plug(router, 1); err != nil {
		return nil, err
	}
	err = router.ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
	if err != nil {
		return nil, fmt.Errorf("make router %d: %w", n, err)
	}
	lan.routed = true
	return lan, router.translate(c)
}

// translate has the router do as told, and no longer as it was told before.
func (h *Host) translate(c NATConfig) error {
	rules := filepath.Join(h.Dir, "nat.nft")
	text := "table ip nat\ndelete table ip nat\n" + c.rules(h.IP) // the first line is for who has none to delete
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		return err
	}
	if _, err := h.Run(context.Background(), "nft", "-f", rules); err != nil {
		return fmt.Errorf("translate addresses at %s: %w", h.Name, err)
	}
	return nil
}

// RestartNAT is a router that is switched off and on again: it has forgotten what it lent, and does from then on what it is told now.
func (h *Host) RestartNAT(c NATConfig) error {
	if err := h.translate(c); err != nil {
		return err
	}
	return h.ns.Do(func() error {
		tracked, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer tracked.Close()
		return tracked.Flush()
	})
}

// rules is the router's table in the words of nft(8). owner is who inside has lent a port, contacted whom he has sent to from it. What comes in unasked
// is dropped: a router that answered strangers would make connection tracking keep the port that an inside host's datagram is about to need.
func (c NATConfig) rules(outside net.IP) string {
	var pre, forward, post []string
	switch c.Filtering {
	case FilterByAddress:
		pre = append(pre, `iifname eth0 meta l4proto udp ip saddr . udp dport @contacted dnat to udp dport map @owner`)
	case FilterNone:
		pre = append(pre, `iifname eth0 meta l4proto udp dnat to udp dport map @owner`)
	}
	if c.Hairpin {
		pre = append(pre, fmt.Sprintf(`iifname lan ip daddr %s meta l4proto udp dnat to udp dport map @owner`, outside))
		post = append(post, fmt.Sprintf(`iifname lan oifname lan snat to %s`, outside))
	}
	switch {
	case c.Closed:
		forward = append(forward, `drop`)
	case c.TCPPort != 0:
		forward = append(forward, fmt.Sprintf(`iifname lan tcp dport != %d drop`, c.TCPPort), `meta l4proto != tcp drop`)
	case c.NoUDP:
		forward = append(forward, `meta l4proto udp drop`)
	}
	if c.Loss > 0 {
		forward = append(forward, fmt.Sprintf(`numgen random mod 100 < %d drop`, c.Loss))
	}
	forward = append(forward,
		`iifname eth0 ct state != { established, related } ct status & dnat != dnat drop`,
		`iifname lan oifname eth0 meta l4proto udp update @owner { udp sport : ip saddr } update @contacted { ip daddr . udp sport }`)
	switch {
	case c.Mapping == MapByAddress: // nft keeps the hash's bytes in the machine's order, which is as good
		post = append(post, fmt.Sprintf(`oifname eth0 meta l4proto udp snat to %s:jhash udp sport . ip daddr mod 65535 seed 0x1 offset 1`, outside))
	case c.Mapping == MapByPort:
		post = append(post, `oifname eth0 masquerade fully-random`)
	case c.Other:
		post = append(post, fmt.Sprintf(`oifname eth0 meta l4proto udp snat to %s:udp sport ^ 0x0101`, outside))
	}
	post = append(post, `oifname eth0 masquerade`)
	lines := func(rules []string) string { return strings.Join(rules, "\n\t\t") }
	return fmt.Sprintf(`table ip nat {
	map owner { type inet_service : ipv4_addr; flags dynamic,timeout; timeout 2m; size 65535; }
	set contacted { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 2m; size 65535; }
	chain prerouting {
		type nat hook prerouting priority -100;
		%s
	}
	chain input {
		type filter hook input priority 0;
		iifname eth0 ct state != { established, related } ct status & dnat != dnat drop
	}
	chain forward {
		type filter hook forward priority 0;
		%s
	}
	chain postrouting {
		type nat hook postrouting priority 100;
		%s
	}
}
`, lines(pre), lines(forward), lines(post))
}

// Routable is another address of a router on the lab's internet: miniupnpd maps no port at one that is for documentation. The range is AMPRNet's for tests.
func (h *Host) Routable() string { return fmt.Sprintf("44.128.0.%d", h.IP.To4()[3]) }

func address(link, text string) error {
	eth, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(eth, a)
}

// Behind makes a machine at place i whose only way out is the network's router.
func (l *LAN) Behind(name string, i int) (*Host, error) {
	h, err := l.Host(name, i)
	if err != nil {
		return nil, err
	}
	return h, h.AddRoute("0.0.0.0/0", l.Address(1))
}

// Move takes a machine's interface "lan" out of the network it is on, and plugs it into another at place i.
func (l *LAN) Move(h *Host, i int) error {
	err := h.ns.Do(func() error {
		link, err := netlink.LinkByName("lan")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	if err != nil {
		return fmt.Errorf("unplug %s: %w", h.Name, err)
	}
	if err := l.Plug(h, i); err != nil {
		return err
	}
	if !l.routed {
		return nil
	}
	return h.AddRoute("0.0.0.0/0", l.Address(1))
}
