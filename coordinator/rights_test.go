package coordinator_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

func newKey() key.CoordinatorPrivate { return key.NewCoordinator() }

// TestRights holds every method that takes an Actor to who may call it (R32). One who is let through may still fail for another reason.
// RemoveNode, which cannot be tried on everybody's behalf, is below.
func TestRights(t *testing.T) {
	n := newNet(t)
	admin, member := n.admin(), n.member("bob@example.com")
	n.device("his").join(member)
	n.device("db").joinTagged("tag:db")
	ctx := context.Background()
	k, _ := n.token(operator)
	actors := map[string]coordinator.Actor{
		"nobody":          {},
		"a node":          {Kind: coordinator.ActorNode, Name: "db"},
		"the system":      {Kind: coordinator.ActorSystem},
		"an unknown user": {Kind: coordinator.ActorUser, User: "u0", Name: admin.Login},
		"an unknown kind": {Kind: "root", User: admin.ID},
		"a user by name":  {Kind: coordinator.ActorUser, Name: admin.Login},
		"a member":        member.actor(),
		"an admin":        admin.actor(),
		"the operator":    operator,
		"a token":         {Kind: coordinator.ActorToken, Token: k.ID},
		"a token by name": {Kind: coordinator.ActorToken, Name: k.ID},
		"another token":   n.tokenOf("nodes:write"),
	}
	methods := map[string]struct {
		call func(coordinator.Actor) error
		may  string // kinds that may: o operator, a admin, m member, t token
	}{
		"Nodes":               {func(a coordinator.Actor) error { _, err := n.Nodes(ctx, a); return err }, "oam"},
		"Node":                {func(a coordinator.Actor) error { _, err := n.Node(ctx, a, "db"); return err }, "oa"},
		"Node, his":           {func(a coordinator.Actor) error { _, err := n.Node(ctx, a, "his"); return err }, "oam"},
		"RenameNode":          {func(a coordinator.Actor) error { _, err := n.RenameNode(ctx, a, "db", "db"); return err }, "oa"},
		"RenameNode, his":     {func(a coordinator.Actor) error { _, err := n.RenameNode(ctx, a, "his", "his"); return err }, "oam"},
		"QuarantineNode":      {func(a coordinator.Actor) error { _, err := n.QuarantineNode(ctx, a, "db", false); return err }, "oa"},
		"QuarantineNode, his": {func(a coordinator.Actor) error { _, err := n.QuarantineNode(ctx, a, "his", false); return err }, "oa"},
		"Routes":              {func(a coordinator.Actor) error { _, err := n.Routes(ctx, a); return err }, "oa"},
		"ApproveRoutes": {func(a coordinator.Actor) error {
			_, err := n.ApproveRoutes(ctx, a, "his", prefixes("10.33.0.0/16"))
			return err
		}, "oa"},
		"RevokeRoutes": {func(a coordinator.Actor) error {
			_, err := n.RevokeRoutes(ctx, a, "his", prefixes("10.33.0.0/16"))
			return err
		}, "oa"},
		"Users": {func(a coordinator.Actor) error { _, err := n.Users(ctx, a); return err }, "oa"},
		"AddUser": {func(a coordinator.Actor) error {
			_, _, err := n.AddUser(ctx, a, "new@example.com", coordinator.RoleMember)
			return err
		}, "oa"},
		"RemoveUser": {func(a coordinator.Actor) error { _, err := n.RemoveUser(ctx, a, "none@example.com"); return err }, "oa"},
		"CreateAuthKey": {func(a coordinator.Actor) error {
			_, _, err := n.CreateAuthKey(ctx, a, coordinator.NewAuthKey{Tags: []string{"tag:db"}})
			return err
		}, "oa"},
		"AuthKeys":      {func(a coordinator.Actor) error { _, err := n.AuthKeys(ctx, a); return err }, "oa"},
		"RevokeAuthKey": {func(a coordinator.Actor) error { return n.RevokeAuthKey(ctx, a, "none") }, "oa"},
		"CreateToken": {func(a coordinator.Actor) error {
			_, _, err := n.CreateToken(ctx, a, coordinator.NewToken{Scope: coordinator.ScopePolicy})
			return err
		}, "oa"},
		"Tokens":          {func(a coordinator.Actor) error { _, err := n.Tokens(ctx, a); return err }, "oa"},
		"RevokeToken":     {func(a coordinator.Actor) error { return n.RevokeToken(ctx, a, "none") }, "oa"},
		"Relays":          {func(a coordinator.Actor) error { _, err := n.Relays(ctx, a); return err }, "oa"},
		"AddRelay":        {func(a coordinator.Actor) error { _, err := n.AddRelay(ctx, a, protocol.Relay{}); return err }, "oa"},
		"RemoveRelay":     {func(a coordinator.Actor) error { _, err := n.RemoveRelay(ctx, a, "none"); return err }, "oa"},
		"PolicyStatus":    {func(a coordinator.Actor) error { _, err := n.PolicyStatus(ctx, a); return err }, "oat"},
		"ReloadPolicy":    {func(a coordinator.Actor) error { _, _, err := n.ReloadPolicy(ctx, a, ""); return err }, "oa"},
		"PolicyImpact":    {func(a coordinator.Actor) error { _, err := n.PolicyImpact(ctx, a, []byte(`{}`)); return err }, "oat"},
		"PolicyInForce":   {func(a coordinator.Actor) error { _, err := n.PolicyInForce(ctx, a); return err }, "oat"},
		"PolicyDirectory": {func(a coordinator.Actor) error { _, err := n.PolicyDirectory(ctx, a); return err }, "oat"},
		"ConfirmPolicy":   {func(a coordinator.Actor) error { _, _, err := n.ConfirmPolicy(ctx, a, "1111111"); return err }, "oa"},
		"PolicyHistory":   {func(a coordinator.Actor) error { _, err := n.PolicyHistory(ctx, a); return err }, "oat"},
		"RollbackPolicy":  {func(a coordinator.Actor) error { _, err := n.RollbackPolicy(ctx, a, "1111111"); return err }, "oa"},
		"PinPolicy":       {func(a coordinator.Actor) error { _, err := n.PinPolicy(ctx, a, "1111111"); return err }, "oa"},
		"UnpinPolicy":     {func(a coordinator.Actor) error { _, _, err := n.UnpinPolicy(ctx, a); return err }, "oa"},
		"Why":             {func(a coordinator.Actor) error { _, err := n.Why(ctx, a, "his", "db:22"); return err }, "oa"},
		"Enforced":        {func(a coordinator.Actor) error { _, err := n.Enforced(ctx, a, 1); return err }, "oam"},
		"Audit":           {func(a coordinator.Actor) error { _, err := n.Audit(ctx, a, 1, 0); return err }, "oa"},
		"Ticket":          {func(a coordinator.Actor) error { _, err := n.Ticket(ctx, a, "none"); return err }, "am"},
		"Approve":         {func(a coordinator.Actor) error { _, err := n.Approve(ctx, a, "none", "x"); return err }, "am"},
		"DenyTicket":      {func(a coordinator.Actor) error { return n.DenyTicket(ctx, a, "none") }, "am"},
	}
	letters := map[string]string{"the operator": "o", "an admin": "a", "a member": "m", "a token": "t"}
	for method, m := range methods {
		for who, a := range actors {
			letter, known := letters[who]
			should := known && strings.Contains(m.may, letter)
			err := m.call(a)
			if got := !refused(err, who == "a member"); got != should {
				t.Errorf("%s: %s is let through: %v, should be %v (%v)", method, who, got, should, err)
			}
		}
	}
}

