// Package coordinator decides who is in the network and computes each node's map.
//
// Every exported method that acts for somebody takes an Actor first and checks its right on the object named, in one place (rights.go),
// before anything else; a handler cannot forget it. Every change commits in one transaction with its audit record.
package coordinator

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Kind of an Actor.
type ActorKind string

// Who may act.
const (
	ActorOperator ActorKind = "operator" // on the unix socket
	ActorUser     ActorKind = "user"     // signed in on the pages
	ActorNode     ActorKind = "node"     // proved by its device key
	ActorSystem   ActorKind = "system"   // the coordinator itself: policy fetches, expiry
)

// Role of a user.
type Role string

// The roles.
const (
	RoleAdmin  Role = "admin"
	RoleMember Role = "member"
)

// Actor is who asks. The zero Actor may do nothing.
type Actor struct {
	Kind ActorKind
	User acl.UserID // of ActorUser
	Node acl.NodeID // of ActorNode
	Name string     // for the audit log: login, node name, or the unix uid
	From netip.Addr // where the request came from; may be zero
}

// Error is a refusal for people and programs: Code is one of protocol's Code constants or those below.
type Error struct {
	Code    string
	Message string // one sentence, and what to do
}

func (e *Error) Error() string { return e.Message }

// Codes beside protocol's.
const (
	CodeForbidden  = "forbidden"
	CodeNotFound   = "not-found"
	CodeConflict   = "conflict" // e.g. a name in use
	CodeInvalid    = "invalid"
	CodeSignIn     = "sign-in"     // wrong e-mail, password or code, not saying which
	CodeWrongCode  = "wrong-code"  // the code typed for a joining node
	CodeTicketOver = "ticket-over" // expired, used, denied or spoiled
)

// Config of a Coordinator.
type Config struct {
	Store                     Store
	Key                       key.CoordinatorPrivate
	Network                   protocol.NetworkID
	Salt                      []byte // for acl.Compile; 32 random bytes made with the keys
	URL                       string // as people and nodes reach it, without a trailing slash
	Policy                    PolicySource
	PolicyPoll                time.Duration // 0: 30 s
	Lease                     time.Duration // 0: 12 h
	Overlay4, Overlay6        netip.Prefix
	UserNodeLife, TagNodeLife time.Duration // 0: 30 and 90 days
	Logger                    *slog.Logger
}

// Coordinator is the network's authority. Methods are safe for concurrent use.
type Coordinator struct{}

// New checks the configuration and loads what the store holds; it starts nothing.
func New(ctx context.Context, c Config) (*Coordinator, error) { panic("unimplemented") }

// Run fetches policy, renews leases, expires nodes and tickets, until ctx ends; nil on cancellation.
func (c *Coordinator) Run(ctx context.Context) error { panic("unimplemented") }

// ---- enrolment (no Actor: the device key proves itself)

// Info answers PathInfo; client is the asker's nonce.
func (c *Coordinator) Info(client []byte) (protocol.Info, error) { panic("unimplemented") }

// Enrol answers PathEnrol.
func (c *Coordinator) Enrol(ctx context.Context, e protocol.Enrol, from netip.Addr) (protocol.EnrolAnswer, error) {
	panic("unimplemented")
}

// Wait answers PathWait; it blocks up to protocol.WaitHold.
func (c *Coordinator) Wait(ctx context.Context, w protocol.Wait) (protocol.WaitAnswer, error) {
	panic("unimplemented")
}

// TicketView is what the approving person sees.
type TicketView struct {
	ID       string
	Hostname string
	OS       string
	From     netip.Addr
	Device   string // short device key
	Owner    string // login that will own the node
	Created  time.Time
	Expires  time.Time
	State    string // protocol.Ticket… state
}

// Ticket shows a ticket to a signed-in person.
func (c *Coordinator) Ticket(ctx context.Context, a Actor, id string) (TicketView, error) {
	panic("unimplemented")
}

// Approve admits the ticket's node as a's own, when code is the one the node shows. CodeWrongCode says how many tries are left.
func (c *Coordinator) Approve(ctx context.Context, a Actor, id, code string) (NodeView, error) {
	panic("unimplemented")
}

