package coordinator_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// later is a moment whose one-time code was not used yet, within what a phone's clock may be off.
func later(i int) time.Time { return time.Now().Add(time.Duration(i) * 30 * time.Second) }

func (n *testnet) signIn(p *person, change func(*coordinator.SignIn)) error {
	n.t.Helper()
	s := coordinator.SignIn{Login: p.Login, Password: p.password, Code: totpCode(n.t, p.totp, later(1)), From: home}
	if change != nil {
		change(&s)
	}
	_, err := n.SignIn(n.ctx, s)
	return err
}

func TestSignInRefuses(t *testing.T) {
	n := newNet(t)
	p := n.admin()
	invited, _, err := n.AddUser(n.ctx, operator, "new@example.com", coordinator.RoleMember)
	if err != nil {
		t.Fatal(err)
	}
	var messages []string
	for i, tc := range []struct {
		name   string
		change func(*coordinator.SignIn)
	}{
		{"a wrong password", func(s *coordinator.SignIn) { s.Password += "x" }},
		{"no password", func(s *coordinator.SignIn) { s.Password = "" }},
		{"a wrong one-time code", func(s *coordinator.SignIn) { s.Code = "000000" }},
		{"no code", func(s *coordinator.SignIn) { s.Code = "" }},
		{"the code that was used at setup", func(s *coordinator.SignIn) { s.Code = totpCode(t, p.totp, later(0)) }},
		{"a one-time code of an hour ago", func(s *coordinator.SignIn) { s.Code = totpCode(t, p.totp, later(-120)) }},
		{"an unknown account", func(s *coordinator.SignIn) { s.Login = "nobody@example.com" }},
		{"an account not set up yet", func(s *coordinator.SignIn) { s.Login, s.Password = invited.Login, "" }},
		{"a made-up recovery code", func(s *coordinator.SignIn) { s.Code = "aaaa-bbbb-cccc-dddd" }},
	} {
		err := n.signIn(p, func(s *coordinator.SignIn) {
			s.From = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
			tc.change(s)
		})
		wantCode(t, tc.name, err, coordinator.CodeSignIn)
		messages = append(messages, err.Error())
		if i == 3 { // the account's tries are nearly used up: a good one takes them back
			if err := n.signIn(p, func(s *coordinator.SignIn) { s.Code = p.recovery[0] }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(slices.Compact(messages)) != 1 {
		t.Errorf("the errors differ, and so tell what was wrong: %q", messages)
	}
}

func TestSignInSpendsCodes(t *testing.T) {
	n := newNet(t)
	p := n.admin()
	code := totpCode(t, p.totp, later(1))
	use := func(c string) error { return n.signIn(p, func(s *coordinator.SignIn) { s.Code = c }) }
	if err := use(code); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a one-time code twice", use(code), coordinator.CodeSignIn)
	if err := use(strings.ToUpper(p.recovery[3])); err != nil {
		t.Errorf("a recovery code: %v", err)
	}
	wantCode(t, "a recovery code twice", use(p.recovery[3]), coordinator.CodeSignIn)
	if len(p.recovery) != 10 {
		t.Errorf("%d recovery codes", len(p.recovery))
	}
}

// R4: a code races with itself; one wins.
func TestRacingCodesSpendOnce(t *testing.T) {
	n := newNet(t)
	p := n.admin()
	for _, code := range []string{totpCode(t, p.totp, later(1)), p.recovery[0]} {
		var wg sync.WaitGroup
		var won atomic.Int32
		for range 5 {
			wg.Go(func() {
				if n.signIn(p, func(s *coordinator.SignIn) { s.Code = code }) == nil {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d of 5 signed in with one code", won.Load())
		}
		if err := n.signIn(p, func(s *coordinator.SignIn) { s.Code, s.From = p.recovery[5+won.Load()], office }); err != nil {
			t.Logf("taking back the tries: %v", err)
		}
		p.recovery = p.recovery[1:]
	}
}

func TestSignInIsThrottledByAccount(t *testing.T) {
	n := newNet(t)
	p := n.admin()
	for i := range 5 {
		wantCode(t, "a wrong password", n.signIn(p, func(s *coordinator.SignIn) {
			s.Password, s.From = "wrong password", netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		}), coordinator.CodeSignIn)
	}
	wantCode(t, "the right password after five wrong ones, from elsewhere", n.signIn(p, func(s *coordinator.SignIn) { s.From = office }), protocol.CodeThrottled)
	// In the database: another process, or this one after a restart, knows it too.
	n.stop()
	n.start()
	wantCode(t, "after a restart", n.signIn(p, nil), protocol.CodeThrottled)
}

func TestSignInIsThrottledByAddress(t *testing.T) {
	n := newNet(t)
	p := n.admin()
	for i := range 20 {
		err := n.signIn(p, func(s *coordinator.SignIn) { s.Login = strings.Repeat("x", i+1) + "@example.com" })
		wantCode(t, "an unknown account", err, coordinator.CodeSignIn)
	}
	wantCode(t, "a 21st account from one address", n.signIn(p, nil), protocol.CodeThrottled)
	if err := n.signIn(p, func(s *coordinator.SignIn) { s.From = office }); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
}

func TestSetupRefuses(t *testing.T) {
	n := newNet(t)
	old, _, err := n.FirstSetup(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := n.FirstSetup(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	secret, _, err := n.NewTOTP("root@example.com")
	if err != nil {
		t.Fatal(err)
	}
	good := coordinator.Setup{Token: token, Login: "root@example.com", Password: "correct horse battery", TOTPSecret: secret, Code: totpCode(t, secret, time.Now())}
	for _, tc := range []struct {
		name, code string
		change     func(*coordinator.Setup)
	}{
		{"a made-up token", coordinator.CodeNotFound, func(s *coordinator.Setup) { s.Token = "guess" }},
		{"a token that a newer one replaced", coordinator.CodeNotFound, func(s *coordinator.Setup) { s.Token = old }},
		{"no e-mail address", coordinator.CodeInvalid, func(s *coordinator.Setup) { s.Login = "root" }},
		{"an address with control characters", coordinator.CodeInvalid, func(s *coordinator.Setup) { s.Login = "ro\x00ot@example.com" }},
		{"a short password", coordinator.CodeInvalid, func(s *coordinator.Setup) { s.Password = "short" }},
		{"a password of a megabyte", coordinator.CodeInvalid, func(s *coordinator.Setup) { s.Password = strings.Repeat("x", 1<<20) }},
		{"the address as password", coordinator.CodeInvalid, func(s *coordinator.Setup) { s.Password = "ROOT@example.com" }},
		{"a wrong one-time code", coordinator.CodeInvalid, func(s *coordinator.Setup) { s.Code = "000000" }},
		{"a one-time secret of the guest's making", coordinator.CodeInvalid, func(s *coordinator.Setup) { s.TOTPSecret = "AAAA" }},
	} {
		s := good
		tc.change(&s)
		_, _, err := n.CompleteSetup(n.ctx, s)
		wantCode(t, tc.name, err, tc.code)
	}
	i, err := n.Invitation(n.ctx, token)
	if err != nil || i.Login != "" || i.Role != coordinator.RoleAdmin {
		t.Fatalf("after all refusals the link is %+v, %v", i, err)
	}
	if _, _, err := n.CompleteSetup(n.ctx, good); err != nil {
		t.Fatal(err)
	}
	_, _, err = n.CompleteSetup(n.ctx, good)
	wantCode(t, "a token used before", err, coordinator.CodeNotFound)
	if _, needed, err := n.FirstSetup(n.ctx); err != nil || needed {
		t.Errorf("a first setup is still needed: %v", err)
	}
}

// A link for the first admin is worth nothing once anybody has an account, however that came about.
func TestFirstLinkEndsWithTheFirstAccount(t *testing.T) {
	n := newNet(t)
	token, _, err := n.FirstSetup(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	n.member("bob@example.com")
	_, err = n.Invitation(n.ctx, token)
	wantCode(t, "looking at the link", err, coordinator.CodeNotFound)
	secret, _, _ := n.NewTOTP("eve@example.com")
	_, _, err = n.CompleteSetup(n.ctx, coordinator.Setup{Token: token, Login: "eve@example.com", Password: "correct horse battery", TOTPSecret: secret, Code: totpCode(t, secret, time.Now())})
	wantCode(t, "using the link", err, coordinator.CodeNotFound)
}

// R4: two people race for the first account; one becomes admin.
func TestOnlyOneFirstAdmin(t *testing.T) {
	n := newNet(t)
	token, _, err := n.FirstSetup(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			login := string(rune('a'+i)) + "@example.com"
			secret, _, _ := n.NewTOTP(login)
			_, _, err := n.CompleteSetup(n.ctx, coordinator.Setup{Token: token, Login: login, Password: "correct horse battery", TOTPSecret: secret, Code: totpCode(t, secret, time.Now())})
			if err == nil {
				won.Add(1)
			} else {
				wantCode(t, "the others", err, coordinator.CodeNotFound)
			}
		})
	}
	wg.Wait()
	if users, _ := n.Users(n.ctx, operator); won.Load() != 1 || len(users) != 1 {
		t.Errorf("%d won, accounts %v", won.Load(), users)
	}
}

func TestInviteAgain(t *testing.T) {
	n := newNet(t)
	admin := n.admin()
	_, first, err := n.AddUser(n.ctx, admin.actor(), "Bob@Example.com ", coordinator.RoleMember)
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := n.AddUser(n.ctx, admin.actor(), "bob@example.com", coordinator.RoleMember)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Invitation(n.ctx, first)
	wantCode(t, "the older link", err, coordinator.CodeNotFound)
	bob := n.setup(second, "bob@example.com")
	if bob.State != "active" || bob.Role != coordinator.RoleMember {
		t.Errorf("%+v", bob.User)
	}
	_, _, err = n.AddUser(n.ctx, admin.actor(), "bob@example.com", coordinator.RoleAdmin)
	wantCode(t, "inviting one who is there", err, coordinator.CodeConflict)
	_, _, err = n.AddUser(n.ctx, admin.actor(), "eve@example.com", "owner")
	wantCode(t, "a role that is none", err, coordinator.CodeInvalid)
}

func TestRemoveUserTakesEverything(t *testing.T) {
	n := newNet(t)
	admin, bob := n.admin(), n.member("bob@example.com")
	d := n.device("laptop").join(bob).connect()
	other := n.device("db").joinTagged("tag:db").connect()
	other.until("know laptop", hasPeer("laptop"))
	change, err := n.RemoveUser(n.ctx, admin.actor(), bob.Login)
	if err != nil || change.Generation == 0 {
		t.Fatalf("%+v, %v", change, err)
	}
	wantCode(t, "the session of his node", d.ended(), protocol.CodeRemoved)
	other.until("lose laptop", lacksPeer("laptop"))
	_, err = n.UserByID(n.ctx, bob.ID)
	wantCode(t, "his page session's account", err, coordinator.CodeNotFound)
	wantCode(t, "his sign-in", n.signIn(bob, nil), coordinator.CodeSignIn)
	// R3: the same address later is somebody else.
	again := n.member(bob.Login)
	if again.ID == bob.ID || again.Nodes != 0 {
		t.Errorf("the new account inherits: %+v", again.User)
	}
}

func TestLastAdminStays(t *testing.T) {
	n := newNet(t)
	admin := n.admin()
	_, err := n.RemoveUser(n.ctx, admin.actor(), admin.Login)
	wantCode(t, "the last admin removing himself", err, coordinator.CodeConflict)
	if _, err := n.RemoveUser(n.ctx, operator, admin.Login); err != nil {
		t.Errorf("the operator: %v", err)
	}
	_, err = n.RemoveUser(n.ctx, operator, "nobody@example.com")
	wantCode(t, "nobody", err, coordinator.CodeNotFound)
}

// R23, R22: a copy of the database holds no secret that could be used.
func TestDatabaseHoldsNoSecret(t *testing.T) {
	n := newNet(t)
	p := n.admin()
	_, invite, err := n.AddUser(n.ctx, operator, "bob@example.com", coordinator.RoleMember)
	if err != nil {
		t.Fatal(err)
	}
	_, authKey, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}})
	if err != nil {
		t.Fatal(err)
	}
	_, policyToken := n.token(operator)
	tk := n.device("x").ticket()
	n.stop()
	var dump []byte
	files, _ := filepath.Glob(filepath.Join(n.dir, "*"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		dump = append(dump, b...)
	}
	secrets := append([]string{p.password, p.totp, invite, authKey, authKey[len(authKey)-52:], policyToken, policyToken[len(policyToken)-52:], tk.Secret, tk.Code, strings.ReplaceAll(tk.Code, "-", "")}, p.recovery...)
	for _, s := range secrets {
		if strings.Contains(strings.ToLower(string(dump)), strings.ToLower(s)) {
			t.Errorf("the database holds %q", s)
		}
	}
	if !strings.Contains(string(dump), p.Login) {
		t.Error("the dump does not even hold the login: this test looks at the wrong files")
	}
	for _, s := range secrets {
		if strings.Contains(n.log.String(), s) {
			t.Errorf("the log holds %q", s)
		}
	}
}

func TestErrorsAreSentences(t *testing.T) {
	n := newNet(t)
	_, err := n.Node(n.ctx, operator, "nope")
	var e *coordinator.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if _, err := json.Marshal(protocol.Problem{Code: e.Code, Message: e.Message}); err != nil || e.Message == "" {
		t.Errorf("%+v, %v", e, err)
	}
}
