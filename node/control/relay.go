package control

import (
	"context"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"

	"picket.internal/coordinator/protocol"
)

// maxRelayMessage bounds one message of a relay's, in bytes. The stream in it is cut anywhere.
const maxRelayMessage = 1 << 20

// Relay opens a stream to the relay at the URL: one WebSocket, which HTTP proxies and TLS-terminating ones let through. Nothing rests on TLS beyond
// that the server is the one named: what goes over the stream proves itself. The stream ends with ctx. Every error is one of this package's.
func (c *Client) Relay(ctx context.Context) (net.Conn, error) {
	dctx, cancel := context.WithTimeout(ctx, 2*c.timing.Request)
	defer cancel()
	conn, resp, err := DialRelay(ctx, dctx, c.http, c.join.URL)
	switch {
	case err == nil:
		return conn, nil
	case resp != nil && resp.StatusCode == http.StatusNotFound:
		return nil, &Error{Kind: ErrNotPicket, Message: "there is no relay at " + c.join.URL + ": it is turned off (--relay=off), or a proxy in front does not pass " + protocol.PathRelay + " on"}
	case resp != nil:
		body, _ := io.ReadAll(resp.Body) // the library kept the first 1024 bytes
		return nil, c.refusalOf(resp, body)
	}
	return nil, c.connectError(err)
}

// DialRelay opens a stream, which ends with ctx, to the relay at an http or https URL; dialling ends with dialing. The client's transport is an
// *http.Transport. Where an answer came that is no stream, it is returned beside the error, with the first 1024 bytes of its body.
func DialRelay(ctx, dialing context.Context, c *http.Client, url string) (net.Conn, *http.Response, error) {
	one, up := *c, newUpgrade(c.Transport.(*http.Transport))
	one.Transport = up
	ws, resp, err := websocket.Dial(dialing, url+protocol.PathRelay, &websocket.DialOptions{
		HTTPClient: &one, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, resp, err
	}
	ws.SetReadLimit(maxRelayMessage)
	s := &stream{Conn: *up.below.Load(), ws: ws, ctx: context.WithoutCancel(ctx)}
	s.messages.Next = s.next
	s.alone = context.AfterFunc(ctx, func() { _ = ws.CloseNow() })
	return up.cork.Through(s), resp, nil
}
