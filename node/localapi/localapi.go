// Package localapi is what the agent and its command line say to each other over a unix socket.
//
// It is HTTP with JSON bodies: GET /v1/status, /v1/peers and /v1/dns, POST /v1/up, down, set, logout, rotate, why, ping, trust, query, flows, denials, capture, forward, expose and
// dial. The answers to up, capture, forward and expose are streams, one UpEvent, CaptureEvent or PassageEvent a line; those to flows and denials are lists, one entry a line; that to dial is 101 and then the connection (Stream). Any other status than 200 carries {"error": "one sentence"}.
//
// Who may ask: root, and the user the agent runs as, by the credentials the kernel gives for each connection; the socket has mode 0600.
// Windows gives no such credentials: there the directory's access list alone decides. Requests whose Host is not "picket", or that carry
// an Origin, are refused: no browser page may reach the agent through some proxy onto the socket.
package localapi

import (
	"net/netip"
	"time"

	"picket.internal/acl"
)

// State of the agent.
type State string

// The states. Only StateRunning lets packets pass, and only within the lease.
const (
	StateLoggedOut State = "logged-out" // no coordinator yet, or logged out: `picket up`
	StateLogin     State = "login"      // waiting for a person at URL
	StateStarting  State = "starting"   // admitted, no map yet
	StateRunning   State = "running"
	StateDown      State = "down"    // admitted, stopped by `picket down`
	StateExpired   State = "expired" // login ended: `picket up`
	StateRemoved   State = "removed" // an operator removed the node: `picket up`
	StateLapsed    State = "lapsed"  // lease over: refuses everything until the coordinator is reached
	StateRefused   State = "refused" // something must be mended first; Status.Problem says what
)

// Status is `picket status`. In JSON it is flat but for the last fields.
type Status struct {
	State   State  `json:"state"`
	Problem string `json:"problem,omitempty"` // one sentence, and what to do
	Version string `json:"version"`
	Contact
	Membership
	Tunnel
	InForce
	Warnings  []string `json:"warnings,omitempty"`
	LoginURL  string   `json:"loginURL,omitempty"`
	LoginCode string   `json:"loginCode,omitempty"`
	Routing   Routing  `json:"routing,omitzero"`
	DNS       DNS      `json:"dns"`
	TunnelKey KeyState `json:"tunnelKey,omitzero"`
	Passages  Passages `json:"passages,omitzero"`
}

// Contact is with the coordinator.
type Contact struct {
	Coordinator string    `json:"coordinator,omitempty"` // URL
	Connected   bool      `json:"connected"`             // now
	LastContact time.Time `json:"lastContact"`
}

// Membership is who this node is in its network, and until when.
type Membership struct {
	Network     string       `json:"network,omitempty"`
	Node        acl.NodeID   `json:"node,omitempty"`
	Name        string       `json:"name,omitempty"`
	Owner       string       `json:"owner,omitempty"`
	Tags        []string     `json:"tags,omitempty"`
	Addresses   []netip.Addr `json:"addresses,omitempty"`
	Expires     time.Time    `json:"expires"`
	Quarantined bool         `json:"quarantined,omitempty"`
}

// Tunnel is what runs, and what it did; the zero one when none does.
type Tunnel struct {
	Interface string            `json:"interface,omitempty"`
	Port      uint16            `json:"port,omitempty"` // UDP
	Flows     int               `json:"flows"`
	Denied    map[string]uint64 `json:"denied,omitempty"` // packets by direction and reason: "egress no-rule"
}

// InForce is the map that this node goes by.
type InForce struct {
	Generation uint64    `json:"generation"`
	LeaseEnds  time.Time `json:"leaseEnds"`
	Policy     string    `json:"policy,omitempty"` // commit
	Peers      int       `json:"peers"`
}

// KeyState is the tunnel key in use, and when it is changed.
type KeyState struct {
	Key     string    `json:"key"` // short form of the public key
	Since   time.Time `json:"since,omitzero"`
	Next    time.Time `json:"next,omitzero"`    // when it is to be changed; zero for never by itself
	Pending bool      `json:"pending,omitzero"` // the next key is made, and peers are told of it
	Off     bool      `json:"off,omitzero"`     // it is changed on demand only
}

// Rotate asks for another tunnel key now. Timeout is at least a second.
type Rotate struct {
	Timeout time.Duration `json:"timeout"`
}

