package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/hostnet"
	"picket.internal/node/localapi"
	"picket.internal/node/statefile"
	"picket.internal/wgtun"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
	"picket.internal/wgtun/userspace"
)

// fakeOverlay keeps what it was given. It opens at once and closes when told.
type fakeOverlay struct {
	config overlayConfig
	ready  chan struct{}

	mu      sync.Mutex
	states  []wgtun.State
	refuses uint64 // a generation that Apply refuses whole
	fitted  int
	fitErr  error
	hints   map[acl.NodeID][]netip.AddrPort
	homes   map[acl.NodeID]path.Home
	relayed []string
	mirrors []path.Reflection
	closed  bool
	blocked bool           // Block was called
	host    hostnet.Config // of the last Fit
	kill    chan error
	echoErr error
	census  filter.Census
	saved   []byte
	restore []string       // what was handed to it, and how old that was
	awaits  bool           // Restore, since before the first state
	traffic *filter.Filter // has the rules of the last state
	caught  []filter.Evidence

	reflectors []path.Reflector
	reflexive  []netip.AddrPort
	observed   map[int][]netip.AddrPort // by how many peers at least
	reprobed   int
	sought     []acl.NodeID

	dials func(network string, to netip.AddrPort) (net.Conn, error) // nil for one that refuses

	unready  []acl.NodeID
	rekeyed  []key.TunnelPrivate
	rekeyErr error
}

func (o *fakeOverlay) Run(ctx context.Context) error {
	close(o.ready)
	defer func() {
		o.mu.Lock()
		o.closed = true
		o.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-o.kill:
		return err
	}
}
func (o *fakeOverlay) Ready() <-chan struct{} { return o.ready }
func (o *fakeOverlay) Block() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blocked = true
}
func (o *fakeOverlay) Fit(c hostnet.Config) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.host = c
	o.fitted++
	return o.fitErr
}
func (o *fakeOverlay) Apply(s wgtun.State) (wgtun.Applied, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refuses != 0 && s.Generation == o.refuses {
		return wgtun.Applied{}, fmt.Errorf("apply: %w: it is not sound", wgtun.ErrRefused)
	}
	var cut []filter.Cut
	if len(o.states) > 0 && len(s.Peers) < len(o.states[len(o.states)-1].Peers) {
		cut = make([]filter.Cut, 1)
	}
	o.states = append(o.states, s)
	o.traffic.Swap(&filter.Policy{Generation: s.Generation, Self: s.Self, Rules: s.Rules, NotAfter: s.NotAfter})
	return wgtun.Applied{Cut: cut}, nil
}
func (o *fakeOverlay) NodeAt(a netip.Addr) (acl.NodeID, bool) { return o.traffic.NodeAt(a) }
func (o *fakeOverlay) Save() []byte                           { return o.saved }
func (o *fakeOverlay) Restore(b []byte, ago time.Duration) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.restore = append(o.restore, fmt.Sprintf("%s after %v under generation %d", b, ago, o.states[len(o.states)-1].Generation))
	return 0, nil
}
func (o *fakeOverlay) AwaitRestore(time.Duration) { o.awaits = len(o.states) == 0 }
func (o *fakeOverlay) Hint(n acl.NodeID, a []netip.AddrPort, h path.Home) {
	o.hints[n] = a
	o.homes[n] = h
}
func (o *fakeOverlay) Relayed(from path.Home, d []byte) { o.relayed = append(o.relayed, string(d)) }
func (o *fakeOverlay) Stats() wgtun.Stats               { return wgtun.Stats{Port: 41641} }
func (o *fakeOverlay) SetReflectors(a []path.Reflector, _ bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reflectors = a
}
func (o *fakeOverlay) Port() uint16                                 { return 41641 }
func (o *fakeOverlay) Reflect()                                     {}
func (o *fakeOverlay) Reflections() []path.Reflection               { return slices.Clone(o.mirrors) }
func (o *fakeOverlay) Hairpin(context.Context, netip.AddrPort) bool { return false }
func (o *fakeOverlay) Observed(least int) []netip.AddrPort          { return o.observed[least] }
func (o *fakeOverlay) Reflexive() []netip.AddrPort {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reflexive
}
func (o *fakeOverlay) Reprobe() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reprobed++
}
func (o *fakeOverlay) Sought(n acl.NodeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sought = append(o.sought, n)
}
func (o *fakeOverlay) Census(limit int) filter.Census {
	c := o.census
	c.Counts = c.Counts[:min(limit, len(c.Counts))]
	return c
}
func (o *fakeOverlay) TakeEvidence() (out []filter.Evidence) {
	o.mu.Lock()
	defer o.mu.Unlock()
	out, o.caught = o.caught, nil
	return out
}
func (o *fakeOverlay) Ping(ctx context.Context, _ acl.NodeID) (time.Duration, netip.AddrPort, error) {
	return time.Millisecond, netip.MustParseAddrPort("192.0.2.9:41641"), nil
}
func (o *fakeOverlay) Echo(context.Context, netip.Addr, netip.Addr) (time.Duration, error) {
	return 2 * time.Millisecond, o.echoErr
}
func (o *fakeOverlay) Dial(_ context.Context, to netip.AddrPort) (net.Conn, error) {
	return o.dial("tcp", to)
}
func (o *fakeOverlay) dial(network string, to netip.AddrPort) (net.Conn, error) {
	if o.dials == nil {
		return nil, errors.New("connection refused")
	}
	c, err := o.dials(network, to)
	return pipeEnd{c}, err
}

