package web

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// fake is a coordinator of a few maps. It judges rights as the real one is to, so that a page that asks for too much is refused here too.
type fake struct {
	mu          sync.Mutex
	users       map[acl.UserID]coordinator.User
	passwords   map[string]string // by login
	secrets     map[string]string // TOTP, by login
	invitations map[string]coordinator.Invitation
	tickets     map[string]*fakeTicket
	nodes       []coordinator.NodeView
	keys        []coordinator.AuthKey
	policy      coordinator.PolicyStatus
	audit       []coordinator.AuditRecord // oldest first
	generation  uint64
	fail        map[string]error // by method
	calls       []string
}

type fakeTicket struct {
	view  coordinator.TicketView
	code  string
	tries int
}

const (
	adminLogin  = "ada@example.com"
	memberLogin = "bob@example.com"
	goodPass    = "correct horse battery"
)

var aDay = time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)

// newFake has an administrator, a member, a node of each and a tagged server.
func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{
		users: map[acl.UserID]coordinator.User{
			"u1": {ID: "u1", Login: adminLogin, Role: coordinator.RoleAdmin, State: "active", Created: aDay, Groups: []string{"group:ops"}, Nodes: 1},
			"u2": {ID: "u2", Login: memberLogin, Role: coordinator.RoleMember, State: "active", Created: aDay, Nodes: 1},
		},
		passwords:   map[string]string{adminLogin: goodPass, memberLogin: goodPass},
		secrets:     map[string]string{adminLogin: newSecret(t), memberLogin: newSecret(t)},
		invitations: map[string]coordinator.Invitation{},
		tickets:     map[string]*fakeTicket{},
		generation:  41,
		fail:        map[string]error{},
	}
	for i, n := range []coordinator.NodeView{
		{ID: "n1", Name: "ada-laptop", Owner: adminLogin, OS: "linux (Debian 12)", Online: true, Generation: 41},
		{ID: "n2", Name: "bob-laptop", Owner: memberLogin, OS: "darwin", LastSeen: time.Now().Add(-3 * time.Hour), Generation: 40},
		{ID: "n3", Name: "db-1", Tags: []string{"tag:db"}, OS: "linux (Debian 12)", Online: true, Generation: 41, Quarantined: true},
	} {
		n.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("fd7a:70ad::%d", i+1))}
		n.Device, n.Version, n.Hostname, n.Created, n.Expires = "device:0123abcd", "0.1.0", n.Name, aDay, time.Now().Add(29*24*time.Hour)
		n.LeaseEnds, n.Peers = time.Now().Add(11*time.Hour), 2
		f.nodes = append(f.nodes, n)
	}
	f.policy = coordinator.PolicyStatus{
		Source: "https://git.example.com/policy.git, branch main", Commit: "4f1c2d3e4b5a69788796a5b4c3d2e1f001122334", Author: "Ada <ada@example.com>",
		Subject: "Let the developers reach the database", Committed: aDay, InForce: time.Now().Add(-26 * time.Hour), Generation: 40,
		Text:      "{\n\t// who may reach what\n\t\"grants\": [\n\t\t{\"src\": [\"group:dev\"], \"dst\": [\"tag:db\"], \"ip\": [\"tcp:5432\"]},\n\t],\n}\n",
		Enforcing: 2, Nodes: 3, Checked: time.Now().Add(-20 * time.Second),
	}
	f.record("system", "policy.set", "4f1c2d3e4b5a", "")
	return f
}

func newSecret(t testing.TB) string {
	t.Helper()
	k, err := totp.Generate(totp.GenerateOpts{Issuer: "Picket", AccountName: "x"})
	if err != nil {
		t.Fatal(err)
	}
	return k.Secret()
}

