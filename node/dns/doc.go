// Package dns resolves names on a node: those of its peers from the map, all others through resolvers elsewhere.
//
// How a question goes: (1) a program asks the host's resolver library, which asks Listen (server.go), directly or through systemd-resolved;
// (2) Resolver looks into the Zone, which holds this node's own name, those of its peers and the operator's records: what is below the
// network's domain, or an address of the overlay, is answered there and goes no further, so that no name of the network leaves the host
// (zone.go, resolver.go); (3) all else is looked up in the cache (cache.go), then asked of the resolvers of the longest split domain, of
// the operator's nameservers, or of the host's own (upstream.go); (4) what comes back must answer the question that was asked, and loses
// what would point into the overlay (clean.go).
//
// How the host is brought to ask (host*.go): Service keeps the host's settings to what it was told last, and takes them back.
//
// Listen is a loopback address, not one of the overlay: no peer and nobody on the LAN can reach it whatever the filters say, it takes no
// address from the network's range, whatever the size of that, and container engines, which give their containers no loopback nameserver,
// do not give them one that they could not reach.
package dns

import "net/netip"

// Listen is where the resolver answers, UDP and TCP. The last bytes are those of the routing table's number and the firewall mark.
var Listen = netip.MustParseAddrPort("127.0.112.105:53")
