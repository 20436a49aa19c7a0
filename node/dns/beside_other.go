//go:build !linux

package dns

import (
	"context"
	"errors"
	"net"
)

// listenBeside shares a port on Linux only.
func listenBeside(context.Context, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}
