// Package protocol is what coordinator and nodes say to each other.
//
// Enrolment is HTTP: JSON bodies by POST under /picket/v1/. The session is one WebSocket at PathSession; each of its messages is
// one JSON object {"type": T, "body": {...}} in a text frame, T being one of the Type constants (EncodeFrame, DecodeFrame).
// A field a reader does not know is ignored; a restriction it does not know is refused (acl.Restriction).
package protocol

import (
	"net/netip"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

// Version of this protocol. A peer of another major version is refused with a sentence.
const Version = 1

// Paths under the coordinator's URL.
const (
	PathInfo    = "/picket/v1/info"    // GET: Info
	PathEnrol   = "/picket/v1/enrol"   // POST Enrol: EnrolAnswer
	PathWait    = "/picket/v1/wait"    // POST Wait: WaitAnswer; holds the request up to WaitHold
	PathSession = "/picket/v1/session" // WebSocket
	PathRelay   = "/picket/v1/relay"   // WebSocket: a stream of relay frames
)

// Bounds, in bytes, on what is read before and after the other side has proved who it is.
const (
	MaxEnrolBody   = 64 << 10
	MaxHelloFrame  = 64 << 10
	MaxNodeFrame   = 1 << 20  // node to coordinator, after proof
	MaxServerFrame = 16 << 20 // coordinator to node, after proof
)

// Times that both sides must agree on.
const (
	WaitHold     = 25 * time.Second // longest a Wait is held open
	TicketLife   = 10 * time.Minute
	LiveInterval = 15 * time.Second // either side says something at least this often
	MaxClockSkew = 5 * time.Minute
	NonceLife    = 2 * time.Minute
)

// Signature contexts.
const (
	ContextInfo      = key.Context("info")
	ContextEnrol     = key.Context("enrol")
	ContextChallenge = key.Context("session challenge")
	ContextProof     = key.Context("session proof")
	ContextMap       = key.Context("map header")
	ContextReceipt   = key.Context("receipt")
	ContextReport    = key.Context("node report")
)

// NetworkID names a network: random, made once with the coordinator's keys.
type NetworkID string

// Info is what anyone may ask. Signature is the coordinator key's over Body in ContextInfo.
type Info struct {
	Body      []byte `json:"body"` // InfoBody as JSON
	Signature []byte `json:"signature"`
}

// InfoBody names the coordinator and gives a nonce that Enrol must carry within NonceLife. Client is the nonce the asker sent as
// query parameter "nonce" (base64url, 16 to 32 bytes), so that an old answer cannot be replayed.
type InfoBody struct {
	Version     int                   `json:"version"`
	Network     NetworkID             `json:"network"`
	Coordinator key.CoordinatorPublic `json:"coordinator"`
	Client      []byte                `json:"client"`
	Nonce       []byte                `json:"nonce"`
	Time        time.Time             `json:"time"`
}

// Facts are what a node says of its host. They are claims: they decide nothing about who it is.
type Facts struct {
	Hostname string `json:"hostname"`
	OS       string `json:"os"` // runtime.GOOS, with the distribution where known
	Arch     string `json:"arch"`
	Version  string `json:"version"` // of picket
}

// Enrol asks for admission. Signature is the device key's over Body in ContextEnrol.
type Enrol struct {
	Body      []byte `json:"body"` // EnrolBody as JSON
	Signature []byte `json:"signature"`
}

// EnrolBody is what Enrol signs. Nonce proves possession now.
type EnrolBody struct {
	Network     NetworkID             `json:"network"`
	Coordinator key.CoordinatorPublic `json:"coordinator"`
	Nonce       []byte                `json:"nonce"`
	Device      key.DevicePublic      `json:"device"`
	Facts       Facts                 `json:"facts"`
	AuthKey     string                `json:"authKey,omitempty"`
}

// EnrolAnswer holds an admission (with an auth key, or when the device is already a node of this network) or a ticket.
type EnrolAnswer struct {
	Admitted *Admission `json:"admitted,omitempty"`
	Ticket   *Ticket    `json:"ticket,omitempty"`
}

// Ticket is a pending login. Code is shown on the terminal alone, and typed into the page by the person.
type Ticket struct {
	ID      string    `json:"id"`
	Secret  string    `json:"secret"` // for Wait; never shown
	URL     string    `json:"url"`
	Code    string    `json:"code"` // XXXX-XXXX of consonants and digits that do not look alike
	Expires time.Time `json:"expires"`
}

// Wait asks how a ticket fared.
type Wait struct {
	Ticket string `json:"ticket"`
	Secret string `json:"secret"`
}

// Ticket states as WaitAnswer.State carries them.
const (
	TicketPending  = "pending"
	TicketApproved = "approved"
	TicketDenied   = "denied"
	TicketExpired  = "expired"
	TicketSpoiled  = "spoiled" // too many wrong codes
)

// WaitAnswer is how a ticket stands. Message says it in words for the terminal.
type WaitAnswer struct {
	State    string     `json:"state"`
	Message  string     `json:"message,omitempty"`
	Admitted *Admission `json:"admitted,omitempty"`
}

// Admission is who the node has become.
type Admission struct {
	Node      acl.NodeID   `json:"node"`
	Name      string       `json:"name"`
	Owner     string       `json:"owner,omitempty"` // login; empty when tagged
	Tags      []string     `json:"tags,omitempty"`
	Addresses []netip.Addr `json:"addresses"`
	Expires   time.Time    `json:"expires"`
}

// Problem is the body of every error answer, over HTTP and as the last message of a session.
type Problem struct {
	Code    string `json:"code"`    // one of the Code constants
	Message string `json:"message"` // one sentence, and what to do
	// Errors are every mistake in a policy's text that was asked about, at most 101; none otherwise.
	Errors []acl.Diagnostic `json:"errors,omitempty"`
}

// Problem codes.
const (
	CodeBadRequest  = "bad-request"
	CodeVersion     = "version"      // other side too old or too new
	CodeUnknownNode = "unknown-node" // never was, or its key is another
	CodeRemoved     = "removed"      // an operator removed it: log in anew
	CodeExpired     = "expired"      // the node's login ended: log in again
	CodeAuthKey     = "auth-key"     // unknown, spent, expired or revoked
	CodeToken       = "token"        // unknown, expired or revoked, not saying which
	CodeExhausted   = "addresses-exhausted"
	CodeThrottled   = "throttled"
	CodeClock       = "clock"
	CodeUnavailable = "unavailable"
	CodeReplaced    = "replaced" // a newer session of the same node took over
)

// Message types of the session.
const (
	TypeHello     = "hello"      // node
	TypeChallenge = "challenge"  // coordinator
	TypeProof     = "proof"      // node
	TypeMap       = "map"        // coordinator
	TypeHints     = "hints"      // coordinator
	TypeLive      = "live"       // both
	TypeProblem   = "problem"    // coordinator
	TypeReport    = "report"     // node
	TypeReceipt   = "receipt"    // node
	TypeResync    = "resync"     // node: send the whole map
	TypeEvidence  = "evidence"   // node
	TypeLogout    = "logout"     // node: remove me
	TypeAskFlows  = "ask-flows"  // coordinator: which flows are live? A node of an older version is silent
	TypeFlows     = "flows"      // node: the answer
	TypeSeek      = "seek"       // node: it has no direct path to a peer and wants one
	TypeSought    = "sought"     // coordinator: a peer seeks this node
	TypeRelayPass = "relay-pass" // coordinator: what relays let the node in with; one of an older version ignores it
)

// Hello opens a session. Nonce is 32 random bytes.
type Hello struct {
	Version    int              `json:"version"`
	Node       acl.NodeID       `json:"node"`
	Device     key.DevicePublic `json:"device"`
	Nonce      []byte           `json:"nonce"`
	Generation uint64           `json:"generation"` // of the map the node holds; 0 none
	Digest     []byte           `json:"digest,omitempty"`
}

// Challenge proves the coordinator (its key's signature over ChallengeBytes in ContextChallenge) and challenges the node.
type Challenge struct {
	Network     NetworkID             `json:"network"`
	Coordinator key.CoordinatorPublic `json:"coordinator"`
	Nonce       []byte                `json:"nonce"` // 32 random bytes
	Time        time.Time             `json:"time"`
	Signature   []byte                `json:"signature"`
}

// Proof answers the challenge: the device key's signature over the same ChallengeBytes in ContextProof, and the first Report.
type Proof struct {
	Signature []byte `json:"signature"`
	Report    Report `json:"report"`
}

// Report is what a node says of itself, at the start and whenever it changes. Certificate is a signed key.Certificate.
type Report struct {
	Facts       Facts  `json:"facts"`
	Certificate []byte `json:"certificate"`
	// Next is a certificate for the tunnel key that follows, with the same probe key and a larger serial; empty while none is to.
	Next      []byte           `json:"next,omitempty"`
	Endpoints []netip.AddrPort `json:"endpoints"` // where its UDP port may be reached; at most MaxEndpoints
	// Routes are the networks it offers to serve, and as 0.0.0.0/0 and ::/0 the internet; at most MaxAdvertised, each by CheckRoute.
	Routes []netip.Prefix `json:"routes,omitempty"`
	Relay  string         `json:"relay,omitempty"` // name of the relay where peers find it; empty: at none
}

// MaxEndpoints bounds Report.Endpoints and Hint.Endpoints.
const MaxEndpoints = 32

// Receipt says which generation the node now enforces, signed by its device key over ReceiptBytes in ContextReceipt.
type Receipt struct {
	Generation uint64        `json:"generation"`
	Digest     []byte        `json:"digest"`  // of the entries, as in the header
	Applied    time.Duration `json:"applied"` // from map received to rules in force, ns
	Cut        int           `json:"cut"`     // live flows ended by it
	Signature  []byte        `json:"signature"`
}

// Evidence is something a node saw that a correct peer would not have done (rule 8), summed since the last one.
type Evidence struct {
	Kind  string     `json:"kind"` // "egress-bypass"
	Peer  acl.NodeID `json:"peer"`
	Count uint64     `json:"count"`
	Flow  string     `json:"flow"` // one example
}

// AskFlows asks a node for its live flows.
type AskFlows struct {
	Ask uint64 `json:"ask"` // names this question, from 1; the answer repeats it
	Max int    `json:"max"` // entries of the answer at most: 1 to MaxFlows
}

// Bounds on Flows.
const (
	MaxFlows     = 4096
	MaxLiveFlows = 1 << 20 // flows of one node, far more than its table holds
)

// Flows answers AskFlows.
type Flows struct {
	Ask       uint64      `json:"ask"`
	Total     uint64      `json:"total"` // of live flows, those that no entry counts included; at most MaxLiveFlows
	Truncated bool        `json:"truncated,omitzero"`
	Flows     []FlowCount `json:"flows"` // each with another of everything but Count
}

// FlowCount is live flows between the same two addresses to the same port, as the node that reports them sees them.
type FlowCount struct {
	Peer   acl.NodeID `json:"peer"`         // who has, or serves the route to, Remote
	Out    bool       `json:"out,omitzero"` // opened by the local end
	Local  netip.Addr `json:"local"`
	Remote netip.Addr `json:"remote"`
	Proto  acl.Proto  `json:"proto"`
	Port   uint16     `json:"port,omitzero"` // that of the end which did not open it; 0 for protocols without ports
	Count  uint64     `json:"count"`         // from 1
}

// Live is sent by either side at least every LiveInterval, with its own time, so that a dead link is noticed.
type Live struct {
	Time time.Time `json:"time"`
}

// Hints are addresses to try, outside the signed map: they can only be useless, because a path is believed when its probe is answered.
type Hints struct {
	Hints []Hint `json:"hints"`
	// Check names relays that may be dead: who is connected to one asks it now whether it answers. At most MaxRelays.
	Check []string `json:"check,omitempty"`
}

// Hint is where a peer may be found now.
type Hint struct {
	Node      acl.NodeID       `json:"node"`
	Endpoints []netip.AddrPort `json:"endpoints"`
	Online    bool             `json:"online"`
	Relay     string           `json:"relay,omitempty"` // name of the relay where it is found; empty: at none
}

// RelayPass is a node's newest pass for the network's relays, as wgtun/relay reads it.
type RelayPass struct {
	Pass []byte `json:"pass"` // at most MaxRelayPass
}

// MaxRelayPass bounds RelayPass.Pass, in bytes.
const MaxRelayPass = 1 << 20

// Seek names a peer of the sender's map to which it wants a direct path and has none. Who has no such peer is told nothing.
type Seek struct {
	Node acl.NodeID `json:"node"`
}

// Sought says which peer seeks the receiver, and where that peer may be found: pings that both send at once open the way through the
// address translators of both.
type Sought struct {
	Node      acl.NodeID       `json:"node"`
	Endpoints []netip.AddrPort `json:"endpoints"` // at most MaxEndpoints
}

// Header is the signed head of a map: it speaks for the entries by their digest.
type Header struct {
	Network    NetworkID  `json:"network"`
	Node       acl.NodeID `json:"node"`       // whose map this is
	Generation uint64     `json:"generation"` // rises whenever the entries change; from 1
	Digest     []byte     `json:"digest"`     // see Digest
	Issued     time.Time  `json:"issued"`     // coordinator's clock
	NotAfter   time.Time  `json:"notAfter"`
}

// EntryID names an entry: "self", "peer/NODE", "rule/N", "network", "dns", "relay/NAME". See Critical for kinds to come.
type EntryID string

// Entry is one piece of a map. Data is the JSON of Self, Peer, Rule (acl.Rule), Network, DNS or Relay; the digest is over these very bytes.
type Entry struct {
	ID   EntryID `json:"id"`
	Data []byte  `json:"data"`
}

// Map is a whole map (Base 0) or a delta on the map of generation Base: drop Remove, then put Put, then the entries must have
// the header's digest. Header is a Header as JSON; Signature is the coordinator key's over exactly those bytes in ContextMap.
type Map struct {
	Base      uint64    `json:"base,omitempty"`
	Header    []byte    `json:"header"`
	Signature []byte    `json:"signature"`
	Remove    []EntryID `json:"remove,omitempty"`
	Put       []Entry   `json:"put,omitempty"`
}

// Self is the entry "self".
type Self struct {
	acl.Subject
	Name        string    `json:"name"`
	Login       string    `json:"login,omitempty"` // of the owner
	Tags        []string  `json:"tags,omitempty"`
	Expires     time.Time `json:"expires"`
	Quarantined bool      `json:"quarantined,omitempty"`
}

// Peer is an entry "peer/NODE".
type Peer struct {
	acl.Subject
	Name        string           `json:"name"`
	Login       string           `json:"login,omitempty"`
	Tags        []string         `json:"tags,omitempty"`
	OS          string           `json:"os,omitempty"`
	Device      key.DevicePublic `json:"device"`
	Certificate []byte           `json:"certificate"`    // signed key.Certificate; the node verifies it
	Next        []byte           `json:"next,omitempty"` // of the key that the peer may take up any moment; as in Report
	Expires     time.Time        `json:"expires"`        // end of the peer's admission: its flows end then
	// Postures are the names of those that the peer's device meets and by which rules let it in at this node: sorted, each once. They decide
	// nothing, rules go by Roles.
	Postures []string `json:"postures,omitempty"`
}

// Network is the entry "network": what holds for everybody.
type Network struct {
	Overlay []netip.Prefix `json:"overlay"` // overlay ranges, IPv4 and IPv6
	Policy  PolicyInfo     `json:"policy"`
	Domain  string         `json:"domain,omitempty"` // of the nodes' names, as CheckNetworkDomain takes it; empty: they have none
	// Reflectors tell nodes under which address the world sees them; at most MaxReflectors.
	Reflectors []Reflector `json:"reflectors,omitempty"`
}

// MaxReflectors bounds Network.Reflectors.
const MaxReflectors = 16

// Reflector is a UDP port that answers STUN binding requests (RFC 8489) of at least 44 bytes.
type Reflector struct {
	Host string `json:"host,omitempty"` // a name or an address; empty: the host of the URL by which the node reaches its coordinator
	Port uint16 `json:"port"`
}

// PolicyInfo says which policy the rules come from.
type PolicyInfo struct {
	Commit string `json:"commit,omitempty"` // full id; empty for a plain file
	File   string `json:"file,omitempty"`
}
