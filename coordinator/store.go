package coordinator

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Store keeps what must outlive the process. It is declared here by its consumer; coordinator/sqlite satisfies it.
//
// A store returns the errors of fn as they are. Its own failures are either an *Error with CodeUnavailable, when people can do something
// about them (a full disk), or any other error. Methods are safe for concurrent use.
type Store interface {
	// Update runs fn in one transaction that no other Update overlaps, commits it durably when fn returns nil, and leaves nothing of it
	// otherwise. fn is run once.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn on one consistent state.
	View(ctx context.Context, fn func(ReadTx) error) error
}

var (
	// ErrNoRow: a read found nothing.
	ErrNoRow = errors.New("no such row")
	// ErrTaken: a write would have broken a uniqueness (login, name, device key, address).
	ErrTaken = errors.New("already taken")
)

// ReadTx reads one consistent state. It is for the goroutine and the duration of the call it was handed to.
type ReadTx interface {
	// Now is the database's clock, in UTC and whole milliseconds; the same for the whole transaction. Decisions are made by it.
	Now() time.Time
	generationReader
	changeReader
	peopleReader
	nodeReader
	ticketReader
	authKeyReader
	tokenReader
	relayReader
	policyReader
	dnsReader
	auditReader
	receiptReader
}

// Tx also writes.
type Tx interface {
	ReadTx
	generationWriter
	peopleWriter
	throttle
	nodeWriter
	ticketWriter
	authKeyWriter
	tokenWriter
	relayWriter
	policyWriter
	dnsWriter
	auditWriter
	receiptWriter
}

type generationReader interface {
	// Generation is that of the last change to any map, and when it was committed. It is at least 1.
	Generation() (uint64, time.Time, error)
	// NetworkTold is what SetNetworkTold kept; empty at first.
	NetworkTold() ([]byte, error)
}

type generationWriter interface {
	// SetGeneration raises the generation, as of Now. A lower or equal one is an error.
	SetGeneration(uint64) error
	// SetNetworkTold keeps the hash of what maps say of the network by the coordinator's configuration.
	SetNetworkTold([]byte) error
}

// Changes are the rows that were written since some revision, as they are now.
type Changes struct {
	Users     []UserRow
	UsersGone []acl.UserID
	Nodes     []NodeRow // also tombstones
	Policy    bool      // a policy was written or forgotten
	DNS       bool
}

type changeReader interface {
	// Revision rises with every write to a user, a node, its addresses, a policy or what is said about names, in the write's own transaction, also with one that raises
	// no generation. It is the store's to see to that, not its callers'.
	Revision() (int64, error)
	// ChangedSince is what makes what was read at an earlier revision of this store into what is there now. Its cost is that of the rows in it.
	ChangedSince(revision int64) (Changes, error)
}

// UserRow is an account. Its secrets are of no use without the coordinator's key: see secrets.go.
type UserRow struct {
	ID       acl.UserID
	Login    string // unique
	Role     Role
	Active   bool   // false: invited
	Password string // argon2id in PHC form; empty while invited
	TOTP     []byte // sealed secret; empty while invited
	TOTPStep int64  // the last 30 s step whose code was used
	Created  time.Time
}

// SetupRow is a setup token that has not been spent.
type SetupRow struct {
	Hash    [32]byte   // SHA-256 of the token
	User    acl.UserID // empty: for the first admin
	Expires time.Time
}

type peopleReader interface {
	Users() ([]UserRow, error) // by login
	UserByID(acl.UserID) (UserRow, error)
	UserByLogin(string) (UserRow, error)
	Setup(hash [32]byte) (SetupRow, error)
}

type peopleWriter interface {
	InsertUser(UserRow) error // ErrTaken
	UpdateUser(UserRow) error
	DeleteUser(acl.UserID) error // with its setup tokens and recovery codes
	// AdvanceTOTP notes that step's code was used; false when that or a later one was used before.
	AdvanceTOTP(u acl.UserID, step int64) (bool, error)
	SetRecovery(u acl.UserID, macs [][32]byte) error // replaces
	// SpendRecovery deletes the code; false when there is none such.
	SpendRecovery(u acl.UserID, mac [32]byte) (bool, error)
	InsertSetup(SetupRow) error
	// SpendSetup deletes the token; false when it is already gone.
	SpendSetup(hash [32]byte) (bool, error)
	DropSetups(acl.UserID) error
}