// code is the TOTP code of login now.
func (f *fake) code(t testing.TB, login string) string {
	t.Helper()
	c, err := totp.GenerateCode(f.secrets[login], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (f *fake) ticket(id string) *fakeTicket {
	tk := &fakeTicket{code: "B7KD-2MXR", tries: 3, view: coordinator.TicketView{
		ID: id, Hostname: "bob-thinkpad", OS: "linux (Debian 12)", From: netip.MustParseAddr("203.0.113.7"), Device: "device:89abcdef",
		Created: time.Now().Add(-40 * time.Second), Expires: time.Now().Add(9 * time.Minute), State: protocol.TicketPending,
	}}
	f.tickets[id] = tk
	return tk
}

// enter notes the call and returns the failure planned for it.
func (f *fake) enter(method string) error {
	f.calls = append(f.calls, method)
	return f.fail[method]
}

func (f *fake) called(method string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.calls, method)
}

func refuse(code, message string) error { return &coordinator.Error{Code: code, Message: message} }

// may refuses everybody but users, and members everywhere but where member is true.
func (f *fake) may(a coordinator.Actor, member bool) error {
	u, ok := f.users[a.User]
	if a.Kind != coordinator.ActorUser || !ok || (u.Role != coordinator.RoleAdmin && !member) {
		return refuse(coordinator.CodeForbidden, "Only administrators may do that.")
	}
	return nil
}

func (f *fake) record(actor, action, object, detail string) {
	f.audit = append(f.audit, coordinator.AuditRecord{
		Seq: int64(len(f.audit)), Time: aDay.Add(time.Duration(len(f.audit)) * time.Minute), Actor: actor, Action: action, Object: object,
		Detail: detail, Generation: f.generation,
	})
}

func (f *fake) change(a coordinator.Actor, action, object string) coordinator.Change {
	f.generation++
	f.record("user "+a.Name, action, object, "")
	return coordinator.Change{Generation: f.generation, Summary: action + " " + object}
}

func (f *fake) Invitation(_ context.Context, token string) (coordinator.Invitation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter("Invitation"); err != nil {
		return coordinator.Invitation{}, err
	}
	inv, ok := f.invitations[token]
	if !ok {
		return inv, refuse(coordinator.CodeNotFound, "This setup link is not valid any more: ask an administrator for a new one.")
	}
	return inv, nil
}

func (f *fake) NewTOTP(login string) (string, string, error) {
	k, err := totp.Generate(totp.GenerateOpts{Issuer: "Picket", AccountName: login})
	if err != nil {
		return "", "", err
	}
	return k.Secret(), k.URL(), nil
}

func (f *fake) CompleteSetup(_ context.Context, s coordinator.Setup) (coordinator.User, []string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter("CompleteSetup"); err != nil {
		return coordinator.User{}, nil, err
	}
	inv, ok := f.invitations[s.Token]
	if !ok {
		return coordinator.User{}, nil, refuse(coordinator.CodeNotFound, "This setup link was used.")
	}
	if !totp.Validate(s.Code, s.TOTPSecret) {
		return coordinator.User{}, nil, refuse(coordinator.CodeWrongCode, "That code is not right. Check that the phone's clock is.")
	}
	delete(f.invitations, s.Token)
	u := coordinator.User{ID: acl.UserID("u" + fmt.Sprint(len(f.users)+1)), Login: s.Login, Role: inv.Role, State: "active", Created: time.Now()}
	f.users[u.ID], f.passwords[s.Login], f.secrets[s.Login] = u, s.Password, s.TOTPSecret
	var codes []string
	for i := range 10 {
		codes = append(codes, fmt.Sprintf("k%dwm-7f3q-p%dxz", i, 9-i))
	}
	return u, codes, nil
}

func (f *fake) SignIn(_ context.Context, s coordinator.SignIn) (coordinator.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.enter("SignIn"); err != nil {
		return coordinator.User{}, err
	}
	if f.passwords[s.Login] != s.Password || !totp.Validate(s.Code, f.secrets[s.Login]) {
		return coordinator.User{}, refuse(coordinator.CodeSignIn, "E-mail, password or code is not right.")
	}
	for _, u := range f.users {
		if u.Login == s.Login {
			return u, nil
		}
	}
	return coordinator.User{}, refuse(coordinator.CodeSignIn, "E-mail, password or code is not right.")
}

func (f *fake) UserByID(_ context.Context, id acl.UserID) (coordinator.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail["UserByID"]; err != nil {
		return coordinator.User{}, err
	}
	u, ok := f.users[id]
	if !ok {
		return u, refuse(coordinator.CodeNotFound, "No such account.")
	}
	return u, nil
}

func (f *fake) Users(_ context.Context, a coordinator.Actor) ([]coordinator.User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return nil, err
	}
	var list []coordinator.User
	for _, u := range f.users {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b coordinator.User) int { return strings.Compare(a.Login, b.Login) })
	return list, f.enter("Users")
}

