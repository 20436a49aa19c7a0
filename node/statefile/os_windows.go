package statefile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// Windows has neither modes nor numeric owners: who may enter is up to the access list of the directory, which inherits from the
// user's profile. A symbolic link needs privilege to be made there.
const openNoFollow = 0

func ownedByUs(fs.FileInfo) bool { return true }

func openToOthers(fs.FileInfo) bool { return false }

func isDiskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

// syncDir does nothing: a rename is durable with the volume's journal.
func syncDir(string) error { return nil }

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, writeError(path, err)
	}
	// The locked byte lies beyond the process id, which others may read.
	at := &windows.Overlapped{Offset: 1 << 20}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, at)
	if err != nil {
		defer f.Close()
		if !errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
			return nil, &Error{path, "cannot be locked", plain(err)}
		}
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		return nil, inUse(path, string(holder[:n]))
	}
	if err := recordHolder(f, path); err != nil {
		return nil, err
	}
	return f, nil
}
