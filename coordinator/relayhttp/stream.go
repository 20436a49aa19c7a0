package relayhttp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"picket.internal/coordinator/protocol"
)

// hijack is a ResponseWriter that tells which connection became the WebSocket.
type hijack struct {
	http.ResponseWriter
	conn net.Conn // nil before Hijack
}

func (h *hijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, both, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, both, err
}

// Pings and pongs of the WebSocket's own that a client may send, a second and at once. The relay's rate does not see them, and nodes send none; a proxy may.
const (
	controlRate  = 1
	controlBurst = 60
)

// options end a connection that sends more control frames than may be: each ping has us write.
func (h *hijack) options() *websocket.AcceptOptions {
	limit := rate.NewLimiter(controlRate, controlBurst)
	may := func() bool {
		if limit.Allow() {
			return true
		}
		_ = h.conn.Close() // Read fails next
		return false
	}
	return &websocket.AcceptOptions{
		CompressionMode: websocket.CompressionDisabled,
		OnPingReceived:  func(context.Context, []byte) bool { return may() },
		OnPongReceived:  func(context.Context, []byte) { may() },
	}
}

// stream is a client's WebSocket as the relay sees it: messages, end to end. The library's own (websocket.NetConn) makes each of them cost several
// contexts, and TLS make two records of it. What the library writes of its own accord, such as a pong, is a whole frame too, so that both
// may write to the connection.
type stream struct {
	net.Conn // below the WebSocket: for deadlines, and to write to
	ws       *websocket.Conn
	ctx      context.Context // never ends: who closes the connection ends what waits
	messages protocol.Messages
	writes   atomic.Int32
	opened   func() // gives back the place among those whose login is under way
}

func newStream(ctx context.Context, conn net.Conn, ws *websocket.Conn, opened func()) *stream {
	ws.SetReadLimit(maxMessage)
	s := &stream{Conn: conn, ws: ws, ctx: context.WithoutCancel(ctx), opened: opened}
	s.messages.Next = s.next
	return s
}

// NetConn tells what is below, as a tls.Conn's does.
func (s *stream) NetConn() net.Conn { return s.Conn }

// next waits for a message. The error is io.EOF where the client has said goodbye.
func (s *stream) next() (io.Reader, error) {
	kind, r, err := s.ws.Reader(s.ctx)
	switch {
	case err != nil:
		return nil, over(err)
	case kind != websocket.MessageBinary:
		return nil, errors.New("a text message came, and a relay takes binary ones only")
	}
	return r, nil
}

// Read is for one goroutine. The error is io.EOF where the client has said goodbye.
func (s *stream) Read(b []byte) (int, error) { return s.messages.Read(b) }

func over(err error) error {
	if status := websocket.CloseStatus(err); status == websocket.StatusNormalClosure || status == websocket.StatusGoingAway {
		return io.EOF
	}
	return err
}

// buffers are lent to Write.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Write writes one message.
func (s *stream) Write(b []byte) (int, error) {
	if s.writes.Add(1) == 2 {
		s.opened()
	}
	m := buffers.Get().(*[]byte)
	defer buffers.Put(m)
	*m = append(appendHeader((*m)[:0], len(b)), b...)
	if _, err := s.Conn.Write(*m); err != nil {
		return 0, err
	}
	return len(b), nil
}

// appendHeader appends the header of an unmasked binary message of n bytes in one frame (RFC 6455, section 5.2).
func appendHeader(b []byte, n int) []byte {
	const wholeBinary = 0x82 // FIN, opcode 2
	switch {
	case n < 126:
		return append(b, wholeBinary, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, wholeBinary, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, wholeBinary, 127), uint64(n))
}

// Close waits for nothing, unlike NetConn's, which gives a client 5 s to say goodbye: the relay closes many at once, and those it has cut off.
func (s *stream) Close() error { return s.ws.CloseNow() }
