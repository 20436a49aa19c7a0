package coordinator

import (
	"net/netip"

	"picket.internal/acl"
)

// ActorKind is the kind of an Actor.
type ActorKind string

// Who may act.
const (
	ActorOperator ActorKind = "operator" // on the unix socket
	ActorUser     ActorKind = "user"     // signed in on the pages
	ActorNode     ActorKind = "node"     // proved by its device key
	ActorToken    ActorKind = "token"    // a program elsewhere, with a token
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
	Kind  ActorKind
	User  acl.UserID // of ActorUser
	Node  acl.NodeID // of ActorNode
	Token string     // of ActorToken: its id
	Name  string     // for the audit log: login, node name, token id, or the unix uid
	From  netip.Addr // where the request came from; may be zero
}

// String is how the audit log names the actor.
func (a Actor) String() string {
	if a.Name == "" {
		return string(a.Kind)
	}
	return string(a.Kind) + " " + oneLine(a.Name, 128)
}

// from is From for the audit log.
func (a Actor) from() string {
	if !a.From.IsValid() {
		return ""
	}
	return a.From.Unmap().String()
}

// system acts for the coordinator itself.
var system = Actor{Kind: ActorSystem}
