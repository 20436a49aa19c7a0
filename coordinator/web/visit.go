package web

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"

	"picket.internal/coordinator"
)

// visit is one request together with who makes it. It belongs to the request's goroutine.
type visit struct {
	*http.Request
	pattern string // of the route: what logs may say of the address, which may hold a token
	from    netip.Addr
	user    coordinator.User // zero: nobody is signed in

	loaded     bool // the session was looked at
	hasSession bool // the store knew the cookie
	changed    bool // the session must be stored
}

func (v *visit) known() bool   { return v.user.ID != "" }
func (v *visit) isAdmin() bool { return v.known() && v.user.Role == coordinator.RoleAdmin }

// actor is the visitor as the coordinator judges him; the zero Actor, who may do nothing, when nobody is signed in.
func (v *visit) actor() coordinator.Actor {
	if !v.known() {
		return coordinator.Actor{}
	}
	return coordinator.Actor{Kind: coordinator.ActorUser, User: v.user.ID, Name: v.user.Login, From: v.from}
}

// serve turns a route into a handler for the mux.
func (s *site) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &visit{Request: r, pattern: rt.pattern, from: s.clientAddr(r)}
		rep := s.answer(rt, v)
		if v.loaded {
			if err := s.sessions.save(v, w); err != nil {
				rep = s.internal(v, fmt.Errorf("save session: %w", err))
			}
		}
		s.write(w, v, rep)
	})
}

// answer takes the visit through session, access and handler. A panic in a handler becomes an answer too: the visitor gets a page, and
// the log what happened.
func (s *site) answer(rt route, v *visit) (rep reply) {
	defer func() {
		if p := recover(); p != nil {
			rep = s.internal(v, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	if rt.access != open {
		if err := s.recognise(v); err != nil {
			return s.failure(v, err)
		}
	}
	if rep, ok := s.admit(rt, v); !ok {
		return rep
	}
	if err := v.ParseForm(); err != nil {
		return s.failure(v, badForm(err))
	}
	rep, err := rt.handle(v)
	if err != nil {
		return s.failure(v, err)
	}
	return rep
}

// recognise loads the session and the account behind it. The account is asked for at each request, so that a removed person is out, and
// a lost role lost, with the next click (R26). When the coordinator cannot say, nobody is let through (R21).
func (s *site) recognise(v *visit) error {
	if err := s.sessions.load(v); err != nil {
		return fmt.Errorf("load session: %w", err)
	}
	v.loaded = true
	id := s.sessions.user(v)
	if id == "" {
		return nil
	}
	u, err := s.api.UserByID(v.Context(), id)
	if refusal := (*coordinator.Error)(nil); errors.As(err, &refusal) && refusal.Code == coordinator.CodeNotFound {
		return s.sessions.signOut(v)
	}
	if err != nil {
		return err
	}
	if u.ID != id || u.State != userActive {
		return s.sessions.signOut(v)
	}
	v.user = u
	return nil
}

// userActive is coordinator.User.State of an account that finished its setup.
const userActive = "active"

// internal logs what must not be shown, under an id that is.
func (s *site) internal(v *visit, err error) reply {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails: it ends the program instead (Go 1.24)
	id := hex.EncodeToString(b[:])
	s.log.Error("page failed", slog.String("id", id), slog.String("method", v.Method), slog.String("route", v.pattern),
		slog.String("user", string(v.user.ID)), slog.String("error", err.Error()))
	return problem(http.StatusInternalServerError, "Something went wrong on our side",
		fmt.Sprintf("The coordinator could not finish this. Try again; if it stays, tell the operator the number %s, which stands in the log.", id))
}
