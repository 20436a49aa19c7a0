package localapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Listen opens the socket at path, making its directory when needed. The directory must belong to root or to us and be writable by
// nobody else, or somebody could put a socket of his own there. A socket on which nobody answers is replaced; one on which an agent
// answers, and a file that is no socket, is refused.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := prepareDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the socket %s: %s; name another with --socket", path, plain(err))
	}
	// Whatever the umask was. Until here the check of credentials on each connection keeps others out.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("set the mode of %s: %s", path, plain(err))
	}
	return l, nil
}

func prepareDir(dir string) error {
	mode := fs.FileMode(0o755)
	if os.Geteuid() > 0 {
		mode = 0o700
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make the directory %s for the socket: %s; run as root or name another with --socket", dir, plain(err))
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at %s: %s", dir, plain(err))
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory: name another with --socket", dir)
	}
	if !onlyOursToWrite(info) {
		return fmt.Errorf("%s can be written by other users, who could put a socket of theirs there: name another with --socket", dir)
	}
	return nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %s", path, plain(err))
	}
	if info.Mode()&fs.ModeSocket == 0 && !socketsLookLikeFiles {
		return fmt.Errorf("%s is there and is no socket: move it aside, or name another with --socket", path)
	}
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
		return fmt.Errorf("another agent answers on %s: stop that one, or name another socket with --socket", path)
	}
	if !isRefused(err) {
		return fmt.Errorf("another agent may be using %s (%s): stop that one, or name another socket with --socket", path, plain(err))
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stale socket %s: %s", path, plain(err))
	}
	return nil
}

// plain is the innermost sentence of an operating-system error.
func plain(err error) string {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err.Error()
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
