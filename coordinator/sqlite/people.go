package sqlite

import (
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator"
)

const userColumns = "id, login, role, active, password, totp, totp_step, created"

func scanUser(s scanner) (u coordinator.UserRow, err error) {
	err = s.Scan(&u.ID, &u.Login, &u.Role, &u.Active, &u.Password, &u.TOTP, &u.TOTPStep, stamp{&u.Created})
	return u, err
}

func (t *tx) Users() ([]coordinator.UserRow, error) {
	return list(t, scanUser, "SELECT "+userColumns+" FROM users ORDER BY login")
}

func (t *tx) UserByID(id acl.UserID) (coordinator.UserRow, error) {
	return get(t, scanUser, "SELECT "+userColumns+" FROM users WHERE id = ?", string(id))
}

func (t *tx) UserByLogin(login string) (coordinator.UserRow, error) {
	return get(t, scanUser, "SELECT "+userColumns+" FROM users WHERE login = ?", login)
}

func (t *tx) InsertUser(u coordinator.UserRow) error {
	_, err := t.exec("INSERT INTO users ("+userColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		string(u.ID), u.Login, string(u.Role), u.Active, u.Password, notNil(u.TOTP), u.TOTPStep, millis(u.Created))
	return err
}

func (t *tx) UpdateUser(u coordinator.UserRow) error {
	return t.one("UPDATE users SET login = ?, role = ?, active = ?, password = ?, totp = ?, totp_step = ? WHERE id = ?",
		u.Login, string(u.Role), u.Active, u.Password, notNil(u.TOTP), u.TOTPStep, string(u.ID))
}

func (t *tx) DeleteUser(id acl.UserID) error {
	if err := t.DropSetups(id); err != nil {
		return err
	}
	return t.one("DELETE FROM users WHERE id = ?", string(id)) // recovery codes go with it
}

func (t *tx) AdvanceTOTP(id acl.UserID, step int64) (bool, error) {
	n, err := t.exec("UPDATE users SET totp_step = ?1 WHERE id = ?2 AND totp_step < ?1", step, string(id))
	return n == 1, err
}

func (t *tx) SetRecovery(id acl.UserID, macs [][32]byte) error {
	if _, err := t.exec("DELETE FROM recovery_codes WHERE user = ?", string(id)); err != nil {
		return err
	}
	for _, mac := range macs {
		if _, err := t.exec("INSERT INTO recovery_codes (user, mac) VALUES (?, ?)", string(id), mac[:]); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) SpendRecovery(id acl.UserID, mac [32]byte) (bool, error) {
	n, err := t.exec("DELETE FROM recovery_codes WHERE user = ? AND mac = ?", string(id), mac[:])
	return n == 1, err
}

func scanSetup(s scanner) (r coordinator.SetupRow, err error) {
	err = s.Scan(fixed{&r.Hash}, &r.User, stamp{&r.Expires})
	return r, err
}

func (t *tx) Setup(hash [32]byte) (coordinator.SetupRow, error) {
	return get(t, scanSetup, "SELECT hash, user, expires FROM setup_tokens WHERE hash = ?", hash[:])
}

func (t *tx) InsertSetup(r coordinator.SetupRow) error {
	_, err := t.exec("INSERT INTO setup_tokens (hash, user, expires) VALUES (?, ?, ?)", r.Hash[:], string(r.User), millis(r.Expires))
	return err
}

func (t *tx) SpendSetup(hash [32]byte) (bool, error) {
	n, err := t.exec("DELETE FROM setup_tokens WHERE hash = ?", hash[:])
	return n == 1, err
}

func (t *tx) DropSetups(id acl.UserID) error {
	_, err := t.exec("DELETE FROM setup_tokens WHERE user = ?", string(id))
	return err
}

// Try also forgets the tries of every bucket that are older than the window, so that the table holds no more than is needed.
func (t *tx) Try(bucket string, limit int, window time.Duration) (bool, error) {
	if _, err := t.exec("DELETE FROM tries WHERE at <= ?", millis(t.now.Add(-window))); err != nil {
		return false, err
	}
	n, err := t.exec("INSERT INTO tries (bucket, at) SELECT ?1, ?2 WHERE (SELECT count(*) FROM tries WHERE bucket = ?1) < ?3", bucket, millis(t.now), limit)
	return n == 1, err
}

func (t *tx) ClearTries(bucket string) error {
	_, err := t.exec("DELETE FROM tries WHERE bucket = ?", bucket)
	return err
}

func (t *tx) TakeBackTry(bucket string) error {
	_, err := t.exec("DELETE FROM tries WHERE rowid = (SELECT rowid FROM tries WHERE bucket = ? ORDER BY at DESC, rowid DESC LIMIT 1)", bucket)
	return err
}
