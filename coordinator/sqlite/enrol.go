package sqlite

import (
	"net/netip"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/wgtun/key"
)

const ticketColumns = "id, secret, code, device, facts, from_address, bucket, created, expires, state, wrong, node"

func scanTicket(s scanner) (r coordinator.TicketRow, err error) {
	var from string
	err = s.Scan(&r.ID, fixed{&r.Secret}, fixed{&r.Code}, fixed{(*[32]byte)(&r.Device)}, document{&r.Facts}, &from, &r.Bucket,
		stamp{&r.Created}, stamp{&r.Expires}, &r.State, &r.Wrong, &r.Node)
	if err == nil && from != "" {
		r.From, err = netip.ParseAddr(from)
	}
	return r, err
}

func (t *tx) Ticket(id string) (coordinator.TicketRow, error) {
	return get(t, scanTicket, "SELECT "+ticketColumns+" FROM tickets WHERE id = ?", id)
}

func (t *tx) OpenTickets(bucket string) (of, all int, err error) {
	err = t.sql.QueryRowContext(t.ctx, "SELECT count(*) FILTER (WHERE bucket = ?), count(*) FROM tickets WHERE state = 'pending' AND expires > ?",
		bucket, millis(t.now)).Scan(&of, &all)
	return of, all, err
}

func (t *tx) PendingTickets(d key.DevicePublic) ([]string, error) {
	return list(t, value[string], "SELECT id FROM tickets WHERE state = 'pending' AND device = ?", d[:])
}

func (t *tx) InsertTicket(r coordinator.TicketRow) error {
	from := ""
	if r.From.IsValid() {
		from = r.From.String()
	}
	_, err := t.exec("INSERT INTO tickets ("+ticketColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		r.ID, r.Secret[:], r.Code[:], r.Device[:], text(r.Facts), from, r.Bucket, millis(r.Created), millis(r.Expires), r.State, r.Wrong, string(r.Node))
	return err
}

func (t *tx) UpdateTicket(r coordinator.TicketRow) error {
	return t.one("UPDATE tickets SET state = ?, wrong = ?, node = ? WHERE id = ?", r.State, r.Wrong, string(r.Node), r.ID)
}

func (t *tx) DropTickets(expiredBefore time.Time) error {
	_, err := t.exec("DELETE FROM tickets WHERE expires < ?", millis(expiredBefore))
	return err
}

const keyColumns = "id, hash, tags, reusable, uses, created, expires, revoked, made_by, user"

func scanKey(s scanner) (k coordinator.AuthKeyRow, err error) {
	err = s.Scan(&k.ID, fixed{&k.Hash}, document{&k.Tags}, &k.Reusable, &k.Uses, stamp{&k.Created}, stamp{&k.Expires}, &k.Revoked, &k.By, &k.User)
	return k, err
}

func (t *tx) AuthKeys() ([]coordinator.AuthKeyRow, error) {
	return list(t, scanKey, "SELECT "+keyColumns+" FROM auth_keys ORDER BY created DESC, id")
}

func (t *tx) AuthKeyByHash(hash [32]byte) (coordinator.AuthKeyRow, error) {
	return get(t, scanKey, "SELECT "+keyColumns+" FROM auth_keys WHERE hash = ?", hash[:])
}

func (t *tx) InsertAuthKey(k coordinator.AuthKeyRow) error {
	_, err := t.exec("INSERT INTO auth_keys ("+keyColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		k.ID, k.Hash[:], tagList(k.Tags), k.Reusable, k.Uses, millis(k.Created), millis(k.Expires), k.Revoked, k.By, string(k.User))
	return err
}

func (t *tx) SpendAuthKey(hash [32]byte) (bool, error) {
	n, err := t.exec("UPDATE auth_keys SET uses = uses + 1 WHERE hash = ? AND revoked = 0 AND expires > ? AND (reusable = 1 OR uses = 0)", hash[:], millis(t.now))
	return n == 1, err
}

func (t *tx) RevokeAuthKey(id string) (bool, error) {
	n, err := t.exec("UPDATE auth_keys SET revoked = 1 WHERE id = ? AND revoked = 0", id)
	return n == 1, err
}

func (t *tx) RevokeAuthKeysOf(id acl.UserID) (int, error) {
	n, err := t.exec("UPDATE auth_keys SET revoked = 1 WHERE user = ? AND revoked = 0", string(id))
	return int(n), err
}
