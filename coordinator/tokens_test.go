package coordinator_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

var elsewhere = netip.MustParseAddr("192.0.2.7")

// token makes a token for a, of the default life.
func (n *testnet) token(a coordinator.Actor) (coordinator.Token, string) {
	n.t.Helper()
	t, text, err := n.CreateToken(n.ctx, a, coordinator.NewToken{Scope: coordinator.ScopePolicy, Note: "CI"})
	if err != nil {
		n.t.Fatal(err)
	}
	return t, text
}

// tokenOf makes a token with a scope that this version does not give out.
func (n *testnet) tokenOf(scope coordinator.Scope) coordinator.Actor {
	n.t.Helper()
	err := n.store.Update(n.ctx, func(tx coordinator.Tx) error {
		return tx.InsertToken(coordinator.TokenRow{ID: "other", Hash: [32]byte{1}, Scope: scope, Created: tx.Now(), Expires: tx.Now().Add(time.Hour)})
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return coordinator.Actor{Kind: coordinator.ActorToken, Token: "other"}
}

// TestTokenRefuses: whatever is wrong with a token, the answer has the same words, and the audit log the reason.
func TestTokenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text  func(n *testnet) string
		fault string
	}{
		"none":               {func(*testnet) string { return "" }, "unknown"},
		"one nobody made":    {func(*testnet) string { return "picket-token-aaaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" }, "unknown"},
		"one cut short":      {func(n *testnet) string { _, text := n.token(operator); return text[:len(text)-1] }, "unknown"},
		"one with a space":   {func(n *testnet) string { _, text := n.token(operator); return text + " " }, "unknown"},
		"one after 90 days":  {func(n *testnet) string { _, text := n.token(operator); time.Sleep(90 * 24 * time.Hour); return text }, "expired"},
		"one of a day later": {func(n *testnet) string { return n.brief(24 * time.Hour) }, "expired"},
		"one revoked": {func(n *testnet) string {
			k, text := n.token(operator)
			if err := n.RevokeToken(n.ctx, operator, k.ID); err != nil {
				n.t.Error(err)
			}
			return text
		}, "revoked"},
		"one of an admin who was removed": {func(n *testnet) string {
			p := n.admin()
			_, text := n.token(p.actor())
			if _, err := n.RemoveUser(n.ctx, operator, p.Login); err != nil {
				n.t.Error(err)
			}
			return text
		}, "revoked"},
		"one of who is no admin any more": {func(n *testnet) string {
			p := n.admin()
			_, text := n.token(p.actor())
			n.demote(p)
			return text
		}, "who made it may not any more"},
		"one of who is gone, without that being on disk": {func(n *testnet) string {
			p := n.admin()
			_, text := n.token(p.actor())
			n.faults.full.Store(true)
			_, err := n.RemoveUser(n.ctx, operator, p.Login)
			wantCode(n.t, "the removal", err, protocol.CodeUnavailable)
			n.faults.full.Store(false)
			return text
		}, "who made it may not any more"},
		"the text of an auth key": {func(n *testnet) string {
			_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}})
			if err != nil {
				n.t.Error(err)
			}
			return text
		}, "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				text := c.text(n)
				a, err := n.TokenActor(n.ctx, text, elsewhere)
				wantCode(t, name, err, protocol.CodeToken)
				if a != (coordinator.Actor{}) {
					t.Errorf("it acts as %+v", a)
				}
				if want := "no valid token came with the request: it is missing, mistyped, expired or revoked; "; err == nil || !strings.HasPrefix(err.Error(), want) {
					t.Errorf("told %v", err)
				}
				records, err := n.Audit(n.ctx, operator, 1, 0)
				if err != nil || len(records) != 1 || records[0].Action != "token.refused" || records[0].Detail != c.fault || records[0].From != elsewhere.String() {
					t.Errorf("recorded %+v, %v", records, err)
				}
				if text != "" && strings.Contains(n.log.String(), text) {
					t.Error("the log holds the token")
				}
			})
		})
	}
}

// brief is a token after its life.
func (n *testnet) brief(life time.Duration) string {
	_, text, err := n.CreateToken(n.ctx, operator, coordinator.NewToken{Scope: coordinator.ScopePolicy, Life: life})
	if err != nil {
		n.t.Fatal(err)
	}
	time.Sleep(life)
	return text
}

func TestTokenIsTaken(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		admin := n.admin()
		for who, maker := range map[string]coordinator.Actor{"the operator": operator, "an admin": admin.actor()} {
			k, text := n.token(maker)
			if k.State != "valid" || k.By != maker.String() || !k.Used.IsZero() || k.Expires.Sub(k.Created) != 90*24*time.Hour {
				t.Errorf("made by %s: %+v", who, k)
			}
			time.Sleep(90*24*time.Hour - time.Millisecond)
			a, err := n.TokenActor(n.ctx, text, elsewhere)
			if err != nil || a.Kind != coordinator.ActorToken || a.Token != k.ID || a.From != elsewhere {
				t.Errorf("made by %s: %+v, %v", who, a, err)
			}
			if _, err := n.PolicyStatus(n.ctx, a); err != nil {
				t.Errorf("made by %s: %v", who, err)
			}
			time.Sleep(time.Millisecond)
			_, err = n.PolicyStatus(n.ctx, a) // an actor that was found before its token ended
			wantCode(t, "a token of "+who+", a moment later", err, coordinator.CodeForbidden)
		}
	})
}

