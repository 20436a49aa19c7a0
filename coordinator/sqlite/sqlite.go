// Package sqlite keeps the coordinator's state in one SQLite file.
//
// The file is in WAL mode with synchronous=FULL: what was committed survives the process and the machine. One connection writes, so that
// transactions stand in line instead of failing; others read. Its application id is "Pckt", and it holds the id of the one network it
// belongs to: Open refuses a file of another kind, another network, a newer version or with damage before it writes anything to it.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID is in the file's header (offset 68): "Pckt".
const applicationID = 0x50636b74

// Refusals of Open; each is wrapped with the path and what to do.
var (
	ErrForeign = errors.New("not this network's database")
	ErrNewer   = errors.New("the database is from a newer version")
	ErrCorrupt = errors.New("the database is damaged")
)

// Store is an open database. It satisfies coordinator.Store.
type Store struct {
	path   string
	writer *sql.DB
	reader *sql.DB
}

// readers is how many reads go on at once.
const readers = 4

// Open opens the database at path, which must be network's, and brings it to this version's schema. A file that does not exist is made,
// whole or not at all; one that exists but holds nothing is refused. Whoever knows that the network had a database before must look
// first whether it is still there: an empty one in its place would start the network over (R22).
// Errors wrap ErrForeign, ErrNewer or ErrCorrupt; a full disk is a *coordinator.Error. Close the store after use.
func Open(ctx context.Context, path string, network protocol.NetworkID) (*Store, error) {
	if err := protocol.CheckNetworkID(network); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = create(ctx, path, network)
	case err == nil && info.Size() == 0: // SQLite would remove the WAL beside it, which may be all that is left
		err = holdsNothing(path)
	case err == nil:
		err = (&Store{path: path}).inspect(ctx, network)
	}
	if err != nil {
		return nil, err
	}
	s := &Store{path: path}
	if err := s.open(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// create makes the database under another name, and gives it its own when everything is in it.
func create(ctx context.Context, path string, network protocol.NetworkID) error {
	draft := path + ".new"
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} { // of an attempt that was cut short
		if err := os.Remove(draft + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("create database: %w", err)
		}
	}
	f, err := os.OpenFile(draft, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	defer f.Close()
	if err := fill(ctx, draft, network); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	if err := os.Rename(draft, path); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// fill makes an empty file a database of network, with nothing of it left in a WAL beside it, which would not get the file's name.
func fill(ctx context.Context, path string, network protocol.NetworkID) (err error) {
	s := &Store{path: path}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	if _, err := s.writer.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return s.failure("create database", err)
	}
	_, err = s.writer.ExecContext(ctx, "INSERT INTO network (one, id, generation, generation_at) VALUES (1, ?, 1, ?)", string(network), now().UnixMilli())
	if err != nil {
		return s.failure("create database", err)
	}
	return s.foldWAL(ctx)
}

// foldWAL moves all of the WAL into the file. Close tries the same, but says nothing when it fails, as it does on a full disk.
func (s *Store) foldWAL(ctx context.Context) error {
	var busy, pages, moved int
	if err := s.writer.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil {
		return s.failure("create database", err)
	}
	if busy != 0 || pages != moved {
		return fmt.Errorf("create database %s: %d of %d pages reached the file: is another program using it?", s.path, moved, pages)
	}
	return nil
}

// syncDir makes a rename last. Some systems cannot sync a directory: there it is no error.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	defer d.Close()
	_ = d.Sync()
	return nil
}

// dsn names the file with how transactions begin, and with pragmas, which hold for each connection.
func dsn(path, begin string, pragmas ...string) string {
	q := url.Values{"_txlock": {begin}, "_pragma": append([]string{"busy_timeout(5000)", "foreign_keys(1)"}, pragmas...)}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// inspect refuses an existing file that is not network's sound database, without writing to it: it is opened for reading alone, or closing
// it would fold the WAL beside it into the file, whosever that is.
func (s *Store) inspect(ctx context.Context, network protocol.NetworkID) error {
	db, err := sql.Open("sqlite", dsn(s.path, "deferred", "query_only(1)")+s.forReading())
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	var id, tables int
	err = db.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM sqlite_schema), (SELECT application_id FROM pragma_application_id)").Scan(&tables, &id)
	switch {
	case err != nil:
		return s.inspection(err)
	case tables == 0 && id == 0:
		return holdsNothing(s.path)
	case id != applicationID:
		return fmt.Errorf("open database %s: %w: it belongs to another program; choose another directory", s.path, ErrForeign)
	}
	return s.inspectOurs(ctx, db, network)
}

// forReading completes a dsn for a look that leaves no trace. Reading through a WAL takes a file of shared memory, which is all that then
// appears; without a WAL not even that.
func (s *Store) forReading() string {
	if info, err := os.Stat(s.path + "-wal"); err == nil && info.Size() > 0 {
		return "&mode=ro"
	}
	return "&immutable=1"
}

