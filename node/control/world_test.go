package control

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"picket.internal/coordinator"
	"picket.internal/coordinator/httpapi"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is a certificate authority: a coordinator's own, or one that the system trusts.
type authority struct {
	cert   *x509.Certificate
	signer crypto.Signer
}

var serial int64

func issue(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	serial++
	template.SerialNumber = big.NewInt(serial)
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newAuthority(t testing.TB, signer crypto.Signer, change func(*x509.Certificate)) authority {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
	}
	if change != nil {
		change(template)
	}
	return authority{issue(t, template, template, signer.Public(), signer), signer}
}

// leaf is a server's certificate for host, with the authority's behind it.
func (a authority) leaf(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	k := ecKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		KeyUsage: x509.KeyUsageDigitalSignature, DNSNames: []string{"some-other-name.example.com"},
	}
	if change != nil {
		change(template)
	}
	c := issue(t, template, a.cert, k.Public(), a.signer)
	return tls.Certificate{Certificate: [][]byte{c.Raw, a.cert.Raw}, PrivateKey: k}
}

func forLoopback(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }

// coord is a coordinator of one device, which can be told to misbehave.
type coord struct {
	key    key.CoordinatorPrivate
	device key.DevicePrivate

	mu        sync.Mutex
	ahead     time.Duration // of its clock against ours
	version   int
	live      time.Duration
	enrol     func(protocol.EnrolBody) (protocol.EnrolAnswer, error)
	waits     []func() (protocol.WaitAnswer, error) // one an asking; the last stays
	info      func(client []byte) (protocol.Info, error)
	challenge func(protocol.Hello) (protocol.Challenge, error)
	attach    func(protocol.Hello) error
	actor     func(token string) error
	policy    func(call string) (protocol.Impact, error)
	nonces    map[string]bool
	calls     []string
	hellos    []protocol.Hello
	sessions  chan *session
}

func newCoord() *coord {
	return &coord{key: key.NewCoordinator(), device: key.NewDevice(), version: protocol.Version, live: protocol.LiveInterval, nonces: map[string]bool{}, sessions: make(chan *session, 64)}
}

// with changes a coordinator's behaviour.
func (c *coord) with(f func()) { c.mu.Lock(); defer c.mu.Unlock(); f() }

func (c *coord) count(call string) (n int) {
	c.with(func() {
		for _, s := range c.calls {
			if s == call {
				n++
			}
		}
	})
	return n
}

func (c *coord) Info(client []byte) (protocol.Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "info")
	if c.info != nil {
		return c.info(client)
	}
	nonce := freshNonce()
	c.nonces[string(nonce)] = true
	return protocol.SignInfo(protocol.InfoBody{
		Version: c.version, Network: "net", Coordinator: c.key.Public(), Client: client, Nonce: nonce, Time: time.Now().Add(c.ahead).UTC(),
	}, c.key)
}

func (c *coord) Enrol(_ context.Context, e protocol.Enrol, _ netip.Addr) (protocol.EnrolAnswer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "enrol")
	b, err := protocol.OpenEnrol(e, c.key.Public(), "net")
	if err != nil {
		return protocol.EnrolAnswer{}, err
	}
	if !c.nonces[string(b.Nonce)] {
		return protocol.EnrolAnswer{}, &coordinator.Error{Code: protocol.CodeBadRequest, Message: "a nonce that is not ours, or used before"}
	}
	delete(c.nonces, string(b.Nonce))
	return c.enrol(b)
}

func (c *coord) Wait(context.Context, protocol.Wait) (protocol.WaitAnswer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "wait")
	f := c.waits[0]
	if len(c.waits) > 1 {
		c.waits = c.waits[1:]
	}
	return f()
}

func (c *coord) Challenge(h protocol.Hello) (protocol.Challenge, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls, c.hellos = append(c.calls, "challenge"), append(c.hellos, h)
	if c.challenge != nil {
		return c.challenge(h)
	}
	ch := protocol.Challenge{Network: "net", Coordinator: c.key.Public(), Nonce: freshNonce(), Time: time.Now().Add(c.ahead).UTC()}
	ch.Sign(h, c.key)
	return ch, nil
}