func TestRemoveNodeNeedsARight(t *testing.T) {
	n := newNet(t)
	bob := n.member("bob@example.com")
	n.device("db").joinTagged("tag:db")
	for _, a := range []coordinator.Actor{{}, {Kind: coordinator.ActorNode, Name: "db"}, {Kind: coordinator.ActorSystem}, {Kind: coordinator.ActorUser}, bob.actor()} {
		if _, err := n.RemoveNode(n.ctx, a, "db"); !refused(err, true) {
			t.Errorf("%s: %v", a, err)
		}
		if _, err := n.QuarantineNode(n.ctx, a, "db", true); !refused(err, true) {
			t.Errorf("%s: %v", a, err)
		}
	}
	if v, err := n.Node(n.ctx, operator, "db"); err != nil || v.Quarantined {
		t.Errorf("after refusals: %+v, %v", v, err)
	}
}

// refused reports that err is for want of a right: forbidden, or, for a member, an object of others that is as good as not there.
func refused(err error, hidden bool) bool {
	var e *coordinator.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code == coordinator.CodeForbidden || hidden && e.Code == coordinator.CodeNotFound && e.Message == "there is no such node"
}

// R26: who loses a role has lost it at the next request.
func TestRemovedAdminMayNothing(t *testing.T) {
	n := newNet(t)
	admin := n.admin()
	_, token, err := n.AddUser(n.ctx, operator, "second@example.com", coordinator.RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	second := n.setup(token, "second@example.com")
	if _, err := n.Users(n.ctx, second.actor()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.RemoveUser(n.ctx, admin.actor(), second.Login); err != nil {
		t.Fatal(err)
	}
	_, err = n.Users(n.ctx, second.actor())
	wantCode(t, "a removed admin", err, coordinator.CodeForbidden)
	_, err = n.RemoveNode(n.ctx, second.actor(), "x")
	wantCode(t, "a removed admin", err, coordinator.CodeForbidden)
}

func TestMembersSeeTheirOwnNodes(t *testing.T) {
	n := newNet(t)
	admin, bob := n.admin(), n.member("bob@example.com")
	n.device("hers").join(admin)
	n.device("his").join(bob)
	n.device("db").joinTagged("tag:db")
	nodes, err := n.Nodes(n.ctx, bob.actor())
	if err != nil || len(nodes) != 1 || nodes[0].Name != "his" {
		t.Errorf("bob sees %+v, %v", nodes, err)
	}
	_, err = n.Node(n.ctx, bob.actor(), "hers")
	_, none := n.Node(n.ctx, bob.actor(), "nothing")
	wantCode(t, "another's node", err, coordinator.CodeNotFound)
	if err.Error() != none.Error() {
		t.Errorf("the errors tell which nodes exist: %q, %q", err, none)
	}
	_, err = n.RemoveNode(n.ctx, bob.actor(), "hers")
	wantCode(t, "removing another's node", err, coordinator.CodeNotFound)
	e, err := n.Enforced(n.ctx, bob.actor(), 0)
	if err != nil || len(e.Nodes) != 1 {
		t.Errorf("bob sees enforcement on %+v, %v", e.Nodes, err)
	}
	if _, err := n.RemoveNode(n.ctx, bob.actor(), "his"); err != nil {
		t.Errorf("removing his own lost laptop: %v", err)
	}
}
