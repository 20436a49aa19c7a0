package coordinator

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"picket.internal/coordinator/protocol"
)

// A token's text is protocol.TokenPrefix, the token's id (8 bytes), a hyphen and a secret of 32 bytes, both in lower-case base32 without
// padding. Only the SHA-256 of the whole text is stored.

// Scope is what a token is for.
type Scope string

// ScopePolicy is for reading the directory and the policy in force, and for asking what a policy would do. It changes nothing.
const ScopePolicy Scope = "policy:read"

// Life of a token.
const (
	defaultTokenLife = 90 * 24 * time.Hour
	maxTokenLife     = 365 * 24 * time.Hour
)

// maxTokenNote bounds NewToken.Note, in bytes.
const maxTokenNote = 200

// usedEvery is how exactly the time of a token's last use is kept: a write for each use would be dearer than most answers.
const usedEvery = time.Minute

// Token is a token without its secret.
type Token struct {
	ID      string    `json:"id"`
	Scope   Scope     `json:"scope"`
	Note    string    `json:"note"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"` // last, to the minute; zero: never
	Revoked bool      `json:"revoked"`
	By      string    `json:"by"`
	State   string    `json:"state"` // "valid", "expired", "revoked"
}

// NewToken is what CreateToken makes.
type NewToken struct {
	Scope Scope
	Note  string        // for people, at most 200 bytes
	Life  time.Duration // 0: 90 days; at most 365 days
}

func (t TokenRow) view(now time.Time) Token {
	return Token{ID: t.ID, Scope: t.Scope, Note: t.Note, Created: t.Created, Expires: t.Expires, Used: t.Used, Revoked: t.Revoked, By: t.By, State: t.state(now)}
}

func (t TokenRow) state(now time.Time) string {
	switch {
	case t.Revoked:
		return "revoked"
	case !now.Before(t.Expires):
		return "expired"
	}
	return "valid"
}

// CreateToken returns the token's text ("picket-token-…"), shown once; only its hash is stored.
func (c *Coordinator) CreateToken(ctx context.Context, a Actor, t NewToken) (Token, string, error) {
	row := TokenRow{ID: token(8), Scope: t.Scope, Note: oneLine(t.Note, maxTokenNote), By: a.String(), User: a.User}
	text := protocol.TokenPrefix + row.ID + "-" + token(32)
	row.Hash = tokenHash(text)
	_, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightTokens); err != nil {
			return err
		}
		if err := t.check(); err != nil {
			return err
		}
		life := t.Life
		if life == 0 {
			life = defaultTokenLife
		}
		row.Created, row.Expires = ch.Now(), ch.Now().Add(life)
		ch.record("token.create", row.ID, string(row.Scope)+", until "+row.Expires.Format(time.RFC3339)+": "+row.Note)
		return ch.InsertToken(row)
	})
	if err != nil {
		return Token{}, "", c.outward(ctx, err)
	}
	return row.view(c.now()), text, nil
}

func (t NewToken) check() error {
	switch {
	case t.Scope != ScopePolicy:
		return refuse(CodeInvalid, "%q is nothing a token can be for: %s is", oneLine(string(t.Scope), 40), ScopePolicy)
	case len(t.Note) > maxTokenNote:
		return refuse(CodeInvalid, "a token's note has at most %d bytes", maxTokenNote)
	case t.Life < 0 || t.Life > maxTokenLife:
		return refuse(CodeInvalid, "a token lives for at most %d days", int(maxTokenLife.Hours()/24))
	}
	return nil
}

// Tokens lists them, newest first.
func (c *Coordinator) Tokens(ctx context.Context, a Actor) ([]Token, error) {
	out := []Token{}
	err := c.store.View(ctx, func(tx ReadTx) error {
		if _, err := reachOf(tx, a, rightTokens); err != nil {
			return err
		}
		rows, err := tx.Tokens()
		for _, t := range rows {
			out = append(out, t.view(tx.Now()))
		}
		return err
	})
	return out, c.outward(ctx, err)
}

// RevokeToken makes a token useless.
func (c *Coordinator) RevokeToken(ctx context.Context, a Actor, id string) error {
	_, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightTokens); err != nil {
			return err
		}
		ok, err := ch.RevokeToken(id)
		if err == nil && !ok {
			return refuse(CodeNotFound, "there is no token %s that is not revoked already", oneLine(id, 40))
		}
		ch.record("token.revoke", id, "")
		return err
	})
	return c.outward(ctx, err)
}

// errToken is the one answer to every token that is not taken: which of its faults it was is for the audit log.
var errToken = refuse(protocol.CodeToken,
	"no valid token came with the request: it is missing, mistyped, expired or revoked; `picket-coordinator tokens create` on the coordinator's host makes one")

// TokenActor is who asks with a token's text, from an address. protocol.CodeToken, in the same words whatever is wrong, when the token is not
// taken. What the actor may do is decided where it does it, which reads the token again.
func (c *Coordinator) TokenActor(ctx context.Context, text string, from netip.Addr) (Actor, error) {
	a := Actor{Kind: ActorToken, From: from}
	var t TokenRow
	var fault string
	err := c.store.View(ctx, func(tx ReadTx) (err error) {
		t, err = tx.TokenByHash(tokenHash(text))
		if errors.Is(err, ErrNoRow) {
			fault = "unknown"
			return nil
		}
		if err == nil {
			a.Token, a.Name = t.ID, t.ID
			fault, err = c.tokenFault(tx, t)
		}
		return err
	})
	if err != nil {
		return Actor{}, c.outward(ctx, err)
	}
	if fault != "" {
		c.tokenRefused(ctx, a, fault)
		return Actor{}, errToken
	}
	if c.now().Sub(t.Used) >= usedEvery {
		if err := c.store.Update(ctx, func(tx Tx) error { return tx.UseToken(t.ID) }); err != nil {
			return Actor{}, c.outward(ctx, err)
		}
	}
	return a, nil
}

// tokenFault is why t is not taken; empty when it is.
func (c *Coordinator) tokenFault(tx ReadTx, t TokenRow) (string, error) {
	if s := t.state(tx.Now()); s != "valid" {
		return s, nil
	}
	err := makerStands(tx, t)
	switch {
	case isStorage(err):
		return "", err
	case err != nil, t.User != "" && c.emergency.gone(t.User):
		return "who made it may not any more", nil
	}
	return "", nil
}

// tokenRefused puts a refused use in the audit log, as long as there are not too many. That it cannot be written changes nothing about the refusal.
func (c *Coordinator) tokenRefused(ctx context.Context, a Actor, fault string) {
	object := a.Token
	if object == "" {
		object = "an unknown token"
	}
	if !c.failures.token.Allow() {
		c.log.Warn("a token was refused; too many are for the audit log", "from", a.from(), "token", object, "reason", fault)
		return
	}
	_, err := c.update(ctx, Actor{Kind: ActorToken, Name: a.Token, From: a.From}, func(ch *change) error {
		ch.record("token.refused", object, fault)
		return nil
	})
	if err != nil {
		c.log.Error("a refused token is not in the audit log", "from", a.from(), "token", object, "reason", fault, "err", err)
	}
}
