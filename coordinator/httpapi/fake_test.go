package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// fake is a coordinator that admits one device and notes what reaches it.
type fake struct {
	key    key.CoordinatorPrivate
	device key.DevicePrivate
	enrol  func() (protocol.EnrolAnswer, error)
	wait   func(ctx context.Context) (protocol.WaitAnswer, error)
	impact func(ctx context.Context) (protocol.Impact, error)
	token  error     // that TokenActor refuses the right token with
	out    chan next // of the session: what Next yields

	mu    sync.Mutex
	calls []string
	froms []string
	heard chan protocol.Message // unbounded enough for a test
	ended chan struct{}         // closed when the session is
}

type next struct {
	coordinator.Outgoing
	err error
}

func newFake() *fake {
	return &fake{
		key: key.NewCoordinator(), device: key.NewDevice(),
		out: make(chan next, 1024), heard: make(chan protocol.Message, 1024), ended: make(chan struct{}),
	}
}

func (f *fake) note(call, from string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.froms = append(f.calls, call), append(f.froms, from)
}

func (f *fake) called() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, " ")
}

func (f *fake) from() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.froms, " ")
}

func (f *fake) Info(client []byte) (protocol.Info, error) {
	f.note("info", "")
	return protocol.SignInfo(protocol.InfoBody{Version: 1, Network: "net", Coordinator: f.key.Public(), Client: client, Nonce: make([]byte, 32), Time: time.Now()}, f.key)
}

func (f *fake) Enrol(_ context.Context, _ protocol.Enrol, from netip.Addr) (protocol.EnrolAnswer, error) {
	f.note("enrol", from.String())
	return f.enrol()
}

func (f *fake) Wait(ctx context.Context, _ protocol.Wait) (protocol.WaitAnswer, error) {
	f.note("wait", "")
	return f.wait(ctx)
}

func (f *fake) Challenge(h protocol.Hello) (protocol.Challenge, error) {
	f.note("challenge", "")
	c := protocol.Challenge{Network: "net", Coordinator: f.key.Public(), Nonce: bytes.Repeat([]byte{7}, 32), Time: time.Now()}
	c.Sign(h, f.key)
	return c, nil
}

func (f *fake) Attach(_ context.Context, h protocol.Hello, c protocol.Challenge, p protocol.Proof, from netip.AddrPort) (Session, error) {
	f.note("attach", from.Addr().String())
	if err := p.Open(h, c); err != nil {
		return nil, err
	}
	if h.Device != f.device.Public() {
		return nil, &coordinator.Error{Code: protocol.CodeUnknownNode, Message: "nobody knows this node"}
	}
	return (*fakeSession)(f), nil
}

func (f *fake) PokePolicy() { f.note("poke", "") }

const rightToken = "picket-token-right-0123456789"

func (f *fake) TokenActor(_ context.Context, token string, from netip.Addr) (coordinator.Actor, error) {
	f.note("token", from.String())
	if token != rightToken {
		return coordinator.Actor{}, &coordinator.Error{Code: protocol.CodeToken, Message: "no valid token"}
	}
	return coordinator.Actor{Kind: coordinator.ActorToken, Token: "right"}, f.token
}

func (f *fake) PolicyInForce(_ context.Context, a coordinator.Actor) (protocol.PolicyInForce, error) {
	f.note("policy", a.Token)
	return protocol.PolicyInForce{Text: "{} // <a & b>", Commit: "c0ffee", Generation: 7}, nil
}

func (f *fake) PolicyDirectory(_ context.Context, a coordinator.Actor) ([]byte, error) {
	f.note("directory", a.Token)
	return []byte(`{"users": [], "nodes": []}`), nil
}

func (f *fake) PolicyImpact(ctx context.Context, a coordinator.Actor, text []byte) (protocol.Impact, error) {
	f.note("impact", a.Token)
	if f.impact != nil {
		return f.impact(ctx)
	}
	return protocol.Impact{Live: len(text)}, nil
}

type fakeSession fake

func (s *fakeSession) Next(ctx context.Context) (coordinator.Outgoing, error) {
	select {
	case n := <-s.out:
		return n.Outgoing, n.err
	case <-ctx.Done():
		return coordinator.Outgoing{}, ctx.Err()
	}
}

func (s *fakeSession) hear(typ string, body any) error {
	s.heard <- protocol.Message{Type: typ, Body: body}
	return nil
}

