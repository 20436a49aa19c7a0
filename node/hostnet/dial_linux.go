package hostnet

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dial opens a connection that no exit node and no network behind a peer is the way for: it carries Mark, and so do the questions to the
// resolver that it takes. It needs CAP_NET_ADMIN. timeout bounds connecting.
func Dial(timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	mark := func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, Mark) }); err != nil {
			return err
		}
		return failed
	}
	resolver := &net.Resolver{PreferGo: true, Dial: (&net.Dialer{Control: mark}).DialContext}
	return (&net.Dialer{Timeout: timeout, Control: mark, Resolver: resolver}).DialContext
}
