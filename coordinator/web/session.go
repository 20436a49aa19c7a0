package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"

	"picket.internal/acl"
)

// How long a session lasts, and what is in it.
const (
	sessionLife = 12 * time.Hour
	sessionIdle = time.Hour
	// touchEvery is how stale the store may be about a session's last use: a write a minute, not one a request.
	touchEvery = time.Minute

	cookieSecure = "__Host-picket" // the prefix makes browsers refuse it over http, from a subdomain or for a path (RFC 6265bis 4.1.3.2)
	cookiePlain  = "picket"

	keyUser        = "user"      // acl.UserID of who is signed in
	keyTouched     = "touched"   // Unix seconds
	keySetupFor    = "setup.for" // hash of the setup token that the next three belong to
	keySetupLogin  = "setup.login"
	keySetupSecret = "setup.secret" // TOTP, base32
	keySetupURL    = "setup.url"    // otpauth
)

// sessions binds cookies to what we remember of a browser. Methods that take a visit belong to that visit's goroutine.
type sessions struct{ scs *scs.SessionManager }

// newSessions starts nothing, which is why it does not use scs.New: that one starts the clean-up of a store it then throws away.
func newSessions(store scs.Store, https bool) *sessions {
	name := cookiePlain
	if https {
		name = cookieSecure
	}
	return &sessions{&scs.SessionManager{
		IdleTimeout:      sessionIdle,
		Lifetime:         sessionLife,
		Store:            &lastingEnd{store: store, ended: map[string]time.Time{}},
		Codec:            scs.GobCodec{},
		HashTokenInStore: true, // whoever reads the database cannot sign in with what he finds (R23)
		Cookie:           scs.SessionCookie{Name: name, Path: "/", HttpOnly: true, Secure: https, SameSite: http.SameSiteLaxMode},
	}}
}

// load finds the visit's session, or begins an empty one that is not stored until something is put in.
func (s *sessions) load(v *visit) error {
	token := ""
	if c, err := v.Cookie(s.scs.Cookie.Name); err == nil {
		token = c.Value
	}
	ctx, err := s.scs.Load(v.Context(), token)
	if err != nil {
		return err
	}
	v.Request = v.WithContext(ctx)
	v.hasSession = s.scs.Token(ctx) != ""
	return nil
}

// save, on a visit that load was called for, stores what the visit changed and sets the cookie. A mere sign of life that cannot be stored is not worth failing for.
func (s *sessions) save(v *visit, w http.ResponseWriter) error {
	ctx := v.Context()
	if !v.changed && (!v.hasSession || time.Since(time.Unix(s.scs.GetInt64(ctx, keyTouched), 0)) < touchEvery) {
		return nil
	}
	if s.scs.Status(ctx) == scs.Destroyed {
		s.scs.WriteSessionCookie(ctx, w, "", time.Time{})
		return nil
	}
	s.scs.Put(ctx, keyTouched, time.Now().Unix())
	token, expiry, err := s.scs.Commit(ctx)
	if err != nil {
		if !v.changed {
			return nil
		}
		return err
	}
	s.scs.WriteSessionCookie(ctx, w, token, expiry)
	return nil
}

// user is who the session says is signed in; empty for nobody.
func (s *sessions) user(v *visit) acl.UserID {
	return acl.UserID(s.scs.GetString(v.Context(), keyUser))
}

// signIn puts the person into a session of a new name, so that one planted in the browser beforehand is worth nothing (CVE-2024-28197).
func (s *sessions) signIn(v *visit, id acl.UserID) error {
	if err := s.renew(v); err != nil {
		return err
	}
	s.scs.Put(v.Context(), keyUser, string(id))
	return nil
}

func (s *sessions) renew(v *visit) error {
	v.changed = true
	ctx := v.Context()
	if err := s.scs.RenewToken(ctx); err != nil {
		return err
	}
	return s.scs.Clear(ctx)
}

// signOut ends the session in the store and in the browser.
func (s *sessions) signOut(v *visit) error {
	v.changed = true
	return s.scs.Destroy(v.Context())
}

// pendingSetup is a begun setup: kept on our side, so that a failed try shows the same TOTP secret again and no form can choose it.
type pendingSetup struct{ login, secret, url string }

func (s *sessions) beginSetup(v *visit, token string, p pendingSetup) error {
	if err := s.renew(v); err != nil {
		return err
	}
	ctx := v.Context()
	s.scs.Put(ctx, keySetupFor, hashToken(token))
	s.scs.Put(ctx, keySetupLogin, p.login)
	s.scs.Put(ctx, keySetupSecret, p.secret)
	s.scs.Put(ctx, keySetupURL, p.url)
	return nil
}

// setup returns the setup that this browser began with this very token.
func (s *sessions) setup(v *visit, token string) (pendingSetup, bool) {
	ctx := v.Context()
	if s.scs.GetString(ctx, keySetupFor) != hashToken(token) {
		return pendingSetup{}, false
	}
	return pendingSetup{
		login:  s.scs.GetString(ctx, keySetupLogin),
		secret: s.scs.GetString(ctx, keySetupSecret),
		url:    s.scs.GetString(ctx, keySetupURL),
	}, true
}

func hashToken(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// lastingEnd is a store in which a deleted session stays deleted: without it a request that began before the sign-out and ends after it
// would write the session back. It forgets after a time that no request outlives.
type lastingEnd struct {
	store scs.Store

	mu    sync.Mutex
	ended map[string]time.Time // by the store's token
}

const forgetEnded = 10 * time.Minute

// end marks the session as over before it is deleted, so that no commit slips between the two.
func (l *lastingEnd) end(token string, remove func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for t, at := range l.ended {
		if now.Sub(at) > forgetEnded {
			delete(l.ended, t)
		}
	}
	l.ended[token] = now
	return remove()
}

// unlessEnded keeps an ended session from being written back.
func (l *lastingEnd) unlessEnded(token string, write func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, over := l.ended[token]; over {
		return nil
	}
	return write()
}

func (l *lastingEnd) Find(token string) ([]byte, bool, error) { return l.store.Find(token) }

func (l *lastingEnd) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	if cs, ok := l.store.(scs.CtxStore); ok {
		return cs.FindCtx(ctx, token)
	}
	return l.store.Find(token)
}

func (l *lastingEnd) Delete(token string) error {
	return l.end(token, func() error { return l.store.Delete(token) })
}

func (l *lastingEnd) DeleteCtx(ctx context.Context, token string) error {
	cs, ok := l.store.(scs.CtxStore)
	if !ok {
		return l.Delete(token)
	}
	return l.end(token, func() error { return cs.DeleteCtx(ctx, token) })
}

func (l *lastingEnd) Commit(token string, b []byte, expiry time.Time) error {
	return l.unlessEnded(token, func() error { return l.store.Commit(token, b, expiry) })
}

func (l *lastingEnd) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	cs, ok := l.store.(scs.CtxStore)
	if !ok {
		return l.Commit(token, b, expiry)
	}
	return l.unlessEnded(token, func() error { return cs.CommitCtx(ctx, token, b, expiry) })
}
