//go:build linux

package integration

import "picket.internal/integration/lab"

// place is a kind of network that a node may be on.
type place struct {
	name     string // short, for rows and columns
	words    string
	router   *lab.NATConfig // nil: on the internet itself
	carrier  *lab.NATConfig // what the router is behind; nil: the internet
	only6    bool           // no IPv4
	netcheck []string       // what `picket netcheck` says there
}

const (
	saysOpen    = "without NAT"
	saysKept    = "by a NAT that lends the same port for all destinations and keeps our number for it"
	saysOther   = "by a NAT that lends the same port for all destinations\n"
	saysVaries  = "by a NAT that lends each destination another port"
	saysBlocked = "blocked: no reflector answers"
	saysNoPin   = "no: machines behind this NAT find each other at their own addresses alone"
	saysPin     = "yes: machines behind this NAT find each other at its public address"
)

// places are tried with each other, and each with another of its kind. Of what a NAT does by the remote address netcheck knows nothing: the
// coordinator's reflectors have one address.
var places = []place{
	{name: "open", words: "no NAT, nothing dropped, IPv4 and IPv6", netcheck: []string{saysOpen}},
	{name: "full cone", words: "one port for all destinations, the inside's own; lets anybody in", router: &lab.NATConfig{Filtering: lab.FilterNone}, netcheck: []string{saysKept, saysNoPin}},
	{name: "addr", words: "one port for all destinations; lets in whom the inside has sent to, from any port", router: &lab.NATConfig{Filtering: lab.FilterByAddress}, netcheck: []string{saysKept, saysNoPin}},
	{name: "port", words: "one port for all destinations, the inside's own; lets in exactly what answers: most home routers", router: &lab.NATConfig{}, netcheck: []string{saysKept, saysNoPin}},
	{name: "port, other", words: "the same, but another port than the inside's", router: &lab.NATConfig{Other: true}, netcheck: []string{saysOther, saysNoPin}},
	{name: "by addr", words: "another port for each remote address; lets in exactly what answers", router: &lab.NATConfig{Mapping: lab.MapByAddress}, netcheck: []string{saysNoPin}},
	{name: "symm", words: "another port for each remote port (symmetric); lets in exactly what answers", router: &lab.NATConfig{Mapping: lab.MapByPort}, netcheck: []string{saysVaries, saysNoPin}},
	{name: "CGN", words: "a home router like *port* behind a carrier's; two of them are behind one carrier's, which does not hairpin", router: &lab.NATConfig{}, carrier: &lab.NATConfig{}, netcheck: []string{saysKept, saysNoPin}},
	{name: "CGN, pin", words: "the same, but the carrier's leads what customers send to each other's outside ports back in (hairpin)", router: &lab.NATConfig{}, carrier: &lab.NATConfig{Hairpin: true}, netcheck: []string{saysKept, saysPin}},
	{name: "no UDP", words: "no UDP gets out, TCP does", router: &lab.NATConfig{NoUDP: true}, netcheck: []string{saysBlocked}},
	{name: "443", words: "nothing gets out but TCP to port 443", router: &lab.NATConfig{TCPPort: 443}, netcheck: []string{saysBlocked}},
	{name: "proxy", words: "nothing gets out but through an HTTP proxy, by name and password", router: &lab.NATConfig{Closed: true}, netcheck: []string{saysBlocked}},
	{name: "IPv6", words: "no NAT, nothing dropped, IPv6 alone", only6: true, netcheck: []string{saysOpen, "this machine has no IPv4 address"}},
}

func (p place) udp() bool {
	return p.router == nil || !p.router.NoUDP && p.router.TCPPort == 0 && !p.router.Closed
}

func (p place) mapping() lab.Mapping {
	if p.router == nil {
		return lab.MapSame
	}
	return p.router.Mapping // carriers' is MapSame here
}

func (p place) filtering() lab.Filtering {
	switch {
	case p.router == nil:
		return lab.FilterNone
	case p.carrier == nil:
		return p.router.Filtering
	}
	return min(p.router.Filtering, p.carrier.Filtering) // the stricter of both
}

// meet says by RFC 4787's terms whether a node at each of two places, or two nodes at places of one kind, can have a direct path. Each is told by the
// coordinator where its reflectors see the other, and both send there at once.
func meet(a, b place) bool {
	switch {
	case !a.udp() || !b.udp():
		return false
	case a.only6 || b.only6: // the family in common is IPv6, which these NATs do not carry
		return a.router == nil && b.router == nil
	case a.name == b.name && a.carrier != nil: // both are seen at the carrier's own address
		return a.carrier.Hairpin
	}
	// The port that reflectors see is the one for the peer, too: what is sent there arrives, if it is let in.
	foreseen := func(p place) bool { return p.mapping() == lab.MapSame }
	// Where the peer's port is not foreseen, p has at most sent to its address. Not even that of a symmetric NAT, of which no address is told;
	// by address looks to the reflectors, which have one, like one port for all.
	lets := func(p, from place) bool {
		return p.filtering() == lab.FilterNone || p.filtering() == lab.FilterByAddress && from.mapping() == lab.MapByAddress
	}
	switch {
	case foreseen(a) && foreseen(b):
		return true
	case foreseen(a):
		return lets(a, b)
	case foreseen(b):
		return lets(b, a)
	}
	return false
}

// behaviour is what observers are to find of a place before it is used.
func (p place) behaviour() lab.Behaviour {
	switch {
	case p.only6:
		return lab.Behaviour{}
	case p.router == nil:
		return lab.Behaviour{UDP: true, Kept: true, Filtering: lab.FilterNone, Web: true, TCP: true}
	case p.router.Closed:
		return lab.Behaviour{}
	case p.router.TCPPort == 443:
		return lab.Behaviour{Web: true}
	case p.router.NoUDP:
		return lab.Behaviour{Web: true, TCP: true}
	}
	return lab.Behaviour{UDP: true, NAT: true, Kept: !p.router.Other && p.mapping() == lab.MapSame, Mapping: p.mapping(), Filtering: p.filtering(), Web: true, TCP: true}
}
