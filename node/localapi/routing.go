package localapi

import "net/netip"

// ChangeRouting says what to change of what is routed; nil leaves as it is.
type ChangeRouting struct {
	Advertise     *[]netip.Prefix `json:"advertise,omitempty"`     // networks to serve; replaces
	AdvertiseExit *bool           `json:"advertiseExit,omitempty"` // serve the internet
	SNAT          *bool           `json:"snat,omitempty"`          // give what is forwarded into served networks this host's address
	Accept        *bool           `json:"accept,omitempty"`        // use networks behind peers
	Exit          *string         `json:"exit,omitempty"`          // name, node id or address of the exit node to use; empty for none
	ExitLAN       *bool           `json:"exitLAN,omitempty"`       // with an exit node, reach this host's own networks directly
}

// IsZero reports that nothing is to be changed.
func (c ChangeRouting) IsZero() bool { return c == ChangeRouting{} }

// Routing is what this node serves, and what it uses of peers.
type Routing struct {
	Serves     []Served `json:"serves,omitempty"`
	KeepSource bool     `json:"keepSource,omitempty"` // no SNAT
	Accepts    bool     `json:"accepts,omitempty"`
	Offers     []Offer  `json:"offers,omitempty"` // of peers, by route
	Exit       string   `json:"exit,omitempty"`   // the exit node to use
	ExitLAN    bool     `json:"exitLAN,omitempty"`
}

// Served is a route that this node advertises.
type Served struct {
	Route    netip.Prefix `json:"route"`
	Approved bool         `json:"approved"`
}

// Offer is a route that a peer serves for this node.
type Offer struct {
	Route netip.Prefix `json:"route"`
	Peer  string       `json:"peer"`
	Used  bool         `json:"used"`
}
