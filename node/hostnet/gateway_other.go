//go:build !linux

package hostnet

import (
	"errors"
	"net/netip"
	"syscall"
)

// MarkSocket does nothing.
func MarkSocket(_, _ string, _ syscall.RawConn) error { return nil }

// DefaultRoutes is empty: they are not read on this system.
func DefaultRoutes() string { return "" }

// Gateway finds none.
func Gateway() (router, own netip.Addr, err error) {
	return router, own, errors.New("the default gateway is not looked up on this system")
}
