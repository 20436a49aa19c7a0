package localapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxStreams bounds the connections that run over the socket at once.
const maxStreams = 256

// upgraded is the answer to dial when the connection stands.
const upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: picket-stream\r\n\r\n"

// Dial asks for a TCP connection to a peer.
type Dial struct {
	Peer string `json:"peer"` // name, node id or overlay address
	Port uint16 `json:"port"`
}

// Conn is a connection whose writing half closes apart, and which SetLinger(0) has end by a reset.
type Conn interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// Stream is a connection over the agent's socket. Each piece has its length before it, in two bytes, big endian; length 0 is the end of what is
// written. So a connection that was cut is told from one that has ended, which a unix socket cannot do. One may read while another writes.
type Stream struct {
	conn  net.Conn
	from  *bufio.Reader
	left  int  // of the piece being read
	ended bool // the other end has written all
}

func newStream(c net.Conn, from *bufio.Reader) *Stream { return &Stream{conn: c, from: from} }

// Read returns io.EOF when the other end has written all, and io.ErrUnexpectedEOF when the connection was cut.
func (s *Stream) Read(b []byte) (int, error) {
	if s.ended {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	if s.left == 0 {
		var head [2]byte
		if _, err := io.ReadFull(s.from, head[:]); err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		if s.left = int(binary.BigEndian.Uint16(head[:])); s.left == 0 {
			s.ended = true
			return 0, io.EOF
		}
	}
	n, err := s.from.Read(b[:min(len(b), s.left)])
	s.left -= n
	if err != nil {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// maxPiece is the longest piece, in bytes.
const maxPiece = 32 << 10

// Write blocks until all is handed over.
func (s *Stream) Write(b []byte) (written int, err error) {
	for len(b) > 0 {
		n := min(len(b), maxPiece)
		piece := net.Buffers{binary.BigEndian.AppendUint16(nil, uint16(n)), b[:n]}
		if _, err := piece.WriteTo(s.conn); err != nil {
			return written, err
		}
		written, b = written+n, b[n:]
	}
	return written, nil
}

// CloseWrite says that nothing more will be written.
func (s *Stream) CloseWrite() error {
	_, err := s.conn.Write([]byte{0, 0})
	return err
}

// Close ends the connection; the other end takes it for cut unless CloseWrite came before.
func (s *Stream) Close() error { return s.conn.Close() }

// serveDial joins the client to a peer until both have ended, one has failed, or the agent stops.
func serveDial(w http.ResponseWriter, r *http.Request, agent Agent, slots chan struct{}) {
	var q Dial
	if !readBody(w, r, &q) {
		return
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		refuse(w, http.StatusConflict, fmt.Sprintf("%d connections run over this socket already: end one first", maxStreams))
		return
	}
	far, err := agent.Dial(r.Context(), q)
	if err != nil {
		refuse(w, http.StatusConflict, err.Error())
		return
	}
	defer far.Close()
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "the connection cannot be carried over this socket")
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Time{}) // a unix socket takes any
	if _, err := io.WriteString(c, upgraded); err != nil {
		return
	}
	join(r.Context(), newStream(c, buffered.Reader), far)
}

// join copies both ways until both have ended, one has failed, or ctx ends. A failure is passed on as a reset, so that nobody takes a cut
// connection for a finished one.
func join(ctx context.Context, near *Stream, far Conn) {
	abort := func() {
		_ = far.SetLinger(0)
		_, _ = far.Close(), near.Close()
	}
	stop := context.AfterFunc(ctx, abort)
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { passOn(far, near, abort) })
	both.Go(func() { passOn(near, far, abort) })
	both.Wait()
}

func passOn(to interface {
	io.Writer
	CloseWrite() error
}, from io.Reader, abort func()) {
	_, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	if err != nil || to.CloseWrite() != nil {
		abort()
	}
}

// Dial opens a TCP connection to a peer through the agent; ctx bounds the opening alone.
func (c *Client) Dial(ctx context.Context, q Dial) (*Stream, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	s, err := c.upgrade(ctx, conn, q)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (c *Client) upgrade(ctx context.Context, conn net.Conn, q Dial) (*Stream, error) {
	req, err := newRequest(ctx, http.MethodPost, "dial", q)
	if err != nil {
		return nil, err
	}
	if err := req.Write(conn); err != nil {
		return nil, c.explain(ctx, err)
	}
	from := bufio.NewReader(conn)
	resp, err := http.ReadResponse(from, req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return newStream(conn, from), nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil, errors.New("the agent's answer cannot be read: are the picket command and the agent of the same version?")
	}
	return nil, refusal(resp)
}