func (c *coord) Attach(_ context.Context, h protocol.Hello, ch protocol.Challenge, p protocol.Proof, _ netip.AddrPort) (httpapi.Session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "attach")
	if err := p.Open(h, ch); err != nil {
		return nil, err
	}
	if c.attach != nil {
		if err := c.attach(h); err != nil {
			return nil, err
		}
	}
	s := &session{proof: p, live: c.live, out: make(chan coordinator.Outgoing, 64), end: make(chan error, 1), heard: make(chan protocol.Message, 64), closed: make(chan struct{})}
	c.sessions <- s
	return s, nil
}

func (c *coord) PokePolicy() {}

func (c *coord) TokenActor(_ context.Context, token string, _ netip.Addr) (coordinator.Actor, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, "token")
	return coordinator.Actor{Kind: coordinator.ActorToken}, c.actor(token)
}

func (c *coord) about(call string) (protocol.Impact, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call)
	if c.policy == nil {
		return protocol.Impact{Live: 1}, nil
	}
	return c.policy(call)
}

func (c *coord) PolicyInForce(context.Context, coordinator.Actor) (protocol.PolicyInForce, error) {
	_, err := c.about("in force")
	return protocol.PolicyInForce{Text: "{}", Generation: 7}, err
}

func (c *coord) PolicyDirectory(context.Context, coordinator.Actor) ([]byte, error) {
	_, err := c.about("directory")
	return []byte(`{"nodes": []}`), err
}

func (c *coord) PolicyImpact(_ context.Context, _ coordinator.Actor, text []byte) (protocol.Impact, error) {
	return c.about("impact of " + string(text))
}

// session is the coordinator's end of one.
type session struct {
	proof  protocol.Proof
	live   time.Duration // between signs of life
	out    chan coordinator.Outgoing
	end    chan error
	heard  chan protocol.Message
	closed chan struct{}
}

func (s *session) Next(ctx context.Context) (coordinator.Outgoing, error) {
	select {
	case now := <-time.After(s.live):
		return coordinator.Outgoing{Type: protocol.TypeLive, Body: protocol.Live{Time: now}}, nil
	case o := <-s.out:
		return o, nil
	case err := <-s.end:
		return coordinator.Outgoing{}, err
	case <-ctx.Done():
		return coordinator.Outgoing{}, ctx.Err()
	}
}

func (s *session) hear(typ string, body any) error {
	s.heard <- protocol.Message{Type: typ, Body: body}
	return nil
}

func (s *session) Report(_ context.Context, r protocol.Report) error {
	return s.hear(protocol.TypeReport, r)
}
func (s *session) Receipt(_ context.Context, r protocol.Receipt) error {
	return s.hear(protocol.TypeReceipt, r)
}
func (s *session) Evidence(_ context.Context, e protocol.Evidence) error {
	return s.hear(protocol.TypeEvidence, e)
}
func (s *session) Flows(_ context.Context, f protocol.Flows) error {
	return s.hear(protocol.TypeFlows, f)
}
func (s *session) Seek(q protocol.Seek) error { return s.hear(protocol.TypeSeek, q) }
func (s *session) Alive()                     {}
func (s *session) Resync()                    { _ = s.hear(protocol.TypeResync, protocol.Resync{}) }
func (s *session) Logout(context.Context) error {
	s.end <- &coordinator.Error{Code: protocol.CodeRemoved, Message: "removed on its own wish"}
	return nil
}
func (s *session) Close() { close(s.closed) }

// next waits for what the node says.
func (s *session) next(t testing.TB) protocol.Message {
	t.Helper()
	select {
	case m := <-s.heard:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("the node said nothing")
		return protocol.Message{}
	}
}

// next waits for a node's session.
func (c *coord) next(t testing.TB) *session {
	t.Helper()
	select {
	case s := <-c.sessions:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("no session was opened")
		return nil
	}
}

// listen serves c over TLS until the test or stop ends it.
func (c *coord) listen(t testing.TB, cert tls.Certificate, addr string, timing httpapi.Timing) (url string, stop func()) {
	t.Helper()
	h, err := httpapi.New(httpapi.Config{API: c, Timing: timing})
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, h, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, addr)
}

