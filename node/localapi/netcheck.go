package localapi

import (
	"net/netip"
	"time"
)

// Netcheck is what a host's network lets paths do.
type Netcheck struct {
	Port        uint16              `json:"port"` // UDP
	UDP         bool                `json:"udp"`  // a reflector has answered
	IPv4        NetcheckFamily      `json:"ipv4"`
	IPv6        NetcheckFamily      `json:"ipv6"`
	Hairpin     bool                `json:"hairpin"` // what is sent to the public IPv4 address comes back in
	PortMapping NetcheckPortMapping `json:"portMapping"`
	Reflectors  []NetcheckReflector `json:"reflectors"` // as far as they could be asked
	Relays      []NetcheckRelay     `json:"relays"`     // to which there is a connection, or is to be one, by name
	Told        []netip.AddrPort    `json:"told"`       // where peers are told to find this node
	// Coordinator is set by a check before joining: what is said of the tunnel's port is then said of one opened for the check.
	Coordinator *NetcheckCoordinator `json:"coordinator,omitempty"`
}

// NetcheckCoordinator is how a coordinator answers who has not joined.
type NetcheckCoordinator struct {
	URL     string        `json:"url"`
	Latency time.Duration `json:"latency"` // of one request, connecting included
	Problem string        `json:"problem,omitempty"`
}

// NetcheckRelay is how the connection to one relay stands.
type NetcheckRelay struct {
	Name      string        `json:"name"`
	Home      bool          `json:"home,omitempty"` // peers are told to find this node there
	Connected bool          `json:"connected"`
	Latency   time.Duration `json:"latency,omitzero"` // round trip
	Problem   string        `json:"problem,omitempty"`
}

// NetcheckFamily is what is known of one IP version.
type NetcheckFamily struct {
	Local   []netip.Addr     `json:"local"`             // addresses of this host
	Seen    []netip.AddrPort `json:"seen"`              // where reflectors see the UDP port
	Mapping Mapping          `json:"mapping,omitempty"` // empty: no reflector has answered
	Kept    bool             `json:"kept,omitempty"`    // the NAT keeps the port's number
}

// Mapping is what stands between this host and the internet.
type Mapping string

// Kinds of mapping (RFC 4787 section 4.1). MappingSame and MappingVaries take two reflectors to tell apart.
const (
	MappingNone    Mapping = "none"    // no NAT: the host has the public address itself
	MappingSame    Mapping = "same"    // a NAT that lends one port for all destinations
	MappingVaries  Mapping = "varies"  // a NAT that lends each destination another port
	MappingUnknown Mapping = "unknown" // a NAT, and only one reflector has answered
)

// NetcheckPortMapping is what the default gateway does.
type NetcheckPortMapping struct {
	Off      bool           `json:"off,omitempty"`      // by --port-mapping=off
	Spoken   []string       `json:"spoken"`             // protocols that it answers
	Protocol string         `json:"protocol,omitempty"` // by which a port is mapped; empty: none is
	Outside  netip.AddrPort `json:"outside,omitzero"`
	Until    time.Time      `json:"until,omitzero"`
	Problem  string         `json:"problem,omitempty"`
}

// NetcheckReflector is one reflector's answer.
type NetcheckReflector struct {
	Address netip.AddrPort `json:"address"`
	Seen    netip.AddrPort `json:"seen,omitzero"` // none: it has not answered
	Latency time.Duration  `json:"latency,omitzero"`
	NoRoute bool           `json:"noRoute,omitempty"` // it could not even be asked
}
