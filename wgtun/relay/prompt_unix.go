//go:build unix

package relay

import (
	"errors"
	"syscall"
)

const canTry = true

// writeNow writes what a non-blocking socket takes at once, which may be nothing.
func writeNow(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, syscall.EAGAIN):
			return 0, nil
		case !errors.Is(err, syscall.EINTR):
			return 0, err
		}
	}
}
