// Package hostnet fits the tunnel's network interface into the host: addresses, routes, forwarding, and the guard around them.
//
// The overlay's routes sit in a table of their own, reached by a policy rule, each with a fallback that answers "unreachable": when the
// interface goes away, traffic to the overlay stops instead of leaving in clear by the default route. The guard drops whatever claims an
// overlay address on any other interface than the tunnel's, and whatever would be forwarded into or out of it, but for the networks that
// this host serves. Which peer may reach what in these, the tunnel's filter decides.
//
// Networks behind peers, and for an exit node everything, are led to the tunnel in the same way. The tunnel's own datagrams, and the
// agent's connection to its coordinator, carry Mark and follow the host's own routes.
//
// Everything is marked (table number, protocol tag, the name of the nftables table), so that what a killed agent left behind is
// recognised and replaced. Only linux is supported; elsewhere New says to run without privilege.
package hostnet

import (
	"fmt"
	"net/netip"
	"slices"
)

// Mark is on packets that must not be led into the tunnel, because they are what it is made of (fwmark of ip-rule(8)).
const Mark = 0x7069

// Config is what the host is to have. Prefixes are masked.
type Config struct {
	Interface string         // of the TUN, which exists
	MTU       int            // bytes
	Addresses []netip.Addr   // of this node
	Overlay   []netip.Prefix // ranges of the network
	Routes    []netip.Prefix // networks behind peers
	Exit      Exit
	Served    []netip.Prefix // networks that this host forwards to and from, for peers; 0.0.0.0/0 and ::/0 are the internet
	// KeepSource leaves the peers' addresses on what is forwarded into Served, so that these networks need a route back. What goes to the
	// internet always gets this host's address.
	KeepSource bool
}

// Exit says where packets to all other addresses go.
type Exit uint8

const (
	NoExit      Exit = iota // by the host's own routes
	ExitNotLAN              // into the tunnel
	ExitWithLAN             // into the tunnel, but those that the host has a route for which is no default route
)

func (c Config) equal(d Config) bool {
	return c.Interface == d.Interface && c.MTU == d.MTU && slices.Equal(c.Addresses, d.Addresses) && slices.Equal(c.Overlay, d.Overlay) &&
		slices.Equal(c.Routes, d.Routes) && c.Exit == d.Exit && slices.Equal(c.Served, d.Served) && c.KeepSource == d.KeepSource
}

// serves reports whether anything of a family is forwarded.
func (c Config) serves(is6 bool) bool {
	return slices.ContainsFunc(c.Served, func(p netip.Prefix) bool { return p.Addr().Is6() == is6 })
}

// ConflictError says that something else on this host holds part of the overlay.
type ConflictError struct {
	Interface string       // "" when a route leads nowhere
	Held      netip.Prefix // the address or route
	Overlay   netip.Prefix // the range it lies in
}

func (e *ConflictError) Error() string {
	by := "a route to nowhere"
	if e.Interface != "" {
		by = fmt.Sprintf("the interface %q", e.Interface)
	}
	return fmt.Sprintf("%s already holds %s, which lies in the overlay range %s: stop the program that made it (another VPN?), "+
		"or give this network another range at the coordinator", by, e.Held, e.Overlay)
}

// GuardError says that the guard could not be set, so the tunnel must not be used.
type GuardError struct{ Cause error }

func (e *GuardError) Error() string {
	return fmt.Sprintf("the guard in nftables cannot be set (%v): load the kernel module nf_tables, or run with --tun=userspace, which needs none", e.Cause)
}

// ForwardingError says that this host does not forward; all else is as it should be.
type ForwardingError struct{ Cause error }

func (e *ForwardingError) Error() string {
	return fmt.Sprintf("this host forwards nothing, so what it serves is not reached: %v; in a container, turn forwarding on from outside", e.Cause)
}

// PrivilegeError says that the host's network may not be changed.
type PrivilegeError struct{ Doing string }

func (e *PrivilegeError) Error() string {
	return fmt.Sprintf("%s needs root (CAP_NET_ADMIN): run picket as root, or with --tun=userspace", e.Doing)
}
