package protocol

import (
	"fmt"
	"net/netip"
)

// MaxAdvertised bounds Report.Routes.
const MaxAdvertised = 64

// A route wider than these is an exit node by another name: 0.0.0.0/1 and 128.0.0.0/1 together are the internet.
const (
	minRoute4 = 8
	minRoute6 = 16
)

// unroutable are addresses that mean something on one host or one link only, or nothing (RFC 6890).
var unroutable = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "no address at all"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast or reserved"},
	{netip.MustParsePrefix("::/16"), "loopback or reserved"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// IsExit reports whether p is an exit node's route, 0.0.0.0/0 or ::/0.
func IsExit(p netip.Prefix) bool { return p.IsValid() && p.Bits() == 0 }

// CheckRoute refuses, in words for whoever wrote it, what no node may serve: a prefix with bits beyond its length, one that holds
// loopback, link-local, multicast or reserved addresses, and one wider than /8 (IPv6: /16) but for the exit routes.
func CheckRoute(p netip.Prefix) error {
	switch {
	case !p.IsValid() || p.Addr().Is4In6():
		return fmt.Errorf("this is no network: write 10.33.0.0/16 or fd00:33::/32")
	case p != p.Masked():
		return fmt.Errorf("%s has bits beyond its length: write %s", p, p.Masked())
	case IsExit(p):
		return nil
	case p.Addr().Is4() && p.Bits() < minRoute4 || p.Addr().Is6() && p.Bits() < minRoute6:
		return fmt.Errorf("%s is wider than a subnet can be (/%d for IPv4, /%d for IPv6): name the networks themselves, or be an exit node", p, minRoute4, minRoute6)
	}
	for _, u := range unroutable {
		if u.prefix.Overlaps(p) {
			return fmt.Errorf("%s cannot be routed: it is %s", p, u.what)
		}
	}
	return nil
}

// checkRoutes bounds what a node advertises.
func checkRoutes(routes []netip.Prefix) error {
	if len(routes) > MaxAdvertised {
		return fmt.Errorf("%d routes, at most %d are read", len(routes), MaxAdvertised)
	}
	for _, r := range routes {
		if err := CheckRoute(r); err != nil {
			return err
		}
	}
	return nil
}
