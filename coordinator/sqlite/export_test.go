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