// DenyTicket refuses the ticket for good.
func (c *Coordinator) DenyTicket(ctx context.Context, a Actor, id string) error {
	panic("unimplemented")
}

// ---- node sessions

// Challenge makes the answer to a Hello.
func (c *Coordinator) Challenge(h protocol.Hello) (protocol.Challenge, error) { panic("unimplemented") }

// Session is one connected node.
type Session struct{}

// Outgoing is a message for the node.
type Outgoing struct {
	Type string // protocol.Type…
	Body any    // of that type
}

// Attach verifies the proof and opens the session; a session the node had is ended with CodeReplaced.
func (c *Coordinator) Attach(ctx context.Context, h protocol.Hello, ch protocol.Challenge, p protocol.Proof, from netip.AddrPort) (*Session, error) {
	panic("unimplemented")
}

// Next blocks until there is something to send, ctx ends, or the session is over (an *Error to send as a Problem, then close).
func (s *Session) Next(ctx context.Context) (Outgoing, error) { panic("unimplemented") }

// Report takes new facts, certificate and endpoints.
func (s *Session) Report(ctx context.Context, r protocol.Report) error { panic("unimplemented") }

// Receipt takes a signed receipt.
func (s *Session) Receipt(ctx context.Context, r protocol.Receipt) error { panic("unimplemented") }

// Evidence takes what a node saw of a misbehaving peer.
func (s *Session) Evidence(ctx context.Context, e protocol.Evidence) error { panic("unimplemented") }

// Resync makes the next map a whole one.
func (s *Session) Resync() { panic("unimplemented") }

// Logout removes the node on its own wish.
func (s *Session) Logout(ctx context.Context) error { panic("unimplemented") }

// Close ends the session.
func (s *Session) Close() { panic("unimplemented") }

// ---- people

// User is an account as others see it.
type User struct {
	ID      acl.UserID `json:"id"`
	Login   string     `json:"login"`
	Role    Role       `json:"role"`
	State   string     `json:"state"` // "invited" or "active"
	Created time.Time  `json:"created"`
	Groups  []string   `json:"groups"` // by the policy in force
	Nodes   int        `json:"nodes"`
}

// Invitation is what a setup link opens. Login is empty on the first admin's: that person chooses it.
type Invitation struct {
	Login   string
	Role    Role
	Expires time.Time
}

// FirstSetup returns a fresh one-time token for the first admin, and false when an account already exists. Older ones are spent by it.
func (c *Coordinator) FirstSetup(ctx context.Context) (token string, needed bool, err error) {
	panic("unimplemented")
}

// Invitation looks at a setup token without spending it.
func (c *Coordinator) Invitation(ctx context.Context, token string) (Invitation, error) {
	panic("unimplemented")
}

// Setup is what a person fills in behind a setup link.
type Setup struct {
	Token, Login, Password string
	TOTPSecret             string // base32, as made by NewTOTP and shown to the person
	Code                   string // current code of that secret
	From                   netip.Addr
}

// NewTOTP makes a secret and its otpauth URL for login.
func (c *Coordinator) NewTOTP(login string) (secret, url string, err error) { panic("unimplemented") }

// CompleteSetup spends the token and makes or activates the account: the user and ten recovery codes, shown once.
func (c *Coordinator) CompleteSetup(ctx context.Context, s Setup) (User, []string, error) {
	panic("unimplemented")
}

// SignIn is what a person types to sign in: Code is a TOTP or a recovery code.
type SignIn struct {
	Login, Password, Code string
	From                  netip.Addr
}

// SignIn checks both factors, throttled by account and by address. The error does not say which part was wrong.
func (c *Coordinator) SignIn(ctx context.Context, s SignIn) (User, error) { panic("unimplemented") }

// UserByID loads the account behind a page session at each request; CodeNotFound once it is removed.
func (c *Coordinator) UserByID(ctx context.Context, id acl.UserID) (User, error) {
	panic("unimplemented")
}

// Users lists accounts by login.
func (c *Coordinator) Users(ctx context.Context, a Actor) ([]User, error) { panic("unimplemented") }

