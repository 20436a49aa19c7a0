package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"picket.internal/coordinator"
)

// tx is one transaction. It satisfies coordinator.Tx; a reading one's writes are refused by the connection (query_only).
type tx struct {
	ctx context.Context // of the Update or View it belongs to, and no longer than that
	sql *sql.Tx
	now time.Time
}

var _ coordinator.Tx = (*tx)(nil)

func (t *tx) Now() time.Time { return t.now }

// exec runs a statement and returns how many rows it changed. A broken uniqueness is ErrTaken.
func (t *tx) exec(query string, args ...any) (int64, error) {
	r, err := t.sql.ExecContext(t.ctx, query, args...)
	if err != nil {
		var e *sqlite.Error
		if errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY) {
			return 0, coordinator.ErrTaken
		}
		return 0, err
	}
	return r.RowsAffected()
}

// one runs a statement that must change exactly one row.
func (t *tx) one(query string, args ...any) error {
	n, err := t.exec(query, args...)
	if err == nil && n != 1 {
		return coordinator.ErrNoRow
	}
	return err
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(...any) error }

// get reads one row; ErrNoRow when there is none.
func get[T any](t *tx, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	v, err := scan(t.sql.QueryRowContext(t.ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return v, coordinator.ErrNoRow
	}
	return v, err
}

// list reads all rows.
func list[T any](t *tx, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := t.sql.QueryContext(t.ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// value scans a single column.
func value[T any](s scanner) (v T, err error) {
	err = s.Scan(&v)
	return v, err
}

// millis is a time as it is stored; the zero time is 0.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// stamp scans into a time.
type stamp struct{ t *time.Time }

func (s stamp) Scan(v any) error {
	ms, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a time stored as %T", v)
	}
	*s.t = fromMillis(ms)
	return nil
}

// fixed scans into 32 bytes.
type fixed struct{ b *[32]byte }

func (f fixed) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(f.b) {
		return errors.New("a hash or key that has not 32 bytes")
	}
	copy(f.b[:], b)
	return nil
}

// document scans JSON text into v.
type document struct{ v any }

func (d document) Scan(v any) error {
	s, ok := v.(string)
	if !ok {
		return fmt.Errorf("JSON stored as %T", v)
	}
	return json.Unmarshal([]byte(s), d.v)
}

// text is v as JSON text.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("a stored type that JSON cannot hold: " + err.Error())
	}
	return string(b)
}

// tagList is tags as stored: never null, so that a tagless node is "[]".
func tagList(tags []string) string {
	if len(tags) == 0 {
		return "[]"
	}
	return text(tags)
}

// notNil keeps an empty blob from being stored as NULL.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