func listen(t testing.TB, h http.Handler, conf *tls.Config, addr string) (url string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := httptest.NewUnstartedServer(h)
	_ = s.Listener.Close()
	s.Listener, s.TLS = l, conf
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if conf != nil {
		s.StartTLS()
	} else {
		s.Start()
	}
	stop = sync.OnceFunc(func() { cancel(); s.CloseClientConnections(); s.Close() })
	t.Cleanup(stop)
	return "https://" + l.Addr().String(), stop
}

// self is a self-signed coordinator's usual certificate.
func (c *coord) self(t testing.TB) tls.Certificate {
	t.Helper()
	return newAuthority(t, c.key.X509(), nil).leaf(t, nil)
}

func (c *coord) join(url string) protocol.Join {
	return protocol.Join{URL: url, Fingerprint: c.key.Public().Fingerprint()}
}

var quick = Timing{Request: 2 * time.Second, Backoff: 5 * time.Millisecond, Pause: 50 * time.Millisecond}

func newClient(t testing.TB, c Config) *Client {
	t.Helper()
	if c.Timing == (Timing{}) {
		c.Timing = quick
	}
	if c.Roots == nil {
		c.Roots = x509.NewCertPool() // a test trusts nothing that this machine happens to trust
	}
	cl, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

var testAdmission = protocol.Admission{
	Node: "n1", Name: "laptop", Owner: "alice@example.com", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1")}, Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
}

var errSpent = &coordinator.Error{Code: protocol.CodeAuthKey, Message: "this auth key is spent\x1b[2J: ask for another"}

// recorder is a Handler that notes everything.
type recorder struct {
	connected    chan time.Duration
	disconnected chan error
	maps         chan protocol.Map
	hints        chan protocol.Hints
	asks         chan protocol.AskFlows
	sought       chan protocol.Sought
	stop         func(protocol.Problem) bool
}

func newRecorder() *recorder {
	return &recorder{make(chan time.Duration, 1024), make(chan error, 1024), make(chan protocol.Map, 1024), make(chan protocol.Hints, 1024), make(chan protocol.AskFlows, 1024), make(chan protocol.Sought, 1024), func(protocol.Problem) bool { return false }}
}

func (r *recorder) OnConnected(ahead time.Duration)   { r.connected <- ahead }
func (r *recorder) OnDisconnected(err error)          { r.disconnected <- err }
func (r *recorder) OnMap(m protocol.Map)              { r.maps <- m }
func (r *recorder) OnSought(s protocol.Sought)        { r.sought <- s }
func (r *recorder) OnRelayPass(protocol.RelayPass)    {}
func (r *recorder) OnHints(h protocol.Hints)          { r.hints <- h }
func (r *recorder) OnAskFlows(a protocol.AskFlows)    { r.asks <- a }
func (r *recorder) OnProblem(p protocol.Problem) bool { return r.stop(p) }

// wait takes one value from ch.
func wait[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %s", what)
		return *new(T)
	}
}

// run starts a session of c's device against url.
func (c *coord) run(t testing.TB, url string, timing Timing) (*Session, *recorder, <-chan error) {
	t.Helper()
	cl := newClient(t, Config{Join: protocol.Join{URL: url}, Pinned: c.key.Public(), Timing: timing})
	r := newRecorder()
	s, err := NewSession(SessionConfig{
		Client: cl, Pinned: c.key.Public(), Network: "net", Node: "n1", Device: c.device, Report: testReport("first"), Handler: r,
		Held: func() (uint64, []byte) { return 5, bytes.Repeat([]byte{5}, 32) },
	})
	if err != nil {
		t.Fatal(err)
	}
	done := runSession(t, s)
	return s, r, done
}

func runSession(t testing.TB, s *Session) <-chan error {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	over := make(chan struct{})
	go func() { done <- s.Run(ctx); close(over) }()
	t.Cleanup(func() { cancel(); <-over })
	return done
}

func testReport(host string) protocol.Report {
	return protocol.Report{Facts: protocol.Facts{Hostname: host}, Certificate: []byte{1}}
}

var errBoom = errors.New("boom")