// AddUser invites a person: the account, and the one-time token of the setup link (valid 72 h).
func (c *Coordinator) AddUser(ctx context.Context, a Actor, login string, r Role) (User, string, error) {
	panic("unimplemented")
}

// RemoveUser removes the account, its page sessions, nodes and auth keys.
func (c *Coordinator) RemoveUser(ctx context.Context, a Actor, login string) (Change, error) {
	panic("unimplemented")
}

// ---- nodes

// NodeView is a node as operators see it.
type NodeView struct {
	ID          acl.NodeID   `json:"id"`
	Name        string       `json:"name"`
	Owner       string       `json:"owner,omitempty"`
	Tags        []string     `json:"tags,omitempty"`
	Addresses   []netip.Addr `json:"addresses"`
	Device      string       `json:"device"` // short key
	OS          string       `json:"os"`
	Version     string       `json:"version"`
	Hostname    string       `json:"hostname"` // as the host calls itself
	Created     time.Time    `json:"created"`
	Expires     time.Time    `json:"expires"`
	Online      bool         `json:"online"`
	LastSeen    time.Time    `json:"lastSeen"`
	Generation  uint64       `json:"generation"` // newest receipt; 0 none
	LeaseEnds   time.Time    `json:"leaseEnds"`
	Quarantined bool         `json:"quarantined"`
	From        string       `json:"from,omitempty"` // address of its session
	Peers       int          `json:"peers"`          // how many nodes it may exchange flows with
}

// Change names a committed change, to be waited on.
type Change struct {
	Generation uint64 `json:"generation"`
	Summary    string `json:"summary"`
}

// Enforcement says who enforces a generation. Times are from the change's commit to the receipt.
type Enforcement struct {
	Generation uint64         `json:"generation"`
	Done       bool           `json:"done"` // every online node concerned
	Nodes      []EnforcedNode `json:"nodes"`
}

// EnforcedNode is one node's part in an Enforcement.
type EnforcedNode struct {
	Node      acl.NodeID    `json:"node"`
	Name      string        `json:"name"`
	Enforced  bool          `json:"enforced"`
	After     time.Duration `json:"after"` // ns
	Cut       int           `json:"cut"`   // live flows it ended
	Online    bool          `json:"online"`
	LeaseEnds time.Time     `json:"leaseEnds"` // an offline node stops by then
}

// Nodes lists nodes by name.
func (c *Coordinator) Nodes(ctx context.Context, a Actor) ([]NodeView, error) { panic("unimplemented") }

// Node shows one, by name or id.
func (c *Coordinator) Node(ctx context.Context, a Actor, ref string) (NodeView, error) {
	panic("unimplemented")
}

// RenameNode gives a node another name (a DNS label, not in use).
func (c *Coordinator) RenameNode(ctx context.Context, a Actor, ref, name string) (Change, error) {
	panic("unimplemented")
}

// RemoveNode removes a node for good; its id and address are not given out again while its certificate could live.
func (c *Coordinator) RemoveNode(ctx context.Context, a Actor, ref string) (Change, error) {
	panic("unimplemented")
}

// QuarantineNode (on true) takes every flow from a node without removing it; on false gives them back.
func (c *Coordinator) QuarantineNode(ctx context.Context, a Actor, ref string, on bool) (Change, error) {
	panic("unimplemented")
}

// Enforced blocks until every online node concerned by generation g enforces it or ctx ends, and reports either way.
func (c *Coordinator) Enforced(ctx context.Context, a Actor, g uint64) (Enforcement, error) {
	panic("unimplemented")
}

// ---- auth keys