type throttle interface {
	// Try counts one more try in bucket, unless it has limit within the last window: then it counts nothing and returns false.
	Try(bucket string, limit int, window time.Duration) (bool, error)
	ClearTries(bucket string) error
	// TakeBackTry forgets the newest try of bucket, if there is one.
	TakeBackTry(bucket string) error
}

// NodeRow is a node, or the tombstone of one.
type NodeRow struct {
	ID          acl.NodeID
	Device      key.DevicePublic // unique among the living
	Name        string           // unique among the living
	Owner       acl.UserID       // empty when tagged
	Tags        []string
	Addresses   []netip.Addr
	Facts       protocol.Facts
	Certificate []byte // newest; empty before the first session
	Next        []byte // certificate of the tunnel key that it is about to take up; empty for none
	Created     time.Time
	Expires     time.Time
	Expired     bool // its expiry was carried out
	Quarantined bool
	Removed     time.Time // zero: living
	Presence    Presence
	Routing     Routing
}

// Presence is when a node was last heard of.
type Presence struct {
	Attached  bool // it had a session when this was written
	LastSeen  time.Time
	LeaseEnds time.Time // of the last map it was sent
}

type nodeReader interface {
	Nodes() ([]NodeRow, error)                      // the living, by name
	NodeByID(acl.NodeID) (NodeRow, error)           // also a tombstone
	NodeByName(string) (NodeRow, error)             // living
	NodeByDevice(key.DevicePublic) (NodeRow, error) // living
	// NodeNames lists the living nodes' names that are base or begin with base and a hyphen.
	NodeNames(base string) ([]string, error)
	// KeysTaken reports whether a living node other than id has one of the keys in its certificates.
	KeysTaken(id acl.NodeID, tunnel key.TunnelPublic, probe key.ProbePublic) (bool, error)
	AddressTaken(netip.Addr) (bool, error) // in use, or held
	TakenAddresses() ([]netip.Addr, error)
}

type nodeWriter interface {
	InsertNode(NodeRow) error // with its addresses; ErrTaken
	// UpdateNode writes all but ID, Addresses, Created and Presence; ErrTaken.
	UpdateNode(NodeRow) error
	SetPresence(acl.NodeID, Presence) error
	// HoldAddresses keeps the node's addresses from being given out until then.
	HoldAddresses(n acl.NodeID, until time.Time) error
}

// TicketRow is a pending or decided login of a device.
type TicketRow struct {
	ID      string
	Secret  [32]byte // SHA-256 of the ticket's secret
	Code    [32]byte // keyed hash of the code: it is too short for a plain one
	Device  key.DevicePublic
	Facts   protocol.Facts
	From    netip.Addr
	Bucket  string // what From is counted under
	Created time.Time
	Expires time.Time
	State   string     // protocol.Ticket…
	Wrong   int        // wrong codes so far
	Node    acl.NodeID // once approved
}

type ticketReader interface {
	Ticket(id string) (TicketRow, error)
	// OpenTickets counts the pending, unexpired tickets of bucket and of all.
	OpenTickets(bucket string) (of, all int, err error)
	// PendingTickets lists the ids of a device's pending tickets.
	PendingTickets(key.DevicePublic) ([]string, error)
}

type ticketWriter interface {
	InsertTicket(TicketRow) error
	UpdateTicket(TicketRow) error // State, Wrong and Node
	DropTickets(expiredBefore time.Time) error
}

// AuthKeyRow is an auth key.
type AuthKeyRow struct {
	ID       string
	Hash     [32]byte // SHA-256 of the key's text
	Tags     []string
	Reusable bool
	Uses     int
	Created  time.Time
	Expires  time.Time
	Revoked  bool
	By       string     // for people
	User     acl.UserID // who made it; empty for the operator
}

type authKeyReader interface {
	AuthKeys() ([]AuthKeyRow, error) // newest first
	AuthKeyByHash([32]byte) (AuthKeyRow, error)
}

type authKeyWriter interface {
	InsertAuthKey(AuthKeyRow) error
	// SpendAuthKey counts a use; false when the key is unknown, revoked, expired or spent.
	SpendAuthKey(hash [32]byte) (bool, error)
	RevokeAuthKey(id string) (bool, error) // false when there is none, or it was revoked before
	RevokeAuthKeysOf(acl.UserID) (int, error)
}

// TokenRow is a token.
type TokenRow struct {
	ID      string
	Hash    [32]byte // SHA-256 of the token's text
	Scope   Scope
	Note    string
	Created time.Time
	Expires time.Time
	Used    time.Time // last; zero: never
	Revoked bool
	By      string     // for people
	User    acl.UserID // who made it; empty for the operator
}