// pipeEnd is a pipe's end that passes for a connection.
type pipeEnd struct{ net.Conn }

func (c pipeEnd) CloseWrite() error   { return c.Close() }
func (c pipeEnd) SetLinger(int) error { return nil }

func (o *fakeOverlay) Unready(key.TunnelPublic) []acl.NodeID {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.unready
}
func (o *fakeOverlay) Rekey(k key.TunnelPrivate) (*wgtun.Rekeying, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rekeyed = append(o.rekeyed, k)
	return new(wgtun.Rekeying), o.rekeyErr
}
func (o *fakeOverlay) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return o.dial("udp", to)
}
func (o *fakeOverlay) Interface() string { return "picket0" }
func (o *fakeOverlay) Recent(limit int, want func(*filter.Flow) bool) filter.Recent {
	return o.traffic.Recent(limit, want)
}
func (o *fakeOverlay) Denials(after uint64) filter.Denials { return o.traffic.Denials(after) }
func (o *fakeOverlay) Watch(t *filter.Tap) (stop func())   { return o.traffic.Watch(t) }

// last is the state in force; the zero State, which refuses everything, when there is none.
func (o *fakeOverlay) last() wgtun.State {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.states) == 0 {
		return wgtun.State{}
	}
	return o.states[len(o.states)-1]
}

func (o *fakeOverlay) isClosed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}

// fakeSession keeps what it was told.
type fakeSession struct {
	config     control.SessionConfig
	mu         sync.Mutex
	reports    []protocol.Report
	receipts   []protocol.Receipt
	flows      []protocol.Flows
	evidence   []protocol.Evidence
	reconnects int
	seeks      []acl.NodeID
	resyncs    int
	logoutErr  error
	ended      bool
}

func (s *fakeSession) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	return nil
}
func (s *fakeSession) Retry() {}
func (s *fakeSession) SetReport(r protocol.Report) {
	s.mu.Lock()
	s.reports = append(s.reports, r)
	s.mu.Unlock()
}
func (s *fakeSession) Receipt(r protocol.Receipt) {
	s.mu.Lock()
	s.receipts = append(s.receipts, r)
	s.mu.Unlock()
}
func (s *fakeSession) Reconnect()             { s.reconnects++ }
func (s *fakeSession) Seek(n acl.NodeID)      { s.seeks = append(s.seeks, n) }
func (s *fakeSession) Flows(f protocol.Flows) { s.flows = append(s.flows, f) }
func (s *fakeSession) Evidence(e protocol.Evidence) {
	s.mu.Lock()
	s.evidence = append(s.evidence, e)
	s.mu.Unlock()
}
func (s *fakeSession) Resync()                      { s.resyncs++ }
func (s *fakeSession) Logout(context.Context) error { return s.logoutErr }

// fakeClient admits, or says err.
type fakeClient struct {
	w         *world
	err       error
	ticket    *protocol.Ticket
	waitErr   error
	approved  chan struct{}
	authKeys  []string
	hostnames []string
}

