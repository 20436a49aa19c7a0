package coordinator

import (
	"errors"

	"picket.internal/acl"
)

// right names what somebody wants to do.
type right string

// Every right there is.
const (
	rightListNodes      right = "list nodes"
	rightShowNode       right = "see this node"
	rightRenameNode     right = "rename this node"
	rightRemoveNode     right = "remove this node"
	rightQuarantineNode right = "quarantine this node"
	rightApproveRoutes  right = "see and approve routes"
	rightJudgeTicket    right = "admit a device"
	rightListUsers      right = "list users"
	rightAddUser        right = "add users"
	rightRemoveUser     right = "remove users"
	rightAuthKeys       right = "manage auth keys"
	rightTokens         right = "manage tokens"
	rightRelays         right = "manage relays"
	rightReadPolicy     right = "read the policy"
	rightLoadPolicy     right = "load the policy"
	rightDNS            right = "see and set what is said about names"
	rightReadFlows      right = "see which flows are live"
	rightReadDirectory  right = "read who and what exists"
	rightAskWhy         right = "ask about others' flows"
	rightEnforcement    right = "see which nodes enforce a change"
	rightReadAudit      right = "read the audit log"
)

// reach is how far a right goes. The zero reach is nothing.
type reach int

const (
	none reach = iota
	own        // objects the actor owns
	all
)

// rights is the one table of who may do what (R32). Who is not in it, or not in a row, may not.
var rights = map[right]row{
	rightListNodes:      {all, all, own, none},
	rightShowNode:       {all, all, own, none},
	rightRenameNode:     {all, all, own, none},
	rightRemoveNode:     {all, all, own, none},
	rightQuarantineNode: {all, all, none, none},
	rightApproveRoutes:  {all, all, none, none},
	rightJudgeTicket:    {none, own, own, none}, // a ticket becomes the judge's own node; the operator is no person
	rightListUsers:      {all, all, none, none},
	rightAddUser:        {all, all, none, none},
	rightRemoveUser:     {all, all, none, none},
	rightAuthKeys:       {all, all, none, none},
	rightTokens:         {all, all, none, none},
	rightRelays:         {all, all, none, none},
	rightReadDirectory:  {all, all, none, all},
	rightReadPolicy:     {all, all, none, all},
	rightLoadPolicy:     {all, all, none, none},
	rightDNS:            {all, all, none, none},
	rightReadFlows:      {all, all, none, all},
	rightAskWhy:         {all, all, none, none},
	rightEnforcement:    {all, all, own, none},
	rightReadAudit:      {all, all, none, none},
}

// row is one right's reach by who asks.
type row struct{ operator, admin, member, policyToken reach }

func (w row) of(r Role) reach {
	switch r {
	case RoleAdmin:
		return w.admin
	case RoleMember:
		return w.member
	}
	return none
}

// userReader is where roles are read: the transaction that acts (R26), or the world in memory when there is none.
type userReader interface {
	UserByID(acl.UserID) (UserRow, error)
	// ValidToken is the token, unless it is revoked or expired: then ErrNoRow. So is every token to what holds none.
	ValidToken(id string) (TokenRow, error)
}

// reachOf returns how far a may go with r; CodeForbidden when nowhere.
func reachOf(users userReader, a Actor, r right) (reach, error) {
	row, got := rights[r], none
	switch a.Kind {
	case ActorOperator:
		got = row.operator
	case ActorUser:
		u, err := users.UserByID(a.User)
		if err != nil && !errors.Is(err, ErrNoRow) {
			return none, err
		}
		if err == nil && u.Active {
			got = row.of(u.Role)
		}
	case ActorToken:
		var err error
		if got, err = row.ofToken(users, a.Token); isStorage(err) {
			return none, err
		}
	}
	if got == none {
		return none, refuse(CodeForbidden, "%s may not %s", a, r)
	}
	return got, nil
}

// ofToken is the reach of the token with that id: none, unless it is valid, is for such things, and who made it still may make tokens (R26).
func (w row) ofToken(users userReader, id string) (reach, error) {
	t, err := users.ValidToken(id)
	if errors.Is(err, ErrNoRow) {
		return none, nil
	}
	if err == nil {
		err = makerStands(users, t)
	}
	if err != nil || t.Scope != ScopePolicy {
		return none, err
	}
	return w.policyToken, nil
}

// makerStands refuses a token whose maker may not make tokens any more.
func makerStands(users userReader, t TokenRow) error {
	if t.User == "" {
		return nil // the operator
	}
	_, err := reachOf(users, Actor{Kind: ActorUser, User: t.User}, rightTokens)
	return err
}

// may refuses a unless r reaches an object of owner. An object out of reach is CodeNotFound: its existence is not told either.
func may(users userReader, a Actor, r right, owner acl.UserID) error {
	got, err := reachOf(users, a, r)
	if err != nil {
		return err
	}
	if got == all || got == own && a.Kind == ActorUser && owner != "" && owner == a.User {
		return nil
	}
	return refuse(CodeNotFound, "there is no such node")
}