func (f *fake) AddUser(_ context.Context, a coordinator.Actor, login string, r coordinator.Role) (coordinator.User, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return coordinator.User{}, "", err
	}
	if err := f.enter("AddUser"); err != nil {
		return coordinator.User{}, "", err
	}
	for _, u := range f.users {
		if u.Login == login {
			return u, "", refuse(coordinator.CodeConflict, login+" has an account already.")
		}
	}
	u := coordinator.User{ID: acl.UserID("u" + fmt.Sprint(len(f.users)+1)), Login: login, Role: r, State: "invited", Created: time.Now()}
	f.users[u.ID] = u
	token := "setup-token-of-" + string(u.ID)
	f.invitations[token] = coordinator.Invitation{Login: login, Role: r, Expires: time.Now().Add(72 * time.Hour)}
	f.record("user "+a.Name, "user.add", login, string(r))
	return u, token, nil
}

func (f *fake) RemoveUser(_ context.Context, a coordinator.Actor, login string) (coordinator.Change, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return coordinator.Change{}, err
	}
	if err := f.enter("RemoveUser"); err != nil {
		return coordinator.Change{}, err
	}
	for id, u := range f.users {
		if u.Login == login {
			delete(f.users, id)
			return f.change(a, "user.remove", login), nil
		}
	}
	return coordinator.Change{}, refuse(coordinator.CodeNotFound, "No such account.")
}

func (f *fake) Ticket(_ context.Context, a coordinator.Actor, id string) (coordinator.TicketView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, true); err != nil {
		return coordinator.TicketView{}, err
	}
	t, ok := f.tickets[id]
	if !ok {
		return coordinator.TicketView{}, refuse(coordinator.CodeNotFound, "There is no such login request: run picket up again.")
	}
	view := t.view
	view.Owner = f.users[a.User].Login
	return view, f.enter("Ticket")
}

func (f *fake) Approve(_ context.Context, a coordinator.Actor, id, code string) (coordinator.NodeView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, true); err != nil {
		return coordinator.NodeView{}, err
	}
	if err := f.enter("Approve"); err != nil {
		return coordinator.NodeView{}, err
	}
	t, ok := f.tickets[id]
	if !ok || t.view.State != protocol.TicketPending {
		return coordinator.NodeView{}, refuse(coordinator.CodeTicketOver, "This login request is over.")
	}
	if code != t.code {
		if t.tries--; t.tries == 0 {
			t.view.State = protocol.TicketSpoiled
			return coordinator.NodeView{}, refuse(coordinator.CodeTicketOver, "Too many wrong codes.")
		}
		return coordinator.NodeView{}, refuse(coordinator.CodeWrongCode, fmt.Sprintf("That is not the code that the machine shows. %d tries are left.", t.tries))
	}
	t.view.State = protocol.TicketApproved
	n := coordinator.NodeView{ID: "n9", Name: "bob-thinkpad", Owner: a.Name, OS: t.view.OS, Hostname: t.view.Hostname, Online: true, Generation: f.generation,
		Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.9"), netip.MustParseAddr("fd7a:70ad::9")}, Expires: time.Now().Add(30 * 24 * time.Hour)}
	f.nodes = append(f.nodes, n)
	return n, nil
}

func (f *fake) DenyTicket(_ context.Context, a coordinator.Actor, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, true); err != nil {
		return err
	}
	if err := f.enter("DenyTicket"); err != nil {
		return err
	}
	t, ok := f.tickets[id]
	if !ok || t.view.State != protocol.TicketPending {
		return refuse(coordinator.CodeTicketOver, "This login request is over.")
	}
	t.view.State = protocol.TicketDenied
	return nil
}

func (f *fake) Nodes(_ context.Context, a coordinator.Actor) ([]coordinator.NodeView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, true); err != nil {
		return nil, err
	}
	if err := f.enter("Nodes"); err != nil {
		return nil, err
	}
	u := f.users[a.User]
	var list []coordinator.NodeView
	for _, n := range f.nodes {
		if u.Role == coordinator.RoleAdmin || n.Owner == u.Login {
			list = append(list, n)
		}
	}
	return list, nil
}

// find is the index of a node by id; -1 when there is none.
func (f *fake) find(ref string) int {
	return slices.IndexFunc(f.nodes, func(n coordinator.NodeView) bool { return string(n.ID) == ref })
}

// onNode runs what changes a node, for administrators.
func (f *fake) onNode(a coordinator.Actor, method, action, ref string, do func(i int)) (coordinator.Change, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return coordinator.Change{}, err
	}
	if err := f.enter(method); err != nil {
		return coordinator.Change{}, err
	}
	i := f.find(ref)
	if i < 0 {
		return coordinator.Change{}, refuse(coordinator.CodeNotFound, "There is no such node.")
	}
	c := f.change(a, action, f.nodes[i].Name)
	do(i)
	return c, nil
}