func (s *fakeSession) Report(_ context.Context, r protocol.Report) error {
	if r.Facts.Hostname == "refuse me" {
		return &coordinator.Error{Code: protocol.CodeBadRequest, Message: "this report is no good"}
	}
	return s.hear(protocol.TypeReport, r)
}
func (s *fakeSession) Receipt(_ context.Context, r protocol.Receipt) error {
	return s.hear(protocol.TypeReceipt, r)
}
func (s *fakeSession) Evidence(_ context.Context, e protocol.Evidence) error {
	return s.hear(protocol.TypeEvidence, e)
}
func (s *fakeSession) Flows(_ context.Context, f protocol.Flows) error {
	return s.hear(protocol.TypeFlows, f)
}
func (s *fakeSession) Seek(q protocol.Seek) error { return s.hear(protocol.TypeSeek, q) }
func (s *fakeSession) Alive()                     {}
func (s *fakeSession) Resync()                    { _ = s.hear(protocol.TypeResync, protocol.Resync{}) }
func (s *fakeSession) Logout(context.Context) error {
	return s.hear(protocol.TypeLogout, protocol.Logout{})
}
func (s *fakeSession) Close() { close(s.ended) }

// server is a Handler of f behind real HTTP.
type server struct {
	*httptest.Server
	fake *fake
	log  *syncBuffer
	stop context.CancelFunc // ends the program
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func serve(t *testing.T, c Config) *server {
	t.Helper()
	s := &server{fake: newFake(), log: &syncBuffer{}}
	c.API, c.Logger = s.fake, slog.New(slog.NewTextHandler(s.log, nil))
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.Server = httptest.NewUnstartedServer(h)
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.stop = cancel
	s.Start()
	t.Cleanup(func() { cancel(); s.Close() })
	return s
}

// ask sends a request and returns the status and, of a refusal, the Problem.
func (s *server) ask(t *testing.T, r *http.Request) (*http.Response, protocol.Problem, string) {
	t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p protocol.Problem
	if resp.StatusCode >= 400 {
		if json.Unmarshal(body, &p) != nil || p.Code == "" || p.Message == "" || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("a refusal without a problem: %s %q", resp.Status, body)
		}
	}
	return resp, p, string(body)
}

func (s *server) request(t *testing.T, method, path, contentType string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

// node is a bare client of a session, which can misbehave.
type node struct {
	t    *testing.T
	conn *websocket.Conn
	fake *fake
}

func (s *server) dial(t *testing.T) *node {
	t.Helper()
	conn, resp, err := websocket.Dial(t.Context(), s.URL+protocol.PathSession, nil)
	if err != nil {
		t.Fatal(resp, err)
	}
	conn.SetReadLimit(protocol.MaxServerFrame)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &node{t, conn, s.fake}
}

func (n *node) hello() protocol.Hello {
	return protocol.Hello{Version: protocol.Version, Node: "n1", Device: n.fake.device.Public(), Nonce: make([]byte, 32)}
}

func (n *node) send(typ string, body any) {
	n.t.Helper()
	frame, err := protocol.EncodeFrame(typ, body)
	if err != nil {
		n.t.Fatal(err)
	}
	n.raw(frame)
}

func (n *node) raw(frame []byte) {
	n.t.Helper()
	if err := n.conn.Write(n.t.Context(), websocket.MessageText, frame); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read() protocol.Message {
	n.t.Helper()
	m, err := n.tryRead()
	if err != nil {
		n.t.Fatal(err)
	}
	return m
}

func (n *node) tryRead() (protocol.Message, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	_, frame, err := n.conn.Read(ctx)
	if ctx.Err() != nil {
		n.t.Fatal("nothing came, and the connection was not dropped either")
	}
	if err != nil {
		return protocol.Message{}, err
	}
	return protocol.DecodeFrame(frame)
}

var testReport = protocol.Report{Facts: protocol.Facts{Hostname: "laptop"}, Certificate: []byte{1}}

// open goes through hello, challenge and proof.
func (n *node) open() {
	n.t.Helper()
	h := n.hello()
	n.send(protocol.TypeHello, h)
	ch, ok := n.read().Body.(protocol.Challenge)
	if !ok {
		n.t.Fatal("no challenge came")
	}
	p := protocol.Proof{Report: testReport}
	p.Sign(h, ch, n.fake.device)
	n.send(protocol.TypeProof, p)
}

// problem reads on until the farewell, and then the end.
func (n *node) problem() protocol.Problem {
	n.t.Helper()
	for {
		m, err := n.tryRead()
		if err != nil {
			n.t.Fatalf("dropped without a word: %v", err)
		}
		if p, ok := m.Body.(protocol.Problem); ok {
			if _, err := n.tryRead(); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
				n.t.Errorf("after the problem: %v", err)
			}
			return p
		}
	}
}

// dropped reads on until the connection ends.
func (n *node) dropped() error {
	n.t.Helper()
	for {
		if _, err := n.tryRead(); err != nil && !errors.Is(err, protocol.ErrMalformed) {
			return err
		}
	}
}

func (f *fake) waitEnded(t *testing.T) {
	t.Helper()
	select {
	case <-f.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the session was not closed")
	}
}
