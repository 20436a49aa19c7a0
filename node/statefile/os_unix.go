//go:build unix

package statefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// openNoFollow refuses a symbolic link at the end of a path and does not wait for a pipe.
const openNoFollow = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

func openToOthers(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }

func isDiskFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// takeLock holds an advisory lock on the open file: it ends with the process, however that ends.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|openNoFollow, 0o600)
	if err != nil {
		return nil, writeError(path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &Error{path, "cannot be locked", plain(err)}
		}
		holder, _ := io.ReadAll(io.LimitReader(f, 20))
		return nil, inUse(path, strings.TrimSpace(string(holder)))
	}
	if err := recordHolder(f, path); err != nil {
		return nil, err
	}
	return f, nil
}
