package wgtun

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

func TestTUNErrorNamesTheReason(t *testing.T) {
	for _, test := range []struct {
		from error
		want error
	}{
		{syscall.EPERM, ErrTUNPrivilege},
		{syscall.EACCES, ErrTUNPrivilege},
		{syscall.EBUSY, ErrTUNBusy},
		{syscall.ENODEV, ErrNoTUN},
		{fmt.Errorf("open: %w", fs.ErrNotExist), ErrNoTUN},
	} {
		err := tunError(test.from)
		if !errors.Is(err, test.want) || !errors.Is(err, test.from) {
			t.Errorf("%v became %v", test.from, err)
		}
	}
	other := errors.New("something else")
	if err := tunError(other); err != other {
		t.Errorf("an error without a remedy became %v", err)
	}
}