func (c *fakeClient) Enrol(_ context.Context, _ key.DevicePrivate, f protocol.Facts, authKey string) (control.Enrolment, error) {
	c.authKeys, c.hostnames = append(c.authKeys, authKey), append(c.hostnames, f.Hostname)
	if c.err != nil {
		return control.Enrolment{}, c.err
	}
	e := control.Enrolment{Coordinator: c.w.key.Public(), Network: testNetwork, Ticket: c.ticket}
	if c.ticket == nil {
		e.Admitted = c.w.admission()
	}
	return e, nil
}
func (c *fakeClient) Wait(ctx context.Context, _ protocol.Ticket) (protocol.Admission, error) {
	select {
	case <-ctx.Done():
		return protocol.Admission{}, ctx.Err()
	case <-c.approved:
		return *c.w.admission(), c.waitErr
	}
}
func (c *fakeClient) Close() {}

// quietListener never has a connection.
type quietListener struct{ done chan struct{} }

func newQuietListener() *quietListener { return &quietListener{make(chan struct{})} }
func (l *quietListener) Accept() (net.Conn, error) {
	<-l.done
	return nil, net.ErrClosed
}
func (l *quietListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}
func (l *quietListener) Addr() net.Addr { return &net.UnixAddr{Name: "quiet"} }

const (
	testNetwork = protocol.NetworkID("net1")
	testURL     = "https://c.example:8443"
	selfID      = acl.NodeID("self1")
)

// world is a node among fakes, and the coordinator's key.
type world struct {
	t        *testing.T
	key      key.CoordinatorPrivate
	dir      string
	node     *Node
	client   *fakeClient
	overlays []*fakeOverlay
	sessions []*fakeSession
	openErr  error
	boot     string
	routes   string          // of the host; changed by the agent's goroutine alone
	slept    time.Duration   // as routes
	cleaned  int             // how often leftovers were taken back
	run      context.Context // of the agent
	stop     func()
	// listeners, when set before the start, are those of the program that the node is part of.
	listeners *userspace.Listeners
}

func (w *world) api() api { return api{w.node, w.run} }

// newWorld must be called inside a bubble. The node is not started.
func newWorld(t *testing.T) *world {
	time.Sleep(365 * 24 * time.Hour) // a bubble begins where times that messages may carry begin
	w := &world{t: t, key: key.NewCoordinator(), dir: filepath.Join(t.TempDir(), "state"), boot: "first"}
	w.client = &fakeClient{w: w, approved: make(chan struct{})}
	return w
}

// start makes the node from its state directory and runs it.
func (w *world) start() {
	w.t.Helper()
	dir, err := statefile.Open(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	c := Config{State: dir, Version: "test", TUN: "picket0", Socket: newQuietListener(), Logger: slog.New(slog.DiscardHandler)}
	if w.listeners != nil {
		c.TUN, c.Socket, c.Listeners = Userspace, nil, w.listeners
	}
	n, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	n.reach = reach{
		client: func(protocol.Join, control.Config) (enroller, error) { return w.client, nil },
		session: func(c control.SessionConfig, _ enroller) (session, error) {
			s := &fakeSession{config: c}
			w.sessions = append(w.sessions, s)
			return s, nil
		},
		overlay: func(_ context.Context, c overlayConfig) (overlay, error) {
			if w.openErr != nil {
				return nil, w.openErr
			}
			o := &fakeOverlay{config: c, ready: make(chan struct{}), kill: make(chan error, 1), hints: make(map[acl.NodeID][]netip.AddrPort), homes: make(map[acl.NodeID]path.Home), traffic: filter.New()}
			w.overlays = append(w.overlays, o)
			return o, nil
		},
		routes: func() string { return w.routes },
		boot:   func() (string, time.Duration) { return w.boot, time.Since(time.Unix(0, 0)) },
		watch: func(ctx context.Context, _ chan<- struct{}) error {
			<-ctx.Done()
			return nil
		},
		clean: func(*slog.Logger) { w.cleaned++ },
	}
	n.clock.asleep = func() time.Duration { return w.slept }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	w.node, w.run = n, ctx
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		dir.Close()
	})
	w.t.Cleanup(w.stop)
	synctest.Wait()
}

// join puts the node into the network by an auth key and connects its session.
func (w *world) join() {
	w.t.Helper()
	w.start()
	go w.api().Up(w.t.Context(), localapi.Up{Coordinator: testURL, AuthKey: testAuthKey}, func(localapi.UpEvent) {})
	synctest.Wait()
	w.connect(0)
}

