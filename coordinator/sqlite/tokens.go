package sqlite

import (
	"picket.internal/acl"
	"picket.internal/coordinator"
)

const tokenColumns = "id, hash, scope, note, created, expires, used, revoked, made_by, user"

func scanToken(s scanner) (r coordinator.TokenRow, err error) {
	err = s.Scan(&r.ID, fixed{&r.Hash}, &r.Scope, &r.Note, stamp{&r.Created}, stamp{&r.Expires}, stamp{&r.Used}, &r.Revoked, &r.By, &r.User)
	return r, err
}

func (t *tx) Tokens() ([]coordinator.TokenRow, error) {
	return list(t, scanToken, "SELECT "+tokenColumns+" FROM tokens ORDER BY created DESC, id")
}

func (t *tx) TokenByHash(hash [32]byte) (coordinator.TokenRow, error) {
	return get(t, scanToken, "SELECT "+tokenColumns+" FROM tokens WHERE hash = ?", hash[:])
}

func (t *tx) ValidToken(id string) (coordinator.TokenRow, error) {
	return get(t, scanToken, "SELECT "+tokenColumns+" FROM tokens WHERE id = ? AND revoked = 0 AND expires > ?", id, millis(t.now))
}

func (t *tx) InsertToken(r coordinator.TokenRow) error {
	_, err := t.exec("INSERT INTO tokens ("+tokenColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		r.ID, r.Hash[:], string(r.Scope), r.Note, millis(r.Created), millis(r.Expires), millis(r.Used), r.Revoked, r.By, string(r.User))
	return err
}

func (t *tx) UseToken(id string) error {
	return t.one("UPDATE tokens SET used = ? WHERE id = ?", millis(t.now), id)
}

func (t *tx) RevokeToken(id string) (bool, error) {
	n, err := t.exec("UPDATE tokens SET revoked = 1 WHERE id = ? AND revoked = 0", id)
	return n == 1, err
}

func (t *tx) RevokeTokensOf(id acl.UserID) (int, error) {
	n, err := t.exec("UPDATE tokens SET revoked = 1 WHERE user = ? AND revoked = 0", string(id))
	return int(n), err
}
