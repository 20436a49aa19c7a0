package wgtun

import (
	"errors"
	"fmt"
	"net"

	"golang.zx2c4.com/wireguard/ipc"
)

// ErrUAPIBusy is returned by ListenUAPI when another program serves a device of that name.
var ErrUAPIBusy = errors.New("another program serves a device of this name")

// ListenUAPI opens the named pipe that `wg` looks for; only administrators reach it. It needs privilege.
func ListenUAPI(name string) (net.Listener, error) {
	l, err := ipc.UAPIListen(name)
	if err != nil {
		return nil, fmt.Errorf("open the configuration pipe: %w", err)
	}
	return l, nil
}
