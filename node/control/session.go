package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Handler takes what a session delivers. Run makes one call at a time; while a call lasts nothing more is read, and a
// coordinator drops a node that lets it wait for 10 s.
type Handler interface {
	// OnConnected: the coordinator proved its key and holds our proof. ahead is how far this machine's clock is ahead of its signed time.
	OnConnected(ahead time.Duration)
	// OnDisconnected: err says why, for people. Run tries again by itself.
	OnDisconnected(err error)
	// OnMap takes a map as it came: it must still be opened, merged and judged.
	OnMap(m protocol.Map)
	OnHints(h protocol.Hints)
	// OnSought: a peer has no direct path to this node and wants one.
	OnSought(s protocol.Sought)
	// OnRelayPass: a newer pass for the network's relays.
	OnRelayPass(p protocol.RelayPass)
	// OnAskFlows takes a question to be answered by Session.Flows, unless it comes too often.
	OnAskFlows(a protocol.AskFlows)
	// OnProblem takes a refusal by the coordinator, which has ended the session. True makes Run give up.
	OnProblem(p protocol.Problem) (stop bool)
}

// SessionConfig of a Session.
type SessionConfig struct {
	Client  *Client // with Config.Pinned
	Pinned  key.CoordinatorPublic
	Network protocol.NetworkID
	Node    acl.NodeID
	Device  key.DevicePrivate
	Report  protocol.Report // the first; SetReport replaces it
	// Held says which map the node holds: its generation and digest, or 0 and nil. It is asked at each connection, by Run.
	Held    func() (generation uint64, digest []byte)
	Handler Handler
}

// Session keeps one connection to the coordinator, and opens it again whenever it is lost.
type Session struct {
	c     SessionConfig
	out   outbox
	hurry chan struct{} // of one: Retry's wish
	drop  atomic.Pointer[context.CancelCauseFunc]
}

// NewSession checks the configuration; it starts nothing.
func NewSession(c SessionConfig) (*Session, error) {
	switch {
	case c.Client == nil || c.Handler == nil || c.Held == nil:
		return nil, errors.New("session: a client, a handler and what is held are needed")
	case c.Pinned.IsZero() || c.Client.pin != c.Pinned.Fingerprint():
		return nil, errors.New("session: the client is not bound to the pinned coordinator key")
	case c.Device.IsZero() || c.Node == "" || c.Network == "":
		return nil, errors.New("session: the node is not enrolled")
	}
	s := &Session{c: c, hurry: make(chan struct{}, 1)}
	s.out.init(c.Report)
	return s, nil
}

// Run keeps the session until ctx ends (nil), or until the handler's OnProblem says stop (the *ProblemError).
// It must be called once at a time.
func (s *Session) Run(ctx context.Context) error {
	pause := newBackoff(s.c.Client.timing)
	for {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.c.Handler.OnDisconnected(err)
		var p *ProblemError
		if errors.As(err, &p) && s.c.Handler.OnProblem(p.Problem) {
			return p
		}
		if time.Since(began) > s.c.Client.timing.Pause {
			pause.reset() // a session that lasted; one that fails at once must not make a storm
		}
		if pause.wait(ctx, err, s.hurry) != nil {
			return nil
		}
	}
}