func holdsNothing(path string) error {
	return fmt.Errorf("open database %s: %w (it holds nothing): restore it from a backup", path, ErrCorrupt)
}

func (s *Store) inspectOurs(ctx context.Context, db *sql.DB, network protocol.NetworkID) error {
	var check string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&check); err != nil {
		return s.inspection(err)
	}
	if check != "ok" {
		return fmt.Errorf("open database %s: %w (%s): restore it from a backup", s.path, ErrCorrupt, check)
	}
	newest, err := newestMigration()
	if err != nil {
		return err
	}
	var version int64
	if err := db.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied = 1").Scan(&version); err != nil {
		return s.inspection(err)
	}
	if version > newest {
		return fmt.Errorf("open database %s: %w of picket-coordinator (its schema is %d, this version knows %d): start the newer version", s.path, ErrNewer, version, newest)
	}
	var have string
	err = db.QueryRowContext(ctx, "SELECT id FROM network").Scan(&have)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("open database %s: %w (it does not say which network it is of): restore it from a backup", s.path, ErrCorrupt)
	case err != nil:
		return s.inspection(err)
	case have != string(network):
		return fmt.Errorf("open database %s: %w: it is of the network %s, the keys beside it are of %s; put back what belongs together", s.path, ErrForeign, have, network)
	}
	return nil
}

// inspection puts an error of looking into words.
func (s *Store) inspection(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		if isFull(e) {
			return s.full()
		}
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR: // the last: a table that must be there is not
			return fmt.Errorf("open database %s: %w (%s): restore it from a backup", s.path, ErrCorrupt, e.Error())
		}
	}
	return fmt.Errorf("open database %s: %w", s.path, err)
}

// newestMigration is the version this program brings a database to.
func newestMigration() (newest int64, err error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	for _, name := range names {
		number, _, _ := strings.Cut(filepath.Base(name), "_")
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("migration %s has no number: %w", name, err)
		}
		newest = max(newest, v)
	}
	return newest, err
}

func (s *Store) open(ctx context.Context) error {
	var err error
	if s.writer, err = sql.Open("sqlite", dsn(s.path, "immediate", "journal_mode(WAL)", "synchronous(FULL)", "recursive_triggers(1)")); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	s.writer.SetMaxOpenConns(1)
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if s.reader, err = sql.Open("sqlite", dsn(s.path, "deferred", "query_only(1)")); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	s.reader.SetMaxOpenConns(readers)
	return nil
}

func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.writer, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return s.failure("migrate database", err)
	}
	return nil
}

// Close ends all use of the file.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.reader, s.writer} { // the writer last: its closing folds the WAL into the file
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// now is the database's clock: SQLite runs in this process and has none of its own.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// Update implements coordinator.Store.
func (s *Store) Update(ctx context.Context, fn func(coordinator.Tx) error) error {
	return s.transact(ctx, s.writer, "change", func(t *tx) error { return fn(t) })
}

// View implements coordinator.Store.
func (s *Store) View(ctx context.Context, fn func(coordinator.ReadTx) error) error {
	return s.transact(ctx, s.reader, "read", func(t *tx) error { return fn(t) })
}

// transact begins, runs fn, and commits when it returns nil. Errors of the database itself go through failure, whichever call met them.
func (s *Store) transact(ctx context.Context, db *sql.DB, what string, fn func(*tx) error) error {
	t, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: db == s.reader})
	if err != nil {
		return s.failure(what+" database", err)
	}
	defer t.Rollback() // after Commit it does nothing
	if err := fn(&tx{ctx: ctx, sql: t, now: now()}); err != nil {
		return s.failure(what+" database", err)
	}
	if err := t.Commit(); err != nil {
		return s.failure("commit to database", err)
	}
	return nil
}

// failure puts into words what people can do something about, and names the file in the rest. What fn made up itself passes unchanged.
func (s *Store) failure(what string, err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	if isFull(e) {
		return s.full()
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_READONLY:
		return &coordinator.Error{Code: protocol.CodeUnavailable, Message: fmt.Sprintf("the disk holding %s takes no writes: mount it writable", filepath.Dir(s.path))}
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%s %s: %w: %w", what, s.path, ErrCorrupt, err)
	}
	return fmt.Errorf("%s %s: %w", what, s.path, err)
}

// isFull takes the file of shared memory beside the database into account: it grows at opening.
func isFull(e *sqlite.Error) bool {
	return e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE
}

func (s *Store) full() error {
	return &coordinator.Error{Code: protocol.CodeUnavailable, Message: fmt.Sprintf("the disk holding %s is full: make room there", filepath.Dir(s.path))}
}
