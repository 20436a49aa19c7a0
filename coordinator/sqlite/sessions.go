package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"time"
)

// Sessions keeps the pages' sessions. It satisfies the store interfaces of alexedwards/scs/v2 (Store and CtxStore). Tokens are stored as
// their SHA-256: a copy of the database signs nobody in.
type Sessions struct{ s *Store }

// Sessions returns the sessions in the same file. They end with the store.
func (s *Store) Sessions() *Sessions { return &Sessions{s} }

// maxSessionData bounds what one session may hold.
const maxSessionData = 64 << 10

// FindCtx returns a session's data; false when it is unknown or over.
func (p *Sessions) FindCtx(ctx context.Context, token string) (data []byte, found bool, err error) {
	hash := sha256.Sum256([]byte(token))
	err = p.s.reader.QueryRowContext(ctx, "SELECT data FROM page_sessions WHERE hash = ? AND expires > ?", hash[:], millis(now())).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, p.s.failure("read database", err)
	}
	return data, true, nil
}

// CommitCtx stores or replaces a session, and forgets those that are over.
func (p *Sessions) CommitCtx(ctx context.Context, token string, data []byte, expiry time.Time) error {
	if len(data) > maxSessionData {
		return errors.New("a page session of more than 64 KiB")
	}
	hash := sha256.Sum256([]byte(token))
	return p.s.transact(ctx, p.s.writer, "change", func(t *tx) error {
		if _, err := t.exec("DELETE FROM page_sessions WHERE expires <= ?", millis(t.now)); err != nil {
			return err
		}
		_, err := t.exec("INSERT OR REPLACE INTO page_sessions (hash, data, expires) VALUES (?, ?, ?)", hash[:], notNil(data), millis(expiry))
		return err
	})
}

// DeleteCtx ends a session; an unknown one is no error.
func (p *Sessions) DeleteCtx(ctx context.Context, token string) error {
	hash := sha256.Sum256([]byte(token))
	return p.s.transact(ctx, p.s.writer, "change", func(t *tx) error {
		_, err := t.exec("DELETE FROM page_sessions WHERE hash = ?", hash[:])
		return err
	})
}

// errNoContext is for scs's older methods, which it does not call on a store that has the newer ones.
var errNoContext = errors.New("page sessions need a context: use the methods that take one")

// Find is refused: use FindCtx.
func (p *Sessions) Find(string) ([]byte, bool, error) { return nil, false, errNoContext }

// Commit is refused: use CommitCtx.
func (p *Sessions) Commit(string, []byte, time.Time) error { return errNoContext }

// Delete is refused: use DeleteCtx.
func (p *Sessions) Delete(string) error { return errNoContext }