// Retry cuts a pause between attempts short: the network changed, or a person asks.
func (s *Session) Retry() {
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

// Reconnect drops the connection, if there is one, and opens another at once: it may be from an address that this host has no longer.
func (s *Session) Reconnect() {
	if drop := s.drop.Load(); drop != nil {
		(*drop)(&Error{Kind: ErrUnreachable, Message: "this host's network has changed: the coordinator is connected to anew"})
	}
	s.Retry()
}

// once is one connection, from dialling to its end; it always returns an error.
func (s *Session) once(ctx context.Context) (err error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(protocol.MaxHelloFrame)
	l := &link{conn: conn, client: s.c.Client}
	defer func() { s.out.disconnected(err) }()
	ahead, err := s.open(ctx, l)
	if err != nil {
		return err
	}
	conn.SetReadLimit(protocol.MaxServerFrame)
	select {
	case <-s.hurry: // what it hurried for has happened
	default:
	}
	s.c.Handler.OnConnected(ahead)

	open, drop := context.WithCancelCause(ctx)
	defer drop(nil)
	s.drop.Store(&drop)
	defer s.drop.Store(nil)
	g, gctx := errgroup.WithContext(open)
	g.Go(func() error { return s.send(gctx, l) })
	g.Go(func() error { return s.receive(gctx, l) })
	err = g.Wait()
	if cause := context.Cause(open); cause != nil && ctx.Err() == nil {
		return cause
	}
	return err
}

func (s *Session) dial(ctx context.Context) (*websocket.Conn, error) {
	cl := s.c.Client
	dctx, cancel := context.WithTimeout(ctx, 2*cl.timing.Request)
	defer cancel()
	conn, resp, err := websocket.Dial(dctx, cl.join.URL+protocol.PathSession, &websocket.DialOptions{
		HTTPClient: cl.http, CompressionMode: websocket.CompressionDisabled,
	})
	switch {
	case err == nil:
		return conn, nil
	case resp != nil:
		body, _ := io.ReadAll(resp.Body) // the library kept the first 1024 bytes
		return nil, cl.refusalOf(resp, body)
	}
	return nil, cl.explain(ctx, cl.connectError(err))
}

// open is hello, challenge, proof. It returns how far this machine's clock is ahead.
func (s *Session) open(ctx context.Context, l *link) (time.Duration, error) {
	h := protocol.Hello{Version: protocol.Version, Node: s.c.Node, Device: s.c.Device.Public(), Nonce: freshNonce()}
	if g, digest := s.c.Held(); g != 0 {
		h.Generation, h.Digest = g, digest
	}
	if err := l.write(ctx, protocol.TypeHello, h); err != nil {
		return 0, err
	}
	m, err := l.read(ctx, l.client.timing.Request)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	ch, ok := m.Body.(protocol.Challenge)
	if !ok {
		return 0, unexpected(m)
	}
	if err := s.judge(h, ch); err != nil {
		return 0, err
	}
	if err := clockError(now, ch.Time); err != nil {
		return 0, err
	}
	p := protocol.Proof{Report: s.out.connected()}
	p.Sign(h, ch, s.c.Device)
	ahead, _ := protocol.ClockOff(now, ch.Time)
	return ahead, l.write(ctx, protocol.TypeProof, p)
}

// judge holds a challenge to the pinned key and network.
func (s *Session) judge(h protocol.Hello, ch protocol.Challenge) error {
	err := ch.Open(h, s.c.Pinned, s.c.Network)
	switch {
	case err == nil:
		return nil
	case ch.Coordinator != s.c.Pinned && !ch.Coordinator.IsZero():
		return s.c.Client.wrongKey(ch.Coordinator.Fingerprint())
	}
	return &Error{Kind: ErrWrongKey, Err: err, Message: "what answers at " + s.c.Client.join.URL + " is not this node's coordinator: " + err.Error()}
}

// receive hands what comes to the handler, until the session ends.
func (s *Session) receive(ctx context.Context, l *link) error {
	for {
		m, err := l.read(ctx, l.client.timing.Dead)
		if err != nil {
			return err
		}
		switch b := m.Body.(type) {
		case protocol.Map:
			s.c.Handler.OnMap(b)
		case protocol.Hints:
			s.c.Handler.OnHints(b)
		case protocol.Sought:
			s.c.Handler.OnSought(b)
		case protocol.RelayPass:
			s.c.Handler.OnRelayPass(b)
		case protocol.AskFlows:
			s.c.Handler.OnAskFlows(b)
		case protocol.Live, nil: // heard of; or a message of a newer version
		default:
			return unexpected(m)
		}
	}
}

// send says what is to be said, and that we live.
func (s *Session) send(ctx context.Context, l *link) error {
	t := time.NewTicker(l.client.timing.Live)
	defer t.Stop()
	for {
		for m, ok := s.out.next(); ok; m, ok = s.out.next() {
			if r, ok := m.Body.(protocol.Receipt); ok {
				r.Sign(s.c.Network, s.c.Node, s.c.Device)
				m.Body = r
			}
			if err := l.write(ctx, m.Type, m.Body); err != nil {
				s.out.putBack(m)
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.out.wake:
		case now := <-t.C:
			if err := l.write(ctx, protocol.TypeLive, protocol.Live{Time: now.UTC()}); err != nil {
				return err
			}
		}
	}
}

// link is one connection.
type link struct {
	conn   *websocket.Conn
	client *Client
}

func (l *link) write(ctx context.Context, typ string, body any) error {
	frame, err := protocol.EncodeFrame(typ, body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, l.client.timing.Request)
	defer cancel()
	if err := l.conn.Write(ctx, websocket.MessageText, frame); err != nil {
		return l.client.lost(err)
	}
	return nil
}

// read takes one message; silence for longer than limit is the connection's end. A Problem comes back as an error.
func (l *link) read(ctx context.Context, limit time.Duration) (protocol.Message, error) {
	rctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	kind, frame, err := l.conn.Read(rctx)
	switch {
	case ctx.Err() != nil:
		return protocol.Message{}, ctx.Err()
	case rctx.Err() != nil:
		return protocol.Message{}, &Error{Kind: ErrUnreachable, Err: err, Message: fmt.Sprintf("nothing was heard from the coordinator at %s for %s", l.client.join.URL, limit)}
	case err != nil:
		return protocol.Message{}, l.client.lost(err)
	case kind != websocket.MessageText:
		return protocol.Message{}, l.client.notPicket()
	}
	m, err := protocol.DecodeFrame(frame)
	if err != nil {
		return m, &Error{Kind: ErrNotPicket, Err: err, Message: "the coordinator at " + l.client.join.URL + " sent what is no message: " + err.Error()}
	}
	if p, ok := m.Body.(protocol.Problem); ok {
		return m, problem(p, 0)
	}
	return m, nil
}

func (c *Client) lost(err error) error {
	return &Error{Kind: ErrUnreachable, Err: err, Message: "lost the connection to the coordinator at " + c.join.URL}
}

func unexpected(m protocol.Message) error {
	return &Error{Kind: ErrNotPicket, Message: "the coordinator sent a message that does not come at this point: " + protocol.Printable(m.Type)}
}
