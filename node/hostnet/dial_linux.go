package hostnet

import (
	"context"
	"net"
	"time"
)

// Dial opens a connection that no exit node and no network behind a peer is the way for: it carries Mark, and so do the questions to the
// resolver that it takes. It needs CAP_NET_ADMIN. timeout bounds connecting.
func Dial(timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	resolver := &net.Resolver{PreferGo: true, Dial: (&net.Dialer{Control: MarkSocket}).DialContext}
	return (&net.Dialer{Timeout: timeout, Control: MarkSocket, Resolver: resolver}).DialContext
}
