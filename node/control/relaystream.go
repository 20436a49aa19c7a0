package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/coder/websocket"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/relay"
)

// upgrade is a transport for one request, which has what becomes a WebSocket write through a cork.
type upgrade struct {
	transport *http.Transport
	below     atomic.Pointer[net.Conn] // below TLS; nil before it is dialled
	cork      *relay.Cork              // nil before the answer
}

func newUpgrade(t *http.Transport) *upgrade {
	u := &upgrade{transport: t.Clone()}
	dial := t.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	u.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			u.below.Store(&conn)
		}
		return conn, err
	}
	return u
}

func (u *upgrade) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := u.transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok { // else the library refuses it
		u.cork = relay.NewCork(conn)
		resp.Body = corked{conn, u.cork}
	}
	return resp, nil
}

type corked struct {
	io.ReadWriteCloser
	cork *relay.Cork
}

func (c corked) Write(b []byte) (int, error) { return c.cork.Write(b) }

// stream is a WebSocket to a relay: messages, end to end. The library's own (websocket.NetConn) makes each message cost several contexts.
type stream struct {
	net.Conn // below TLS: for deadlines and addresses
	ws       *websocket.Conn
	ctx      context.Context // never ends: whoever closes ws ends what waits
	alone    func() bool     // no longer has ws closed with the context that was given
	messages protocol.Messages
}

// next waits for a message. The error is io.EOF where the relay has said goodbye.
func (s *stream) next() (io.Reader, error) {
	kind, r, err := s.ws.Reader(s.ctx)
	switch {
	case err != nil:
		return nil, over(err)
	case kind != websocket.MessageBinary:
		return nil, errors.New("it sent a text message, and relays send binary ones only")
	}
	return r, nil
}

// Read is for one goroutine. The error is io.EOF where the relay has said goodbye.
func (s *stream) Read(b []byte) (int, error) { return s.messages.Read(b) }

func over(err error) error {
	if status := websocket.CloseStatus(err); status == websocket.StatusNormalClosure || status == websocket.StatusGoingAway {
		return io.EOF
	}
	return err
}

// Write writes one message.
func (s *stream) Write(b []byte) (int, error) {
	if err := s.ws.Write(s.ctx, websocket.MessageBinary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close waits for no goodbye: a relay may be left because it says nothing.
func (s *stream) Close() error {
	s.alone()
	return s.ws.CloseNow()
}