// TestTokenLosesItsRightAtOnce: what is found wrong with a token between its first and second look counts (R26).
func TestTokenLosesItsRightAtOnce(t *testing.T) {
	n := newNet(t)
	admin := n.admin()
	k, text := n.token(operator)
	_, hers := n.token(admin.actor())
	a, err := n.TokenActor(n.ctx, text, elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.TokenActor(n.ctx, hers, elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.RevokeToken(n.ctx, operator, k.ID); err != nil {
		t.Fatal(err)
	}
	n.demote(admin)
	for _, a := range []coordinator.Actor{a, b, {Kind: coordinator.ActorToken}, {Kind: coordinator.ActorToken, Name: k.ID}, n.tokenOf("nodes:write")} {
		_, err := n.PolicyStatus(n.ctx, a)
		wantCode(t, a.String(), err, coordinator.CodeForbidden)
	}
}

func TestTokenLastUse(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		_, text := n.token(operator)
		used := func() time.Time {
			if _, err := n.TokenActor(n.ctx, text, elsewhere); err != nil {
				t.Error(err)
			}
			all, err := n.Tokens(n.ctx, operator)
			if err != nil {
				t.Fatal(err)
			}
			return all[0].Used
		}
		first := used()
		if !first.Equal(time.Now()) {
			t.Errorf("first used %s, which is %s", first, time.Now())
		}
		time.Sleep(59 * time.Second)
		if again := used(); !again.Equal(first) {
			t.Errorf("written again after %s", again.Sub(first))
		}
		time.Sleep(time.Second)
		if again := used(); again.Sub(first) != time.Minute {
			t.Errorf("a minute later, used %s after the first time", again.Sub(first))
		}
		n.faults.full.Store(true)
		time.Sleep(time.Minute)
		a, err := n.TokenActor(n.ctx, text, elsewhere)
		wantCode(t, "a use that cannot be written down", err, protocol.CodeUnavailable)
		if a != (coordinator.Actor{}) {
			t.Errorf("it acts as %+v", a)
		}
	})
}

// TestTokenStorageFails: what cannot be looked up is refused, and a refusal that cannot be written down is one all the same (R21).
func TestTokenStorageFails(t *testing.T) {
	n := newNet(t)
	_, text := n.token(operator)
	a, err := n.TokenActor(n.ctx, text, elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	n.faults.full.Store(true)
	_, err = n.TokenActor(n.ctx, "picket-token-x", elsewhere)
	wantCode(t, "a wrong token, with the disk full", err, protocol.CodeToken)
	n.faults.reads.Store(true)
	_, err = n.TokenActor(n.ctx, text, elsewhere)
	wantCode(t, "a token that cannot be looked up", err, protocol.CodeUnavailable)
	_, err = n.PolicyStatus(n.ctx, a)
	wantCode(t, "a right that cannot be looked up", err, protocol.CodeUnavailable)
}

// TestRefusedTokensFillNoLog: the audit log takes 60 a minute, whoever tries.
func TestRefusedTokensFillNoLog(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		for range 100 {
			_, err := n.TokenActor(n.ctx, "picket-token-x", elsewhere)
			wantCode(t, "a wrong token", err, protocol.CodeToken)
		}
		count := func() (refused int) {
			for _, a := range n.actions() {
				if a == "token.refused" {
					refused++
				}
			}
			return refused
		}
		if got := count(); got != 60 {
			t.Errorf("%d of 100 are in the audit log", got)
		}
		if !strings.Contains(n.log.String(), "too many are for the audit log") {
			t.Error("nothing is said of the others")
		}
	})
}

func TestTokensMadeAndRevoked(t *testing.T) {
	n := newNet(t)
	for name, k := range map[string]coordinator.NewToken{
		"for nothing":             {},
		"for what does not exist": {Scope: "nodes:write"},
		"for longer than a year":  {Scope: coordinator.ScopePolicy, Life: 365*24*time.Hour + 1},
		"for less than nothing":   {Scope: coordinator.ScopePolicy, Life: -1},
		"with a book for a note":  {Scope: coordinator.ScopePolicy, Note: strings.Repeat("x", 201)},
	} {
		_, text, err := n.CreateToken(n.ctx, operator, k)
		wantCode(t, name, err, coordinator.CodeInvalid)
		if text != "" {
			t.Errorf("%s: a text came all the same", name)
		}
	}
	k, text := n.token(operator)
	if rest, ok := strings.CutPrefix(text, "picket-token-"+k.ID+"-"); !ok || len(rest) != 52 {
		t.Errorf("its text is %q", text)
	}
	if err := protocol.CheckToken(text); err != nil {
		t.Error(err)
	}
	if err := n.RevokeToken(n.ctx, operator, k.ID); err != nil {
		t.Error(err)
	}
	wantCode(t, "revoking again", n.RevokeToken(n.ctx, operator, k.ID), coordinator.CodeNotFound)
	all, err := n.Tokens(n.ctx, operator)
	if err != nil || len(all) != 1 || all[0].State != "revoked" || all[0].Note != "CI" || all[0].Scope != coordinator.ScopePolicy {
		t.Errorf("%+v, %v", all, err)
	}
	log := strings.Join(n.actions(), " ")
	if !strings.HasSuffix(log, "token.create token.revoke") {
		t.Errorf("recorded: %s", log)
	}
	n.faults.dead.Store(true)
	if _, text, err := n.CreateToken(n.ctx, operator, coordinator.NewToken{Scope: coordinator.ScopePolicy}); err == nil || text != "" {
		t.Errorf("a token that is not stored was handed out: %q, %v", text, err)
	}
}

// A request that is given up leaves the error of its context, so that nobody takes it for a refusal.
func TestTokenOfWhoWentAway(t *testing.T) {
	n := newNet(t)
	_, text := n.token(operator)
	ctx, cancel := context.WithCancel(n.ctx)
	cancel()
	if _, err := n.TokenActor(ctx, text, elsewhere); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
