// Package keydir keeps the directory a coordinator lives in: its keys, its certificate, and the lock on it.
//
// The directory holds, all of mode 0600 in a directory of mode 0700:
//
//	coordinator.json   network id, coordinator key, salt; written last when the directory is made
//	ca.crt             certificate authority whose key is the coordinator key
//	tls.crt tls.key    certificate for HTTPS, signed by it; made anew when it nears its end or the names change
//	picket.db          the store
//	lock               held while a coordinator runs
//
// A directory is made whole or not at all: until coordinator.json says "ready", a start goes on making it. One that holds
// files but no coordinator.json, or whose store is gone, is refused: filling it anew would quietly found another network.
package keydir

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

const (
	identityFile = "coordinator.json"
	databaseFile = "picket.db"
	lockFile     = "lock"
	socketFile   = "operator.sock"
	formatNow    = 1
	maxIdentity  = 64 << 10 // bytes
)

// Error is a directory that cannot be used, in one sentence that says what to do.
type Error struct{ Message string }

func (e *Error) Error() string { return e.Message }

func refuse(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Dir is an open, locked directory.
type Dir struct {
	Path    string
	Key     key.CoordinatorPrivate
	Network protocol.NetworkID
	Salt    []byte // 32 bytes
	Fresh   bool   // made, or still being made, by this start
	lock    *os.File
}

// identity is coordinator.json.
type identity struct {
	Format  int                    `json:"format"`
	State   string                 `json:"state"` // "making" until the store exists, then "ready"
	Network protocol.NetworkID     `json:"network"`
	Key     key.CoordinatorPrivate `json:"key"`
	Salt    []byte                 `json:"salt"`
	Created time.Time              `json:"created"`
}

// Socket is where a coordinator in dir answers its operators.
func Socket(dir string) string { return filepath.Join(dir, socketFile) }

// Database is the store's file.
func (d *Dir) Database() string { return filepath.Join(d.Path, databaseFile) }

// Open locks dir and reads its identity, making both where dir is absent or empty. Every refusal is an *Error.
func Open(dir string) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, refuse("cannot make %s: %v: choose another --dir, or run as a user who may write there", dir, reason(err))
	}
	if err := checkMode(dir); err != nil {
		return nil, err
	}
	names, err := contents(dir)
	if err != nil {
		return nil, refuse("cannot read %s: %v: run as the user it belongs to", dir, reason(err))
	}
	lock, err := acquire(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, err
	}
	d, err := load(dir, names)
	if err != nil {
		lock.Close()
		return nil, err
	}
	d.lock = lock
	return d, nil
}

// Close gives the directory free.
func (d *Dir) Close() error { return d.lock.Close() }

// Ready records that the store exists: from now on its absence is a loss, not a beginning.
func (d *Dir) Ready() error {
	if !d.Fresh {
		return nil
	}
	if err := d.write("ready"); err != nil {
		return err
	}
	d.Fresh = false
	return nil
}

func load(dir string, names []string) (*Dir, error) {
	path := filepath.Join(dir, identityFile)
	text, err := readBounded(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(names) == 0:
		return found(dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil, refuse("%s holds files (%s) but no %s, so it is not, or no longer, a coordinator's: name an empty directory to found a network, or restore %s from a backup",
			dir, some(names), identityFile, identityFile)
	case err != nil:
		return nil, refuse("cannot read %s: %v", path, reason(err))
	}
	id, err := parse(text)
	if err != nil {
		return nil, refuse("%s is damaged (%v): restore it from a backup; without it the network's nodes cannot be served", path, err)
	}
	if id.Format > formatNow {
		return nil, refuse("%s was written by a newer Picket (format %d; this one reads up to %d): start that version, or restore an older backup", path, id.Format, formatNow)
	}
	d := &Dir{Path: dir, Key: id.Key, Network: id.Network, Salt: id.Salt, Fresh: id.State == "making"}
	if _, err := os.Stat(d.Database()); !d.Fresh && errors.Is(err, fs.ErrNotExist) {
		return nil, refuse("%s is gone, though the keys of its network are in %s: restore the database from a backup, or found a new network in an empty directory", d.Database(), dir)
	}
	return d, nil
}

// found makes a new network's identity.
func found(dir string) (*Dir, error) {
	d := &Dir{Path: dir, Key: key.NewCoordinator(), Network: newNetworkID(), Salt: random(32), Fresh: true}
	return d, d.write("making")
}

func (d *Dir) write(state string) error {
	text, err := json.MarshalIndent(identity{formatNow, state, d.Network, d.Key, d.Salt, time.Now().UTC().Truncate(time.Second)}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", identityFile, err)
	}
	path := filepath.Join(d.Path, identityFile)
	err = writeAtomic(path, append(text, '\n'))
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return refuse("cannot write %s: the disk holding %s is full: make room there", path, d.Path)
	case err != nil:
		return refuse("cannot write %s: %v: run as a user who may write there, on a disk that takes writes", path, reason(err))
	}
	return nil
}

func parse(text []byte) (identity, error) {
	var id identity
	if err := json.Unmarshal(text, &id); err != nil {
		return id, errors.New("it is not the JSON that was written") // never the text: it holds a key
	}
	switch {
	case id.Format < 1:
		return id, errors.New("it names no format")
	case id.State != "making" && id.State != "ready":
		return id, errors.New("its state is unknown")
	case id.Network == "" || id.Key.IsZero() || len(id.Salt) != 32:
		return id, errors.New("it lacks the network, the key or the salt")
	}
	return id, nil
}

// newNetworkID is "net-" and 80 random bits.
func newNetworkID() protocol.NetworkID {
	return protocol.NetworkID("net-" + strings.ToLower(base32.StdEncoding.EncodeToString(random(10))))
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (Go 1.24)
	return b
}

// contents lists what is in dir besides the lock.
func contents(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if e.Name() != lockFile && !strings.HasPrefix(e.Name(), temporaryPrefix) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func some(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
