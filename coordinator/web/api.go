package web

import (
	"context"

	"picket.internal/acl"
	"picket.internal/coordinator"
)

// API is what the pages ask of the coordinator; *coordinator.Coordinator satisfies it.
type API interface {
	Authenticator
	Accounts
	Tickets
	Nodes
	AuthKeys
	Policy
	Audit
}

// Authenticator turns what a person typed into an account. Another way to sign in brings another Authenticator.
type Authenticator interface {
	SignIn(ctx context.Context, s coordinator.SignIn) (coordinator.User, error)
}

// Accounts are people: setup links, and the list of users.
type Accounts interface {
	Invitation(ctx context.Context, token string) (coordinator.Invitation, error)
	NewTOTP(login string) (secret, url string, err error)
	CompleteSetup(ctx context.Context, s coordinator.Setup) (coordinator.User, []string, error)
	UserByID(ctx context.Context, id acl.UserID) (coordinator.User, error)
	Users(ctx context.Context, a coordinator.Actor) ([]coordinator.User, error)
	AddUser(ctx context.Context, a coordinator.Actor, login string, r coordinator.Role) (coordinator.User, string, error)
	RemoveUser(ctx context.Context, a coordinator.Actor, login string) (coordinator.Change, error)
}

// Tickets are machines that wait to be let in.
type Tickets interface {
	Ticket(ctx context.Context, a coordinator.Actor, id string) (coordinator.TicketView, error)
	Approve(ctx context.Context, a coordinator.Actor, id, code string) (coordinator.NodeView, error)
	DenyTicket(ctx context.Context, a coordinator.Actor, id string) error
}

// Nodes are the machines of the network; Nodes lists those the actor may see.
type Nodes interface {
	Nodes(ctx context.Context, a coordinator.Actor) ([]coordinator.NodeView, error)
	Node(ctx context.Context, a coordinator.Actor, ref string) (coordinator.NodeView, error)
	RenameNode(ctx context.Context, a coordinator.Actor, ref, name string) (coordinator.Change, error)
	RemoveNode(ctx context.Context, a coordinator.Actor, ref string) (coordinator.Change, error)
	QuarantineNode(ctx context.Context, a coordinator.Actor, ref string, on bool) (coordinator.Change, error)
	Enforced(ctx context.Context, a coordinator.Actor, g uint64) (coordinator.Enforcement, error)
}

// AuthKeys let servers in without a person.
type AuthKeys interface {
	CreateAuthKey(ctx context.Context, a coordinator.Actor, k coordinator.NewAuthKey) (coordinator.AuthKey, string, error)
	AuthKeys(ctx context.Context, a coordinator.Actor) ([]coordinator.AuthKey, error)
	RevokeAuthKey(ctx context.Context, a coordinator.Actor, id string) error
}

// Policy is what is in force and what stands against anything newer.
type Policy interface {
	PolicyStatus(ctx context.Context, a coordinator.Actor) (coordinator.PolicyStatus, error)
	ReloadPolicy(ctx context.Context, a coordinator.Actor, accept string) (coordinator.PolicyStatus, coordinator.Change, error)
}

// Audit is the log of every change.
type Audit interface {
	Audit(ctx context.Context, a coordinator.Actor, limit int, before int64) ([]coordinator.AuditRecord, error)
}

var _ API = (*coordinator.Coordinator)(nil)
