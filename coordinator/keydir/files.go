package keydir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// temporaryPrefix marks files that a crash may leave behind; they never count as content.
const temporaryPrefix = ".new-"

// writeAtomic replaces path with text, mode 0600: whole after a crash at any moment, or not at all.
func writeAtomic(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporaryPrefix+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readBounded reads a secret's file: a plain one that only its owner may read.
func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read it (mode %04o): chmod 600 it, and consider its key known", info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxIdentity+1))
	if err == nil && len(text) > maxIdentity {
		err = fmt.Errorf("it is larger than %d bytes", maxIdentity)
	}
	return text, err
}

// checkMode refuses a directory that others may enter: the operators' socket and the database rest on it.
func checkMode(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return refuse("cannot look at %s: %v", dir, reason(err))
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if names, err := contents(dir); err == nil && len(names) == 0 && os.Chmod(dir, 0o700) == nil {
		return nil // an empty directory made by hand: ours to close
	}
	return refuse("others may enter %s (mode %04o): chmod 700 it", dir, info.Mode().Perm())
}

// acquire takes the lock without waiting; the system gives it free when the process ends, however it ends.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|noFollow, 0o600)
	if err != nil {
		return nil, refuse("cannot open %s: %v", path, reason(err))
	}
	switch err := tryLock(f); {
	case errors.Is(err, errLocked):
		f.Close()
		return nil, refuse("another coordinator runs in %s: stop it first, or name another --dir", filepath.Dir(path))
	case err != nil:
		f.Close()
		return nil, refuse("cannot lock %s: %v", path, reason(err))
	}
	return f, nil
}

// errLocked says that another process holds the lock.
var errLocked = errors.New("locked by another process")

// reason is an error without the path that the sentence around it already names.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