type tokenReader interface {
	Tokens() ([]TokenRow, error) // newest first
	TokenByHash([32]byte) (TokenRow, error)
	ValidToken(id string) (TokenRow, error) // ErrNoRow also when it is revoked or expired
}

type tokenWriter interface {
	InsertToken(TokenRow) error
	UseToken(id string) error            // notes that it is used Now
	RevokeToken(id string) (bool, error) // false when there is none, or it was revoked before
	RevokeTokensOf(acl.UserID) (int, error)
}

// RelayRow is a relay that runs elsewhere, as an operator named it.
type RelayRow struct {
	Name        string // unique
	URL         string
	Fingerprint string                           // of the key its certificate leads to; empty: it is judged by the nodes' systems
	Reflect     [protocol.MaxRelayReflect]uint16 // UDP ports of its reflector; 0 for none
	Created     time.Time
	By          string // for people
}

type relayReader interface {
	Relays() ([]RelayRow, error) // by name
}

type relayWriter interface {
	InsertRelay(RelayRow) error            // ErrTaken
	DeleteRelay(name string) (bool, error) // false when there is none
}

// PolicyRow is a policy that was put in force.
type PolicyRow struct {
	Text       []byte
	Source     string
	Commit     string
	Author     string
	Subject    string
	Signer     string // who signed the commit, and the fingerprint of the key; empty when signatures were not asked for
	SignerKey  string
	Committed  time.Time
	InForce    time.Time
	Generation uint64 // of the change that put it in force
	By         string // who put it in force; empty when that was not noted yet
}

// HoldRow is a policy that waits for confirmation. It is known by its content, so that no other is taken in its place.
type HoldRow struct {
	Sum      [32]byte // SHA-256 of the text
	Commit   string
	Author   string
	Subject  string
	Since    time.Time
	Accepted bool // it rewrites history, and an operator accepted that
	Impact   Impact
}

// PinRow says that the policy in force is to stay.
type PinRow struct {
	By    string
	Since time.Time
}

type policyReader interface {
	Policy() (PolicyRow, error) // the newest; ErrNoRow when there never was one
	// PolicyScan calls fn, which must not use the transaction, with each policy that was in force, newest first, until fn returns an error.
	PolicyScan(fn func(PolicyRow) error) error
	Hold() (HoldRow, error) // ErrNoRow when none waits
	Pin() (PinRow, error)   // ErrNoRow when there is none
}

type policyWriter interface {
	InsertPolicy(PolicyRow) error
	// PrunePolicies forgets all but the newest rows, and those whose texts, with all newer ones, exceed size bytes; never the newest.
	PrunePolicies(rows int, size int64) error
	SetHold(HoldRow) error   // replaces
	DropHold() (bool, error) // false when none waited
	SetPin(PinRow) error     // replaces
	DropPin() (bool, error)  // false when there was none
}

type auditReader interface {
	AuditSize() (int64, error)
	// AuditPage lists records as they were appended, newest first, with sequence numbers below before (0: from the newest).
	AuditPage(limit int, before int64) ([][]byte, error)
	// AuditScan calls fn for each record in order.
	AuditScan(fn func(seq int64, record []byte) error) error
	// AuditHashes reads stored hashes by tlog's storage index; a missing one is an error.
	AuditHashes(indexes []int64) ([]tlog.Hash, error)
	AuditHashCount() (int64, error)
	// Checkpoint is the newest; ErrNoRow when nothing was ever logged.
	Checkpoint() (Checkpoint, error)
}

type auditWriter interface {
	// AppendAudit adds record seq and the hashes stored with it, the first at index.
	AppendAudit(seq int64, record []byte, index int64, hashes []tlog.Hash) error
	SetCheckpoint(Checkpoint) error
}

// ReceiptRow is a receipt a node signed.
type ReceiptRow struct {
	Node       acl.NodeID
	Generation uint64
	Digest     []byte
	Applied    time.Duration // as the node says
	After      time.Duration // from the change's commit to its arrival; 0 unknown
	Cut        int
	Signature  []byte
	Received   time.Time
}

type receiptReader interface {
	// NewestReceipts is the newest of each living node.
	NewestReceipts() ([]ReceiptRow, error)
}

type receiptWriter interface {
	// AddReceipts stores them and keeps the last keep of each node.
	AddReceipts(rows []ReceiptRow, keep int) error
}
