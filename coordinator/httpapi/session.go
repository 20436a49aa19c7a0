package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// A node may send nodeRate messages a second in the long run and nodeBurst at once; beyond that it is read more slowly, and TCP
// passes the pressure back to it.
const (
	nodeRate  = 20
	nodeBurst = 100
)

// session is the WebSocket. Nodes are no browsers: whatever carries an Origin is a page that tries to use somebody's position.
func (h *Handler) session(w http.ResponseWriter, r *http.Request, c caller) error {
	if len(r.Header.Values("Origin")) != 0 {
		return &refusal{http.StatusForbidden, protocol.Problem{Code: coordinator.CodeForbidden, Message: "sessions are for nodes, not for pages in a browser"}}
	}
	release, ok := h.opening.Take(c.block)
	if !ok {
		return throttled(time.Second)
	}
	defer release()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(protocol.MaxHelloFrame)
	l := &link{conn: conn, timing: h.timing}

	s, err := h.open(r.Context(), l, c.addr)
	release()
	if err != nil {
		h.farewell(r.Context(), l, err)
		return nil
	}
	err = h.pump(r.Context(), l, s)
	h.log.Debug("session over", "from", c.addr, "err", err)
	return nil
}

// open is hello, challenge, proof, Attach.
func (h *Handler) open(ctx context.Context, l *link, from netip.AddrPort) (Session, error) {
	hello, err := expect[protocol.Hello](ctx, l)
	if err != nil {
		return nil, err
	}
	if hello.Version != protocol.Version {
		return nil, &coordinator.Error{Code: protocol.CodeVersion, Message: fmt.Sprintf(
			"the node speaks version %d of the protocol and the coordinator version %d: update the older one of the two", hello.Version, protocol.Version)}
	}
	ch, err := h.api.Challenge(hello)
	if err != nil {
		return nil, err
	}
	if err := l.write(ctx, protocol.TypeChallenge, ch); err != nil {
		return nil, err
	}
	proof, err := expect[protocol.Proof](ctx, l)
	if err != nil {
		return nil, err
	}
	s, err := h.api.Attach(ctx, hello, ch, proof, from)
	if err != nil {
		return nil, err
	}
	l.conn.SetReadLimit(protocol.MaxNodeFrame)
	return s, nil
}

// farewell tells the node why, when there is something to tell, and closes.
func (h *Handler) farewell(ctx context.Context, l *link, err error) {
	var gone *goneError
	if err == nil || errors.As(err, &gone) || ctx.Err() != nil {
		_ = l.conn.Close(websocket.StatusGoingAway, "")
		return
	}
	p, internal := problemOf(err)
	if internal {
		h.log.Error("session failed", "err", err)
	}
	if l.write(ctx, protocol.TypeProblem, p) == nil {
		_ = l.conn.Close(websocket.StatusNormalClosure, p.Code)
	}
}

// goneError is the other side's silence, stall or departure: nothing to tell it, and no fault of ours.
type goneError struct{ err error }

func (e *goneError) Error() string { return e.err.Error() }

// link is a session's connection.
type link struct {
	conn   *websocket.Conn
	timing Timing
}

// write sends one message, or gives the connection up when the node does not take it in time.
func (l *link) write(ctx context.Context, typ string, body any) error {
	frame, err := protocol.EncodeFrame(typ, body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, l.timing.Write)
	defer cancel()
	if err := l.conn.Write(ctx, websocket.MessageText, frame); err != nil {
		return &goneError{err}
	}
	return nil
}

// read takes one message within limit.
func (l *link) read(ctx context.Context, limit time.Duration) (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	kind, frame, err := l.conn.Read(ctx)
	if err != nil {
		return protocol.Message{}, &goneError{err}
	}
	if kind != websocket.MessageText {
		return protocol.Message{}, badRequest("a session's messages are text frames")
	}
	return protocol.DecodeFrame(frame)
}

// expect reads one message that must be a T.
func expect[T any](ctx context.Context, l *link) (T, error) {
	m, err := l.read(ctx, l.timing.Hello)
	if err != nil {
		return *new(T), err
	}
	body, ok := m.Body.(T)
	if !ok {
		return body, badRequest("this message does not come at this point of a session")
	}
	return body, nil
}

// pump runs an open session until one side ends it. The task that ends first closes the session, says farewell, and only then returns:
// its return cancels the other, and cancelling a read or write drops the connection with everything unsaid.
func (h *Handler) pump(ctx context.Context, l *link, s Session) error {
	over := sync.OnceFunc(s.Close)
	g, ctx := errgroup.WithContext(ctx)
	for _, task := range []func(context.Context, Session) error{l.toNode, l.fromNode} {
		g.Go(func() error {
			err := task(ctx, s)
			over() // before the farewell: the node may be back by the time that is written
			h.farewell(ctx, l, err)
			return err
		})
	}
	return g.Wait()
}

// toNode passes on what the coordinator has to say. Signs of life come from there too, so that they are signs of the task that sends maps.
func (l *link) toNode(ctx context.Context, s Session) error {
	for {
		m, err := s.Next(ctx)
		if err != nil {
			return err
		}
		if err := l.write(ctx, m.Type, m.Body); err != nil {
			return err
		}
	}
}

// fromNode passes on what the node has to say.
func (l *link) fromNode(ctx context.Context, s Session) error {
	pace := rate.NewLimiter(nodeRate, nodeBurst)
	for {
		m, err := l.read(ctx, l.timing.Dead)
		if err != nil {
			return err
		}
		if err := pace.Wait(ctx); err != nil {
			return err
		}
		if err := dispatch(ctx, s, m); err != nil {
			return err
		}
	}
}

func dispatch(ctx context.Context, s Session, m protocol.Message) error {
	s.Alive()
	switch b := m.Body.(type) {
	case protocol.Report:
		return s.Report(ctx, b)
	case protocol.Receipt:
		return s.Receipt(ctx, b)
	case protocol.Evidence:
		return s.Evidence(ctx, b)
	case protocol.Flows:
		return s.Flows(ctx, b)
	case protocol.Seek:
		return s.Seek(b)
	case protocol.Resync:
		s.Resync()
	case protocol.Logout:
		return s.Logout(ctx)
	case protocol.Live, nil: // heard of; or a message of a newer version
	default:
		return badRequest("this message does not come at this point of a session")
	}
	return nil
}