// Rotation is a change of the tunnel key.
type Rotation struct {
	Former  string        `json:"former"` // short forms of the public keys
	Key     string        `json:"key"`
	At      time.Time     `json:"at"`
	Waited  time.Duration `json:"waited"`  // until peers knew the next key
	Took    time.Duration `json:"took"`    // from then until the sessions stood
	Peers   int           `json:"peers"`   // in use
	Without int           `json:"without"` // of those, without a session yet
	Done    bool          `json:"done"`
}

// Allowed is one thing a peer may do, as people read it.
type Allowed struct {
	Ports string `json:"ports"` // "tcp 5432", "icmp", "tcp 8000-8080"
	Rule  string `json:"rule"`  // "grants[0], line 4"
}

// Peer is a line of `picket peers`.
type Peer struct {
	Node          acl.NodeID    `json:"node"`
	Name          string        `json:"name"`
	Owner         string        `json:"owner,omitempty"`
	Tags          []string      `json:"tags,omitempty"`
	OS            string        `json:"os,omitempty"`
	Postures      []string      `json:"postures,omitempty"` // that its device meets and by which rules let it in here
	Addresses     []netip.Addr  `json:"addresses"`
	Online        bool          `json:"online"`
	Path          string        `json:"path"`               // "direct 192.0.2.1:51820", "" when none is proved
	Indirect      string        `json:"indirect,omitempty"` // why the path in use is no direct one
	Idle          bool          `json:"idle"`               // no traffic for minutes: WireGuard does not hold it until there is
	Latency       time.Duration `json:"latency"`
	LastHandshake time.Time     `json:"lastHandshake"`
	RxBytes       uint64        `json:"rxBytes"`
	TxBytes       uint64        `json:"txBytes"`
	Out           []Allowed     `json:"out"`               // what this node may open there
	In            []Allowed     `json:"in"`                // what the peer may open here
	Refused       string        `json:"refused,omitempty"` // why the peer is not used, e.g. its device key changed
}

// Up is what `picket up` asks.
type Up struct {
	Coordinator string `json:"coordinator,omitempty"` // join string; empty keeps the one known
	AuthKey     string `json:"authKey,omitempty"`
	Hostname    string `json:"hostname,omitempty"`

	Routing ChangeRouting `json:"routing,omitzero"`
	// RotateKeys is how long a tunnel key is used; negative until the user asks for another, nil as before.
	RotateKeys *time.Duration `json:"rotateKeys,omitempty"`
	DNS        *bool          `json:"dns,omitempty"` // resolve names of peers; nil leaves it as it is
}

// UpEvent is one line of the answer to Up: exactly one field is set; the last has Done or Error.
type UpEvent struct {
	Login *Login  `json:"login,omitempty"`
	Note  string  `json:"note,omitempty"`
	Done  *Status `json:"done,omitempty"`
	Error string  `json:"error,omitempty"`
}

// Login is where the person goes, and the code to type there.
type Login struct {
	URL     string    `json:"url"`
	Code    string    `json:"code"`
	Expires time.Time `json:"expires"`
}

// Why asks about a flow; Src empty means this node.
type Why struct {
	Src string `json:"src,omitempty"`
	Dst string `json:"dst"` // NAME-OR-ADDRESS:PORT[/PROTO] or NAME/icmp
}

// WhyAnswer says allowed or refused.
type WhyAnswer struct {
	Src    string `json:"src"`
	Dst    string `json:"dst"`
	Allow  bool   `json:"allow"`
	Rule   string `json:"rule,omitempty"`
	Policy string `json:"policy,omitempty"` // commit
	Reason string `json:"reason,omitempty"`
}

// Ping asks for one round; the command line repeats it.
type Ping struct {
	Target  string        `json:"target"` // name or address
	Timeout time.Duration `json:"timeout"`
}

// PingAnswer is one answered (or refused) ping. RTT is of an ICMP echo through tunnel and filters, PathRTT of a path probe.
type PingAnswer struct {
	Name    string        `json:"name"`
	Addr    netip.Addr    `json:"addr"`
	RTT     time.Duration `json:"rtt"`
	Path    string        `json:"path"`
	PathRTT time.Duration `json:"pathRTT"`
	Error   string        `json:"error,omitempty"`
}

// Trust confirms that a peer has enrolled anew: the device key it shows now is the one to know it by.
type Trust struct {
	Peer string `json:"peer"` // name or node id
}
