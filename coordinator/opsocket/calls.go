// Package opsocket lets operators on the coordinator's own machine ask and command it over a unix socket.
//
// Every call is POST /v1/NAME with a JSON body, answered with JSON: the result with status 200, or a protocol.Problem. Who may
// connect is decided by the kernel's word for the caller (SO_PEERCRED): root, or the user the coordinator runs as.
package opsocket

import (
	"net/netip"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// Call is one thing an operator may ask: its name on the wire, with the shapes of request and result.
type Call[Req, Res any] struct{ Name string }

// None is the request of calls that need none, and the result of those that give none.
type None struct{}

// Calls about nodes.
var (
	NodesList       = Call[None, []coordinator.NodeView]{"nodes.list"}
	NodesShow       = Call[Ref, coordinator.NodeView]{"nodes.show"}
	NodesRename     = Call[Rename, coordinator.Change]{"nodes.rename"}
	NodesRemove     = Call[Ref, coordinator.Change]{"nodes.remove"}
	NodesQuarantine = Call[Quarantine, coordinator.Change]{"nodes.quarantine"}
)

// Calls about routes.
var (
	RoutesList    = Call[None, []coordinator.RouteView]{"routes.list"}
	RoutesApprove = Call[NodeRoutes, coordinator.Change]{"routes.approve"}
	RoutesRevoke  = Call[NodeRoutes, coordinator.Change]{"routes.revoke"}
)

// Calls about names.
var (
	DNSShow = Call[None, coordinator.DNSRow]{"dns.show"}
	DNSSet  = Call[protocol.DNS, coordinator.Change]{"dns.set"}
)

// Calls about people.
var (
	UsersList   = Call[None, []coordinator.User]{"users.list"}
	UsersAdd    = Call[AddUser, AddedUser]{"users.add"}
	UsersRemove = Call[Ref, coordinator.Change]{"users.remove"}
)

// Calls about auth keys.
var (
	KeysCreate = Call[NewKey, CreatedKey]{"keys.create"}
	KeysList   = Call[None, []coordinator.AuthKey]{"keys.list"}
	KeysRevoke = Call[Ref, None]{"keys.revoke"}
)

// Calls about tokens.
var (
	TokensCreate = Call[NewToken, CreatedToken]{"tokens.create"}
	TokensList   = Call[None, []coordinator.Token]{"tokens.list"}
	TokensRevoke = Call[Ref, None]{"tokens.revoke"}
)

// Calls about relays.
var (
	RelaysAdd    = Call[protocol.Relay, coordinator.Change]{"relays.add"}
	RelaysList   = Call[None, []coordinator.RelayView]{"relays.list"}
	RelaysRemove = Call[Ref, coordinator.Change]{"relays.remove"}
)

// Calls about policy, its enforcement, and the audit log.
var (
	PolicyStatus   = Call[None, coordinator.PolicyStatus]{"policy.status"}
	PolicyReload   = Call[Reload, Reloaded]{"policy.reload"}
	PolicyConfirm  = Call[Ref, Reloaded]{"policy.confirm"}
	PolicyRollback = Call[Ref, coordinator.Change]{"policy.rollback"}
	PolicyPin      = Call[Ref, coordinator.Change]{"policy.pin"}
	PolicyUnpin    = Call[None, Reloaded]{"policy.unpin"}
	PolicyList     = Call[None, []coordinator.PolicyVersion]{"policy.list"}
	PolicyImpact   = Call[protocol.PolicyText, coordinator.Impact]{"policy.impact"}
	PolicyExport   = Call[None, Directory]{"policy.directory"}
	PolicyWhy      = Call[WhyFlow, coordinator.WhyAnswer]{"policy.why"}
	Enforced       = Call[Await, coordinator.Enforcement]{"enforced"}
	AuditList      = Call[Page, []coordinator.AuditRecord]{"audit.list"}
)

// Ref names a node (name or id), a user (login), a key or token (id), a relay (name) or a policy (commit, or the first 7 digits of it at least).
type Ref struct {
	Ref string `json:"ref"`
}

// Rename gives node Ref the name Name.
type Rename struct {
	Ref  string `json:"ref"`
	Name string `json:"name"`
}

// Quarantine takes every flow from node Ref (On), or gives them back.
type Quarantine struct {
	Ref string `json:"ref"`
	On  bool   `json:"on"`
}

// NodeRoutes are routes of node Ref.
type NodeRoutes struct {
	Ref    string         `json:"ref"`
	Routes []netip.Prefix `json:"routes"`
}

// AddUser invites Login.
type AddUser struct {
	Login string           `json:"login"`
	Role  coordinator.Role `json:"role"`
}

// AddedUser carries the setup link's one-time token, which is shown once.
type AddedUser struct {
	User  coordinator.User `json:"user"`
	Token string           `json:"token"`
	URL   string           `json:"url"` // under which the coordinator is reached
}

// NewKey asks for an auth key; Life 0 is the default.
type NewKey struct {
	Tags     []string      `json:"tags"`
	Reusable bool          `json:"reusable"`
	Life     time.Duration `json:"life"` // ns
}

// CreatedKey carries the key's text, which is shown once.
type CreatedKey struct {
	Key  coordinator.AuthKey `json:"key"`
	Text string              `json:"text"`
}

// NewToken asks for a token; Life 0 is the default.
type NewToken struct {
	Scope coordinator.Scope `json:"scope"`
	Note  string            `json:"note"`
	Life  time.Duration     `json:"life"` // ns
}

// CreatedToken carries the token's text, which is shown once.
type CreatedToken struct {
	Token coordinator.Token `json:"token"`
	Text  string            `json:"text"`
}

// Reload fetches the policy now; Accept names a commit that may be taken although it rewrites history.
type Reload struct {
	Accept string `json:"accept,omitempty"`
}

// Directory is a directory file, as acl.ParseDirectory reads it.
type Directory struct {
	Text string `json:"text"`
}

// Reloaded is what came of a Reload, or of what fetches as well; Change.Generation is the one in force when nothing changed.
type Reloaded struct {
	Status coordinator.PolicyStatus `json:"status"`
	Change coordinator.Change       `json:"change"`
}

// WhyFlow asks whether Src may open a flow to Dst ("NAME:PORT/PROTO").
type WhyFlow struct {
	Src string `json:"src"`
	Dst string `json:"dst"`
}

// Await waits for Generation to be enforced, at most Timeout (bounded at 1 min).
type Await struct {
	Generation uint64        `json:"generation"`
	Timeout    time.Duration `json:"timeout"` // ns
}

// Page is part of the audit log: at most Limit records older than Before (0: from the newest).
type Page struct {
	Limit  int   `json:"limit"`
	Before int64 `json:"before"`
}
