//go:build unix

package keydir

import (
	"errors"
	"os"
	"syscall"
)

// noFollow keeps a planted symbolic link from being opened in a file's place.
const noFollow = syscall.O_NOFOLLOW

func tryLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}