func (f *fake) Node(_ context.Context, a coordinator.Actor, ref string) (coordinator.NodeView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return coordinator.NodeView{}, err
	}
	i := f.find(ref)
	if i < 0 {
		return coordinator.NodeView{}, refuse(coordinator.CodeNotFound, "There is no such node.")
	}
	return f.nodes[i], f.enter("Node")
}

func (f *fake) RenameNode(_ context.Context, a coordinator.Actor, ref, name string) (coordinator.Change, error) {
	if strings.ContainsAny(name, " <") {
		return coordinator.Change{}, refuse(coordinator.CodeInvalid, "That is not a name: use letters, digits and hyphens.")
	}
	return f.onNode(a, "RenameNode", "node.rename", ref, func(i int) { f.nodes[i].Name = name })
}

func (f *fake) RemoveNode(_ context.Context, a coordinator.Actor, ref string) (coordinator.Change, error) {
	return f.onNode(a, "RemoveNode", "node.remove", ref, func(i int) { f.nodes = slices.Delete(f.nodes, i, i+1) })
}

func (f *fake) QuarantineNode(_ context.Context, a coordinator.Actor, ref string, on bool) (coordinator.Change, error) {
	action := "node.release"
	if on {
		action = "node.quarantine"
	}
	return f.onNode(a, "QuarantineNode", action, ref, func(i int) { f.nodes[i].Quarantined = on })
}

func (f *fake) Enforced(ctx context.Context, a coordinator.Actor, g uint64) (coordinator.Enforcement, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return coordinator.Enforcement{}, err
	}
	if _, ok := ctx.Deadline(); !ok {
		return coordinator.Enforcement{}, fmt.Errorf("waiting without an end")
	}
	return coordinator.Enforcement{Generation: g, Nodes: []coordinator.EnforcedNode{
		{Node: "n1", Name: "ada-laptop", Enforced: true, After: 84 * time.Millisecond, Cut: 2, Online: true},
		{Node: "n2", Name: "bob-laptop", LeaseEnds: time.Now().Add(4 * time.Hour)},
		{Node: "n3", Name: "db-1", Online: true},
	}}, f.enter("Enforced")
}

func (f *fake) CreateAuthKey(_ context.Context, a coordinator.Actor, k coordinator.NewAuthKey) (coordinator.AuthKey, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return coordinator.AuthKey{}, "", err
	}
	if slices.Contains(k.Tags, "tag:nobody") {
		return coordinator.AuthKey{}, "", refuse(coordinator.CodeInvalid, "The policy defines no tag:nobody.")
	}
	ak := coordinator.AuthKey{ID: fmt.Sprintf("k%d", len(f.keys)+1), Tags: k.Tags, Reusable: k.Reusable, Created: time.Now(), Expires: time.Now().Add(k.Life + time.Second),
		By: a.Name, State: "valid"}
	f.keys = append(f.keys, ak)
	return ak, "picket-key-" + ak.ID + "-secretsecret", f.enter("CreateAuthKey")
}

func (f *fake) AuthKeys(_ context.Context, a coordinator.Actor) ([]coordinator.AuthKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return nil, err
	}
	return slices.Clone(f.keys), f.enter("AuthKeys")
}

func (f *fake) RevokeAuthKey(_ context.Context, a coordinator.Actor, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return err
	}
	for i := range f.keys {
		if f.keys[i].ID == id {
			f.keys[i].State, f.keys[i].Revoked = "revoked", true
			return f.enter("RevokeAuthKey")
		}
	}
	return refuse(coordinator.CodeNotFound, "There is no such key.")
}

func (f *fake) PolicyStatus(_ context.Context, a coordinator.Actor) (coordinator.PolicyStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return coordinator.PolicyStatus{}, err
	}
	return f.policy, f.enter("PolicyStatus")
}

func (f *fake) ReloadPolicy(_ context.Context, a coordinator.Actor, accept string) (coordinator.PolicyStatus, coordinator.Change, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return coordinator.PolicyStatus{}, coordinator.Change{}, err
	}
	return f.policy, coordinator.Change{}, f.enter("ReloadPolicy")
}

func (f *fake) Audit(_ context.Context, a coordinator.Actor, limit int, before int64) ([]coordinator.AuditRecord, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.may(a, false); err != nil {
		return nil, err
	}
	var list []coordinator.AuditRecord
	for i := len(f.audit) - 1; i >= 0 && len(list) < limit; i-- {
		if before == 0 || f.audit[i].Seq < before {
			list = append(list, f.audit[i])
		}
	}
	return list, f.enter("Audit")
}
