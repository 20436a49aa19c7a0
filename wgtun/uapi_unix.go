//go:build unix

package wgtun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// uapiDirectory is where `wg` looks for sockets of userspace devices.
const uapiDirectory = "/var/run/wireguard"

// ErrUAPIBusy is returned by ListenUAPI when another program serves a device of that name.
var ErrUAPIBusy = errors.New("another program serves a device of this name")

// ListenUAPI opens the UAPI socket that `wg` looks for: /var/run/wireguard/NAME.sock, root's alone. It needs privilege.
// A socket that a dead program left behind is replaced.
func ListenUAPI(name string) (net.Listener, error) {
	return listenUAPI(uapiDirectory, name)
}

func listenUAPI(directory, name string) (net.Listener, error) {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("open the configuration socket: %q is no device name", name)
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("open the configuration socket: %w", err)
	}
	path := filepath.Join(directory, name+".sock")
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		l, err = replaceSocket(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the configuration socket: %w", err)
	}
	// The mode is set, not left to the umask: whoever may write to the socket learns the private key.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("open the configuration socket: %w", err)
	}
	return l, nil
}

func replaceSocket(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrUAPIBusy)
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}
