package coordinator_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// TestPolicyDirectory: the export is read by acl, says who and what exists in the form that is fixed, and holds nothing else.
func TestPolicyDirectory(t *testing.T) {
	n := newNet(t)
	text, err := n.PolicyDirectory(n.ctx, operator)
	if err != nil || string(text) != "{\n  \"users\": [],\n  \"nodes\": []\n}\n" {
		t.Errorf("of nothing: %s, %v", text, err)
	}
	admin, bob := n.admin(), n.member("bob@example.com")
	if _, _, err := n.AddUser(n.ctx, operator, "invited@example.com", coordinator.RoleMember); err != nil {
		t.Fatal(err)
	}
	hers, his := n.device("hers").join(admin), n.device("his").join(bob)
	db, gone := n.device("db").joinTagged("tag:db").connect(), n.device("gone").joinTagged("tag:db")
	if _, err := n.QuarantineNode(n.ctx, operator, "his", true); err != nil {
		t.Fatal(err)
	}
	if _, err := n.RemoveNode(n.ctx, operator, "gone"); err != nil {
		t.Fatal(err)
	}
	if text, err = n.PolicyDirectory(n.ctx, operator); err != nil {
		t.Fatal(err)
	}
	addresses := func(d *device) string {
		return `["` + d.admitted.Addresses[0].String() + `","` + d.admitted.Addresses[1].String() + `"]`
	}
	want := `{
  "users": [
    {"name":"bob@example.com"},
    {"name":"invited@example.com"},
    {"name":"` + admin.Login + `","role":"admin"}
  ],
  "nodes": [
    {"name":"db","tags":["tag:db"],"addresses":` + addresses(db) + `,"attributes":{"node:os":"linux"}},
    {"name":"hers","user":"` + admin.Login + `","addresses":` + addresses(hers) + `,"attributes":{"node:os":"linux"}},
    {"name":"his","user":"bob@example.com","addresses":` + addresses(his) + `,"attributes":{"node:os":"linux"}}
  ]
}
`
	if d := cmp.Diff(want, string(text)); d != "" {
		t.Error(d)
	}
	if _, err := acl.ParseDirectory(text); err != nil {
		t.Error(err)
	}
	for _, secret := range []string{string(hers.node()), string(gone.node()), string(bob.ID), hers.key.Public().String(), "picket-"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("it holds %s", secret)
		}
	}
}

func TestPolicyInForce(t *testing.T) {
	n := newNet(t, func(c *coordinator.Config) { c.Policy = nil })
	p, err := n.PolicyInForce(n.ctx, operator)
	if err != nil || p != (protocol.PolicyInForce{}) {
		t.Errorf("with none: %+v, %v", p, err)
	}
	n = newNet(t)
	s, err := n.PolicyStatus(n.ctx, operator)
	if err != nil {
		t.Fatal(err)
	}
	p, err = n.PolicyInForce(n.ctx, operator)
	if err != nil || p.Text != openPolicy || p.Commit != s.Commit || p.Generation != s.Generation || !p.Since.Equal(s.InForce) {
		t.Errorf("%+v, %v; the status is %+v", p, err, s)
	}
}

// TestPolicyImpactTellsEveryMistake, with its place.
func TestPolicyImpactTellsEveryMistake(t *testing.T) {
	n := newNet(t)
	_, err := n.PolicyImpact(n.ctx, operator, []byte("{\n\"grant\": [],\n\"group\": {}\n}"))
	wantCode(t, "an unsound policy", err, coordinator.CodeInvalid)
	e := err.(*coordinator.Error)
	if len(e.Errors) != 2 || e.Errors[0].Line != 2 || e.Errors[1].Line != 3 || !strings.Contains(e.Message, "unknown field `grant`") {
		t.Errorf("%+v", e)
	}
	_, err = n.PolicyImpact(n.ctx, operator, []byte("{"+strings.Repeat("\""+strings.Repeat("x", 2000)+"\": 1,", 500)+"}"))
	wantCode(t, "a hostile policy", err, coordinator.CodeInvalid)
	e = err.(*coordinator.Error)
	text, err := protocol.Marshal(protocol.Problem{Code: e.Code, Message: e.Message, Errors: e.Errors})
	if err != nil {
		t.Fatal(err)
	}
	var back protocol.Problem
	if err := protocol.Unmarshal(text, &back); err != nil || len(text) > protocol.MaxPolicyGet {
		t.Errorf("what is said of it, %d bytes, is not read: %v", len(text), err)
	}
}
