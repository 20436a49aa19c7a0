package wgtun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/wgtun/hosttun"
)

// Why a TUN device cannot be had; each text ends with what to do.
var (
	ErrNoTUN        = errors.New("/dev/net/tun is missing: load the tun module or use --tun=userspace")
	ErrTUNPrivilege = errors.New("making a TUN device needs privilege: run as root or use --tun=userspace")
	ErrTUNBusy      = errors.New("another program holds a TUN device of this name: choose another name or stop that program")
)

// cloneDevice is what Linux makes TUN devices from.
const cloneDevice = "/dev/net/tun"

// OpenTUN makes an operating-system TUN device; it needs privilege. name may be a pattern the system understands ("picket%d"
// on Linux). The error wraps ErrNoTUN, ErrTUNPrivilege or ErrTUNBusy where one of them is the reason.
func OpenTUN(name string, mtu int) (tun.Device, error) {
	if runtime.GOOS == "linux" {
		if _, err := os.Stat(cloneDevice); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open TUN device %s: %w", name, ErrNoTUN)
		}
	}
	d, err := hosttun.Open(name, mtu)
	if err != nil {
		return nil, fmt.Errorf("open TUN device %s: %w", name, tunError(err))
	}
	return d, nil
}

// tunError names the reason behind a system's error, where it is one with a remedy.
func tunError(err error) error {
	switch {
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w (%w)", ErrNoTUN, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w (%w)", ErrTUNPrivilege, err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w (%w)", ErrTUNBusy, err)
	}
	return err
}
