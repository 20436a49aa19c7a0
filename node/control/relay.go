package control

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/coder/websocket"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/relay"
)

// maxRelayMessage bounds one message of a relay's, in bytes. The stream in it is cut anywhere.
const maxRelayMessage = 1 << 20

// Relay opens a stream to the relay at the URL: one WebSocket, which HTTP proxies and TLS-terminating ones let through. Nothing rests on TLS beyond
// that the server is the one named: what goes over the stream proves itself. The stream ends with ctx. Every error is one of this package's.
func (c *Client) Relay(ctx context.Context) (net.Conn, error) {
	dctx, cancel := context.WithTimeout(ctx, 2*c.timing.Request)
	defer cancel()
	client, cork := corked(c.http)
	ws, resp, err := websocket.Dial(dctx, c.join.URL+protocol.PathRelay, &websocket.DialOptions{
		HTTPClient: client, CompressionMode: websocket.CompressionDisabled,
	})
	switch {
	case err == nil:
		conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
		ws.SetReadLimit(maxRelayMessage) // after NetConn, which takes the limit away
		if c := cork.Load(); c != nil {
			return c.Through(conn), nil
		}
		return conn, nil
	case resp != nil && resp.StatusCode == http.StatusNotFound:
		return nil, &Error{Kind: ErrNotPicket, Message: "there is no relay at " + c.join.URL + ": it is turned off (--relay=off), or a proxy in front does not pass " + protocol.PathRelay + " on"}
	case resp != nil:
		body, _ := io.ReadAll(resp.Body) // the library kept the first 1024 bytes
		return nil, c.refusalOf(resp, body)
	}
	return nil, c.connectError(err)
}

// corked is a client like c for one connection, and where the cork in that one is found.
func corked(c *http.Client) (*http.Client, *atomic.Pointer[relay.Cork]) {
	one, cork := *c, new(atomic.Pointer[relay.Cork])
	t := c.Transport.(*http.Transport).Clone()
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		around := relay.NewCork(conn)
		cork.Store(around)
		return around, nil
	}
	one.Transport = t
	return &one, cork
}
