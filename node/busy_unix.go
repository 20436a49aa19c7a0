//go:build unix

package node

import (
	"errors"

	"golang.org/x/sys/unix"
)

func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }
