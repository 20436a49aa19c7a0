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
	rightReadPolicy     right = "read the policy"
	rightLoadPolicy     right = "load the policy"
	rightReadFlows      right = "see which flows are live"
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
	rightListNodes:      {all, all, own},
	rightShowNode:       {all, all, own},
	rightRenameNode:     {all, all, own},
	rightRemoveNode:     {all, all, own},
	rightQuarantineNode: {all, all, none},
	rightApproveRoutes:  {all, all, none},
	rightJudgeTicket:    {none, own, own}, // a ticket becomes the judge's own node; the operator is no person
	rightListUsers:      {all, all, none},
	rightAddUser:        {all, all, none},
	rightRemoveUser:     {all, all, none},
	rightAuthKeys:       {all, all, none},
	rightReadPolicy:     {all, all, none},
	rightLoadPolicy:     {all, all, none},
	rightReadFlows:      {all, all, none},
	rightAskWhy:         {all, all, none},
	rightEnforcement:    {all, all, own},
	rightReadAudit:      {all, all, none},
}

// row is one right's reach by who asks.
type row struct{ operator, admin, member reach }

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
	}
	if got == none {
		return none, refuse(CodeForbidden, "%s may not %s", a, r)
	}
	return got, nil
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