// AuthKey is an auth key without its secret.
type AuthKey struct {
	ID       string    `json:"id"`
	Tags     []string  `json:"tags"`
	Reusable bool      `json:"reusable"`
	Uses     int       `json:"uses"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Revoked  bool      `json:"revoked"`
	By       string    `json:"by"`
	State    string    `json:"state"` // "valid", "spent", "expired", "revoked"
}

// NewAuthKey is what CreateAuthKey makes. Tags are needed: keys cannot mint persons.
type NewAuthKey struct {
	Tags     []string
	Reusable bool
	Life     time.Duration // 0: 1 h
}

// CreateAuthKey returns the key's text ("picket-key-…"), shown once; only its hash is stored.
func (c *Coordinator) CreateAuthKey(ctx context.Context, a Actor, k NewAuthKey) (AuthKey, string, error) {
	panic("unimplemented")
}

// AuthKeys lists them, newest first.
func (c *Coordinator) AuthKeys(ctx context.Context, a Actor) ([]AuthKey, error) {
	panic("unimplemented")
}

// RevokeAuthKey makes a key useless; nodes it admitted stay.
func (c *Coordinator) RevokeAuthKey(ctx context.Context, a Actor, id string) error {
	panic("unimplemented")
}

// ---- policy

// PolicyText is what a source found.
type PolicyText struct {
	Text    []byte
	Commit  string // full id; empty for a plain file
	Author  string
	Subject string // first line of the commit message
	Time    time.Time
	// Rewritten says that the commit in force, handed to Fetch, is no ancestor of Commit.
	Rewritten bool
}

// PolicySource is where policy comes from.
type PolicySource interface {
	// Fetch returns the newest text. inForce is the commit in force ("" none). Bounded in time by ctx and in size by itself.
	Fetch(ctx context.Context, inForce string) (PolicyText, error)
	// Changed may be nil; a value from it asks for a Fetch at once (a file watcher, say).
	Changed() <-chan struct{}
	String() string // for people, without credentials
}

// PolicyStatus is what is in force, and what stands against anything newer.
type PolicyStatus struct {
	Source     string    `json:"source"`
	Commit     string    `json:"commit,omitempty"`
	Author     string    `json:"author,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Committed  time.Time `json:"committed"`
	InForce    time.Time `json:"inForce"` // since when; zero when nothing ever was
	Generation uint64    `json:"generation"`
	Text       string    `json:"text,omitempty"`
	Enforcing  int       `json:"enforcing"` // nodes with a receipt for at least Generation
	Nodes      int       `json:"nodes"`
	Checked    time.Time `json:"checked"` // last successful fetch
	// Refused is the newer commit that is not in force; Errors say why, one a line, with line and column.
	Refused       string    `json:"refused,omitempty"`
	RefusedAuthor string    `json:"refusedAuthor,omitempty"`
	Errors        []string  `json:"errors,omitempty"`
	ErrorSince    time.Time `json:"errorSince"`
}

// PolicyStatus reports.
func (c *Coordinator) PolicyStatus(ctx context.Context, a Actor) (PolicyStatus, error) {
	panic("unimplemented")
}

// ReloadPolicy fetches now and reports. accept names a commit that may be taken although it rewrites history ("" none).
func (c *Coordinator) ReloadPolicy(ctx context.Context, a Actor, accept string) (PolicyStatus, Change, error) {
	panic("unimplemented")
}

// PokePolicy asks for a fetch soon (webhook); it does not block and coalesces.
func (c *Coordinator) PokePolicy() { panic("unimplemented") }

// Why judges a flow between any two nodes (by name, id or address), for operators.
func (c *Coordinator) Why(ctx context.Context, a Actor, src, dst string) (WhyAnswer, error) {
	panic("unimplemented")
}

// WhyAnswer is a judged flow.
type WhyAnswer struct {
	Src    string `json:"src"`
	Dst    string `json:"dst"`
	Allow  bool   `json:"allow"`
	Rule   string `json:"rule,omitempty"` // "grants[0], line 3"
	Reason string `json:"reason,omitempty"`
}

// ---- audit

// AuditRecord is one line of the audit log.
type AuditRecord struct {
	Seq        int64     `json:"seq"` // from 0, without gaps
	Time       time.Time `json:"time"`
	Actor      string    `json:"actor"` // "operator uid 0", "user alice@example.com", …
	From       string    `json:"from,omitempty"`
	Action     string    `json:"action"` // "node.remove"
	Object     string    `json:"object"`
	Detail     string    `json:"detail,omitempty"`
	Generation uint64    `json:"generation"` // after the change
}

// Audit lists the newest records first, at most limit (0: 100), older than before (0: from the newest).
func (c *Coordinator) Audit(ctx context.Context, a Actor, limit int, before int64) ([]AuditRecord, error) {
	panic("unimplemented")
}