const testAuthKey = protocol.AuthKeyPrefix + "0123456789abcdef"

func (w *world) connect(ahead time.Duration) {
	w.handler().OnConnected(ahead)
	synctest.Wait()
}

func (w *world) handler() control.Handler { return w.session().config.Handler }

func (w *world) session() *fakeSession {
	w.t.Helper()
	if len(w.sessions) == 0 {
		w.t.Fatal("there is no session")
	}
	return w.sessions[len(w.sessions)-1]
}

func (w *world) overlay() *fakeOverlay {
	w.t.Helper()
	if len(w.overlays) == 0 {
		w.t.Fatal("there is no overlay")
	}
	return w.overlays[len(w.overlays)-1]
}

func (w *world) status() localapi.Status {
	synctest.Wait()
	return w.node.view.Load().status()
}

func (w *world) wantState(want localapi.State) {
	w.t.Helper()
	if s := w.status(); s.State != want {
		w.t.Errorf("state %s (%s), want %s", s.State, s.Problem, want)
	}
}

func (w *world) admission() *protocol.Admission {
	return &protocol.Admission{Node: selfID, Name: "me", Addresses: addrs("100.64.0.1"), Expires: time.Now().Add(30 * 24 * time.Hour)}
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// peer is another node with its keys.
type peer struct {
	id     acl.NodeID
	addr   string
	device key.DevicePrivate
	tunnel key.TunnelPublic
	probe  key.ProbePublic
}

func newPeer(id acl.NodeID, addr string) *peer {
	return &peer{id, addr, key.NewDevice(), key.NewTunnel().Public(), key.NewProbe().Public()}
}

func (p *peer) entry() protocol.Peer {
	cert := key.Certificate{Node: string(p.id), Serial: 1, Tunnel: p.tunnel, Probe: p.probe,
		NotBefore: time.Now().Add(-time.Hour).Truncate(time.Second), NotAfter: time.Now().Add(40 * time.Hour).Truncate(time.Second)}
	return protocol.Peer{
		Subject: acl.Subject{Node: p.id, Addresses: addrs(p.addr), Roles: []acl.RoleID{2}}, Name: string(p.id), Device: p.device.Public(),
		Certificate: cert.Sign(p.device), Expires: time.Now().Add(20 * 24 * time.Hour),
	}
}

// content is a map of this node and the peers, with a rule that lets this node reach them.
func content(peers ...protocol.Peer) protocol.Content {
	return protocol.Content{
		Self: protocol.Self{Subject: acl.Subject{Node: selfID, Addresses: addrs("100.64.0.1"), Roles: []acl.RoleID{1}}, Name: "me",
			Expires: time.Now().Add(30 * 24 * time.Hour)},
		Network: protocol.Network{Overlay: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}},
		Peers:   peers,
		Rules: []acl.Rule{{Ref: acl.Ref{Section: "grants", Line: 4, Column: 1}, Src: acl.Set{Roles: []acl.RoleID{1}}, Dst: acl.Set{Roles: []acl.RoleID{2}},
			Ports: []acl.Ports{{Proto: acl.TCP, First: 22, Last: 22}}}},
	}
}

// signed is a whole map of that generation, with a lease of 12 hours.
func (w *world) signed(generation uint64, c protocol.Content) protocol.Map {
	w.t.Helper()
	e, err := c.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.sign(w.key, protocol.Header{Network: testNetwork, Node: selfID, Generation: generation}, e)
}

// sign fills in digest and times where they are zero.
func (w *world) sign(k key.CoordinatorPrivate, h protocol.Header, e protocol.Entries) protocol.Map {
	w.t.Helper()
	if h.Digest == nil {
		h.Digest = protocol.Digest(e)
	}
	if h.Issued.IsZero() {
		h.Issued = time.Now().UTC()
	}
	if h.NotAfter.IsZero() {
		h.NotAfter = h.Issued.Add(12 * time.Hour)
	}
	var m protocol.Map
	_, m.Put = protocol.Diff(nil, e)
	if err := protocol.SignHeader(&m, h, k); err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) send(m protocol.Map) {
	w.handler().OnMap(m)
	synctest.Wait()
}

// nodesOf lists the peers of a state.
func nodesOf(s wgtun.State) (out []acl.NodeID) {
	for _, p := range s.Peers {
		out = append(out, p.Node)
	}
	return out
}
