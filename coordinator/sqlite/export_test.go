package sqlite

import "context"

// Limit leaves the file no room to grow, as a full disk does.
func (s *Store) Limit(ctx context.Context) error {
	var pages int
	if err := s.writer.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return err
	}
	_, err := s.writer.ExecContext(ctx, "PRAGMA max_page_count = "+text(pages+2))
	return err
}

// Count returns how many rows a table has; -1 on an error.
func (s *Store) Count(ctx context.Context, table string) int {
	n := -1
	_ = s.reader.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n)
	return n
}

// Exec runs a statement as this package's own run, by the connection that writes.
func (s *Store) Exec(ctx context.Context, statement string, args ...any) error {
	_, err := s.writer.ExecContext(ctx, statement, args...)
	return err
}

// Strings lists the first column of a query.
func (s *Store) Strings(ctx context.Context, query string, args ...any) (out []string, err error) {
	err = s.transact(ctx, s.reader, "read", func(t *tx) error {
		out, err = list(t, value[string], query, args...)
		return err
	})
	return out, err
}

// KeysTakenPlan is how SQLite finds a key.
func (s *Store) KeysTakenPlan(ctx context.Context) (out []string, err error) {
	err = s.transact(ctx, s.reader, "read", func(t *tx) error {
		out, err = list(t, func(s scanner) (line string, err error) {
			var skip int
			err = s.Scan(&skip, &skip, &skip, &line)
			return line, err
		}, "EXPLAIN QUERY PLAN "+keysTaken, "n1", []byte{1}, []byte{2})
		return err
	})
	return out, err
}
