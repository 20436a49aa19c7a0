// Package clientaddr says which address a request came from, believing forwarded headers only from proxies the operator named, and limits by it.
package clientaddr

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the prefixes that the operator's own reverse proxies connect from. The zero value trusts none, so that no header counts.
type Proxies []netip.Prefix

// maxHops bounds how many entries of a header are looked at, from the end.
const maxHops = 16

// Of returns the address and port that r came from: the TCP peer's, unless that is one of the proxies. Then it is the last address in
// X-Forwarded-For that is not itself a proxy: everything before that one was written by the client and counts for nothing. The port
// is 0 when a proxy stands between. An entry that is no address ends the search at the proxy that passed it on. IPv4-mapped
// addresses come as IPv4, zones are dropped. The zero AddrPort means that the server gave no address (it is then no one's).
func (p Proxies) Of(r *http.Request) netip.AddrPort {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.AddrPort{}
	}
	client := netip.AddrPortFrom(plain(peer.Addr()), peer.Port())
	if !p.holds(client.Addr()) {
		return client
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i, hop := range slices.Backward(hops) {
		addr, ok := parse(hop)
		if !ok || len(hops)-i > maxHops {
			break
		}
		client = netip.AddrPortFrom(addr, 0)
		if !p.holds(addr) {
			break
		}
	}
	return client
}

func (p Proxies) holds(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(x netip.Prefix) bool { return x.Contains(a) })
}

// parse reads an address, or an address and port as some proxies write it.
func parse(hop string) (netip.Addr, bool) {
	hop = strings.TrimSpace(hop)
	if a, err := netip.ParseAddr(hop); err == nil {
		return plain(a), true
	}
	ap, err := netip.ParseAddrPort(hop)
	return plain(ap.Addr()), err == nil
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Block is what limits count by: the address itself for IPv4, its /64 for IPv6, because one host has at least that many.
func Block(a netip.Addr) netip.Prefix {
	a = plain(a)
	bits := 32
	if a.Is6() {
		bits = 64
	}
	b, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the invalid address: all such requests share one block
	}
	return b
}
