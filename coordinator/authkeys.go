package coordinator

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"picket.internal/coordinator/protocol"
)

// An auth key's text is "picket-key-", the key's id (8 bytes), a hyphen and a secret of 32 bytes, both in lower-case base32 without
// padding. Only the SHA-256 of the whole text is stored.
const authKeyPrefix = "picket-key-"

// Life of an auth key.
const (
	defaultKeyLife = time.Hour
	maxKeyLife     = 90 * 24 * time.Hour
)

// maxKeyTags bounds NewAuthKey.Tags.
const maxKeyTags = 16

// AuthKey is an auth key without its secret.
type AuthKey struct {
	ID       string    `json:"id"`
	Tags     []string  `json:"tags"`
	Reusable bool      `json:"reusable"`
	Uses     int       `json:"uses"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Revoked  bool      `json:"revoked"`
	By       string    `json:"by"`
	State    string    `json:"state"` // "valid", "spent", "expired", "revoked"
}

// NewAuthKey is what CreateAuthKey makes. Tags are needed: keys cannot mint persons.
type NewAuthKey struct {
	Tags     []string
	Reusable bool
	Life     time.Duration // 0: 1 h; at most 90 days
}

func (k AuthKeyRow) view(now time.Time) AuthKey {
	return AuthKey{ID: k.ID, Tags: k.Tags, Reusable: k.Reusable, Uses: k.Uses, Created: k.Created, Expires: k.Expires, Revoked: k.Revoked,
		By: k.By, State: k.state(now)}
}

func (k AuthKeyRow) state(now time.Time) string {
	switch {
	case k.Revoked:
		return "revoked"
	case !k.Reusable && k.Uses > 0:
		return "spent"
	case !now.Before(k.Expires):
		return "expired"
	}
	return "valid"
}

// CreateAuthKey returns the key's text ("picket-key-…"), shown once; only its hash is stored.
func (c *Coordinator) CreateAuthKey(ctx context.Context, a Actor, k NewAuthKey) (AuthKey, string, error) {
	row := AuthKeyRow{ID: token(8), Tags: slices.Compact(slices.Sorted(slices.Values(k.Tags))), Reusable: k.Reusable, By: a.String(), User: a.User}
	text := authKeyPrefix + row.ID + "-" + token(32)
	row.Hash = tokenHash(text)
	_, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightAuthKeys); err != nil {
			return err
		}
		if err := ch.checkNewKey(k); err != nil {
			return err
		}
		life := k.Life
		if life == 0 {
			life = defaultKeyLife
		}
		row.Created, row.Expires = ch.Now(), ch.Now().Add(life)
		ch.record("key.create", row.ID, strings.Join(row.Tags, " ")+", until "+row.Expires.Format(time.RFC3339))
		return ch.InsertAuthKey(row)
	})
	if err != nil {
		return AuthKey{}, "", c.outward(ctx, err)
	}
	return row.view(c.now()), text, nil
}

func (ch *change) checkNewKey(k NewAuthKey) error {
	switch {
	case len(k.Tags) == 0:
		return refuse(CodeInvalid, "an auth key needs at least one tag: people join by logging in")
	case len(k.Tags) > maxKeyTags:
		return refuse(CodeInvalid, "an auth key has at most %d tags", maxKeyTags)
	case k.Life < 0 || k.Life > maxKeyLife:
		return refuse(CodeInvalid, "an auth key lives for at most %d days", int(maxKeyLife.Hours()/24))
	}
	return ch.knownTags(k.Tags)
}

// knownTags refuses tags that the policy in force, as this transaction reads it, does not define.
func (ch *change) knownTags(tags []string) error {
	row, err := ch.Policy()
	if err != nil && !errors.Is(err, ErrNoRow) {
		return err
	}
	p, err := ch.c.policy.parsed(row)
	if err != nil {
		return err
	}
	for _, t := range tags {
		if !p.HasTag(t) {
			return refuse(CodeInvalid, "the policy in force has no %s in its tagOwners: add it there first", oneLine(t, 80))
		}
	}
	return nil
}

// spendKey uses a key once, if it still may be: not revoked, expired or spent, its tags still in the policy, and who made it still one who
// may (R26). The last word has the conditional update (R4).
func (ch *change) spendKey(hash [32]byte, k AuthKeyRow) error {
	if s := k.state(ch.Now()); s != "valid" {
		return refuse(protocol.CodeAuthKey, "this auth key is %s: ask for a new one", s)
	}
	if k.User != "" {
		if ch.c.emergency.gone(k.User) {
			return refuse(protocol.CodeAuthKey, "who made this auth key was removed: ask for a new one")
		}
		if _, err := reachOf(ch, Actor{Kind: ActorUser, User: k.User}, rightAuthKeys); isStorage(err) {
			return err
		} else if err != nil {
			return refuse(protocol.CodeAuthKey, "who made this auth key may not do so any more: ask for a new one")
		}
	}
	if err := ch.knownTags(k.Tags); isStorage(err) {
		return err
	} else if err != nil {
		return refuse(protocol.CodeAuthKey, "this auth key cannot be used: %s", err)
	}
	ok, err := ch.SpendAuthKey(hash)
	if err == nil && !ok {
		return refuse(protocol.CodeAuthKey, "this auth key is spent: ask for a new one")
	}
	return err
}

// AuthKeys lists them, newest first.
func (c *Coordinator) AuthKeys(ctx context.Context, a Actor) ([]AuthKey, error) {
	out := []AuthKey{}
	err := c.store.View(ctx, func(tx ReadTx) error {
		if _, err := reachOf(tx, a, rightAuthKeys); err != nil {
			return err
		}
		rows, err := tx.AuthKeys()
		for _, k := range rows {
			out = append(out, k.view(tx.Now()))
		}
		return err
	})
	return out, c.outward(ctx, err)
}

// RevokeAuthKey makes a key useless; nodes it admitted stay.
func (c *Coordinator) RevokeAuthKey(ctx context.Context, a Actor, id string) error {
	_, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightAuthKeys); err != nil {
			return err
		}
		ok, err := ch.RevokeAuthKey(id)
		if err == nil && !ok {
			return refuse(CodeNotFound, "there is no auth key %s that is not revoked already", oneLine(id, 40))
		}
		ch.record("key.revoke", id, "")
		return err
	})
	return c.outward(ctx, err)
}
