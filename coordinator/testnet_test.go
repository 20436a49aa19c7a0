package coordinator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/coordinator/sqlite"
	"picket.internal/wgtun/key"
)

const testNetwork = protocol.NetworkID("net-test")

var (
	operator = coordinator.Actor{Kind: coordinator.ActorOperator, Name: "uid 0"}
	home     = netip.MustParseAddr("198.51.100.7")
	office   = netip.MustParseAddr("203.0.113.9")
)

// openPolicy lets every node reach every other.
const openPolicy = `{"tagOwners": {"tag:db": ["autogroup:member"], "tag:web": ["autogroup:member"]},
	"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`

// store is what a backend hands the suite.
type store interface {
	coordinator.Store
	Close() error
}

// openStore makes a store in dir, or opens the one there. A second backend takes its place here.
func openStore(ctx context.Context, dir string) (store, error) {
	return sqlite.Open(ctx, filepath.Join(dir, "picket.db"), testNetwork)
}

// testPolicy is a source whose text the test sets.
type testPolicy struct {
	mu      sync.Mutex
	found   coordinator.PolicyText
	err     error
	fetches atomic.Int32
	changed chan struct{}
	hung    chan struct{} // by mu: not nil makes Fetch wait until it is closed
	hanging chan struct{} // by mu: gets a value from each Fetch that waits
}

// hang makes each Fetch from now on wait until release.
func (p *testPolicy) hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung, p.hanging = make(chan struct{}), make(chan struct{}, 10)
}

func (p *testPolicy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.hung)
	p.hung = nil
}

// waitHung waits until a Fetch hangs.
func (p *testPolicy) waitHung(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	hanging := p.hanging
	p.mu.Unlock()
	select {
	case <-hanging:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is fetched")
	}
}

func (p *testPolicy) set(text, commit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found = coordinator.PolicyText{Text: []byte(text), Commit: commit, Author: "Ann <ann@example.com>", Subject: "change who may what", Time: time.Now()}
}

func (p *testPolicy) Fetch(ctx context.Context, _ string) (coordinator.PolicyText, error) {
	p.fetches.Add(1)
	p.mu.Lock()
	hung := p.hung
	if hung != nil {
		p.hanging <- struct{}{}
	}
	p.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.found, p.err
}
func (p *testPolicy) Changed() <-chan struct{} { return p.changed }
func (p *testPolicy) String() string           { return "file /srv/quiet/policy.hujson" }

// failing is a store whose writes can be made to fail after they did everything but commit.
type failing struct {
	coordinator.Store
	full  atomic.Bool // writes fail at the commit
	dead  atomic.Bool // writes fail before anything
	hangs atomic.Bool // writes wait until their context ends
	reads atomic.Bool // reads fail
}

var errFull = &coordinator.Error{Code: protocol.CodeUnavailable, Message: "the disk holding /x is full: make room there"}

func (f *failing) Update(ctx context.Context, fn func(coordinator.Tx) error) error {
	if f.hangs.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.dead.Load() {
		return errors.New("input/output error")
	}
	return f.Store.Update(ctx, func(tx coordinator.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if f.full.Load() {
			return errFull
		}
		return nil
	})
}

func (f *failing) View(ctx context.Context, fn func(coordinator.ReadTx) error) error {
	if f.reads.Load() {
		return errors.New("cannot read")
	}
	return f.Store.View(ctx, fn)
}

// testnet is a coordinator on a temporary store.
type testnet struct {
	*coordinator.Coordinator
	t      *testing.T
	ctx    context.Context
	dir    string
	config coordinator.Config
	store  store
	faults *failing
	policy *testPolicy
	log    *bytes.Buffer
}

// newNet starts with openPolicy in force; adjust changes the configuration first.
func newNet(t *testing.T, adjust ...func(*coordinator.Config)) *testnet {
	t.Helper()
	n := &testnet{t: t, ctx: t.Context(), dir: t.TempDir(), policy: &testPolicy{}, log: &bytes.Buffer{}}
	n.policy.set(openPolicy, "c0ffee0000000000000000000000000000000001")
	n.config = coordinator.Config{
		Key: key.NewCoordinator(), Network: testNetwork, Salt: bytes.Repeat([]byte{7}, 32), URL: "https://picket.example",
		Overlay4: netip.MustParsePrefix("100.64.0.0/10"), Overlay6: netip.MustParsePrefix("fd7a:1:2::/48"),
		Policy: n.policy, Passwords: coordinator.PasswordCost{Memory: 8, Passes: 1},
		Breaker: coordinator.Breaker{Off: true}, // the fake nodes do not answer by themselves
		Logger:  slog.New(slog.NewTextHandler(n.log, nil)),
	}
	for _, f := range adjust {
		f(&n.config)
	}
	n.start()
	if n.config.Policy != nil {
		n.reload("")
	}
	return n
}

// start opens the store and makes the coordinator; it may be called again after stop.
func (n *testnet) start() {
	n.t.Helper()
	var err error
	if n.store, err = openStore(n.ctx, n.dir); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { n.store.Close() })
	n.faults = &failing{Store: n.store}
	n.config.Store = n.faults
	if n.Coordinator, err = coordinator.New(n.ctx, n.config); err != nil {
		n.t.Fatal(err)
	}
}

func (n *testnet) stop() {
	n.t.Helper()
	if err := n.store.Close(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *testnet) reload(accept string) coordinator.PolicyStatus {
	n.t.Helper()
	s, _, err := n.ReloadPolicy(n.ctx, operator, accept)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// run starts Run, and stops it at the end of the test.
func (n *testnet) run() {
	ctx, cancel := context.WithCancel(n.ctx)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})
}

// person is an account and what its owner knows.
type person struct {
	coordinator.User
	password, totp string
	recovery       []string
}

func (p *person) actor() coordinator.Actor {
	return coordinator.Actor{Kind: coordinator.ActorUser, User: p.ID, Name: p.Login, From: home}
}

func totpCode(t *testing.T, secret string, at time.Time) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, at)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// setup spends a setup token.
func (n *testnet) setup(token, login string) *person {
	n.t.Helper()
	p := &person{password: "correct horse battery"}
	var err error
	if p.totp, _, err = n.NewTOTP(login); err != nil {
		n.t.Fatal(err)
	}
	p.User, p.recovery, err = n.CompleteSetup(n.ctx, coordinator.Setup{
		Token: token, Login: login, Password: p.password, TOTPSecret: p.totp, Code: totpCode(n.t, p.totp, time.Now()), From: home,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// admin makes the first account.
func (n *testnet) admin() *person {
	n.t.Helper()
	token, needed, err := n.FirstSetup(n.ctx)
	if err != nil || !needed {
		n.t.Fatalf("FirstSetup: needed %v, %v", needed, err)
	}
	return n.setup(token, "root@example.com")
}

// member makes a further account.
func (n *testnet) member(login string) *person {
	n.t.Helper()
	_, token, err := n.AddUser(n.ctx, operator, login, coordinator.RoleMember)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.setup(token, login)
}

// device is a node's side: its keys, what it was admitted as, and its session.
type device struct {
	n        *testnet
	key      key.DevicePrivate
	facts    protocol.Facts
	admitted protocol.Admission
	serial   uint64
	cert     []byte
	routes   []netip.Prefix // advertised

	session    *coordinator.Session
	generation uint64
	entries    protocol.Entries
	header     protocol.Header
	content    protocol.Content
}

func (n *testnet) device(hostname string) *device {
	return &device{n: n, key: key.NewDevice(), facts: protocol.Facts{Hostname: hostname, OS: "linux", Arch: "amd64", Version: "test"}}
}

// enrolBody is a request with a fresh nonce, before it is signed.
func (d *device) enrolBody(authKey string) protocol.EnrolBody {
	d.n.t.Helper()
	nonce := bytes.Repeat([]byte{3}, 16)
	info, err := d.n.Info(nonce)
	if err != nil {
		d.n.t.Fatal(err)
	}
	body, err := protocol.OpenInfo(info, nonce, d.n.config.Key.Public().Fingerprint())
	if err != nil {
		d.n.t.Fatal(err)
	}
	return protocol.EnrolBody{Network: body.Network, Coordinator: body.Coordinator, Nonce: body.Nonce, Device: d.key.Public(), Facts: d.facts, AuthKey: authKey}
}

func (d *device) send(b protocol.EnrolBody) (protocol.EnrolAnswer, error) {
	d.n.t.Helper()
	e, err := protocol.SignEnrol(b, d.key)
	if err != nil {
		d.n.t.Fatal(err)
	}
	return d.n.Enrol(d.n.ctx, e, home)
}

func (d *device) enrol(authKey string) (protocol.EnrolAnswer, error) {
	d.n.t.Helper()
	return d.send(d.enrolBody(authKey))
}

// ticket asks for admission without a key and must be given a ticket.
func (d *device) ticket() protocol.Ticket {
	d.n.t.Helper()
	a, err := d.enrol("")
	if err != nil || a.Ticket == nil {
		d.n.t.Fatalf("Enrol: %+v, %v", a, err)
	}
	return *a.Ticket
}

// join has p approve the device.
func (d *device) join(p *person) *device {
	d.n.t.Helper()
	t := d.ticket()
	if _, err := d.n.Approve(d.n.ctx, p.actor(), t.ID, t.Code); err != nil {
		d.n.t.Fatal(err)
	}
	a, err := d.n.Wait(d.n.ctx, protocol.Wait{Ticket: t.ID, Secret: t.Secret})
	if err != nil || a.Admitted == nil {
		d.n.t.Fatalf("Wait: %+v, %v", a, err)
	}
	d.admitted = *a.Admitted
	return d
}

// joinTagged admits the device by an auth key.
func (d *device) joinTagged(tags ...string) *device {
	d.n.t.Helper()
	_, text, err := d.n.CreateAuthKey(d.n.ctx, operator, coordinator.NewAuthKey{Tags: tags})
	if err != nil {
		d.n.t.Fatal(err)
	}
	a, err := d.enrol(text)
	if err != nil || a.Admitted == nil {
		d.n.t.Fatalf("Enrol with a key: %+v, %v", a, err)
	}
	d.admitted = *a.Admitted
	return d
}

func (d *device) node() acl.NodeID { return d.admitted.Node }

// newCertificate is one of the next serial.
func (d *device) newCertificate() []byte {
	d.serial++
	d.cert = key.Certificate{
		Node: string(d.node()), Serial: d.serial, Tunnel: key.NewTunnel().Public(), Probe: key.NewProbe().Public(),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(48 * time.Hour),
	}.Sign(d.key)
	return d.cert
}

func (d *device) report() protocol.Report {
	if d.cert == nil {
		d.newCertificate()
	}
	return protocol.Report{Facts: d.facts, Certificate: d.cert, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:41641")}, Routes: d.routes}
}

func (d *device) hello() protocol.Hello {
	h := protocol.Hello{Version: protocol.Version, Node: d.node(), Device: d.key.Public(), Nonce: bytes.Repeat([]byte{9}, 32)}
	if d.generation > 0 {
		h.Generation, h.Digest = d.generation, protocol.Digest(d.entries)
	}
	return h
}

// attach opens a session.
func (d *device) attach() error {
	d.n.t.Helper()
	h := d.hello()
	ch, err := d.n.Challenge(h)
	if err != nil {
		return err
	}
	if err := ch.Open(h, d.n.config.Key.Public(), testNetwork); err != nil {
		d.n.t.Fatal(err)
	}
	p := protocol.Proof{Report: d.report()}
	p.Sign(h, ch, d.key)
	s, err := d.n.Attach(d.n.ctx, h, ch, p, netip.AddrPortFrom(home, 5555))
	if err != nil {
		return err
	}
	d.session = s
	d.n.t.Cleanup(s.Close)
	return nil
}

// connect attaches and takes the first map.
func (d *device) connect() *device {
	d.n.t.Helper()
	if err := d.attach(); err != nil {
		d.n.t.Fatal(err)
	}
	d.nextMap()
	return d
}

// next waits for a message of the type wanted, taking in maps on the way.
func (d *device) next(want string) any {
	d.n.t.Helper()
	for range 100 {
		out, err := d.take()
		if err != nil {
			d.n.t.Fatalf("Next of %s: %v", d.admitted.Name, err)
		}
		if out.Type == want {
			return out.Body
		}
	}
	d.n.t.Fatalf("%s is sent no %s, but other messages", d.admitted.Name, want)
	return nil
}

// take returns the next message, having taken it in if it is a map.
func (d *device) take() (coordinator.Outgoing, error) {
	ctx, cancel := context.WithTimeout(d.n.ctx, 20*time.Second)
	defer cancel()
	out, err := d.session.Next(ctx)
	if err == nil && out.Type == protocol.TypeMap {
		m := out.Body.(protocol.Map)
		err = d.merge(&m)
	}
	return out, err
}

func (d *device) merge(m *protocol.Map) error {
	h, err := protocol.OpenHeader(m, d.n.config.Key.Public(), testNetwork, d.node())
	if err != nil {
		return err
	}
	e, err := protocol.Merge(d.entries, d.generation, m, h)
	if err != nil {
		return err
	}
	d.header, d.entries, d.generation = h, e, h.Generation
	d.content, err = protocol.Decode(e)
	return err
}

func (d *device) nextMap() protocol.Map {
	d.n.t.Helper()
	return d.next(protocol.TypeMap).(protocol.Map)
}

// until takes messages until the map satisfies ok.
func (d *device) until(what string, ok func(protocol.Content) bool) {
	d.n.t.Helper()
	for !ok(d.content) {
		if _, err := d.take(); err != nil {
			d.n.t.Fatalf("%s never came to %s: %v", d.admitted.Name, what, err)
		}
	}
}

func (d *device) peers() (names []string) {
	for _, p := range d.content.Peers {
		names = append(names, p.Name)
	}
	return names
}

func hasPeer(name string) func(protocol.Content) bool {
	return func(c protocol.Content) bool {
		for _, p := range c.Peers {
			if p.Name == name {
				return true
			}
		}
		return false
	}
}

func lacksPeer(name string) func(protocol.Content) bool {
	return func(c protocol.Content) bool { return !hasPeer(name)(c) }
}

func (d *device) receipt(cut int) protocol.Receipt {
	r := protocol.Receipt{Generation: d.generation, Digest: d.header.Digest, Applied: time.Millisecond, Cut: cut}
	r.Sign(testNetwork, d.node(), d.key)
	return r
}

// follow takes in maps and answers with receipts until the session ends; the channel gets why.
func (d *device) follow() <-chan error {
	done := make(chan error, 1)
	go func() {
		for {
			out, err := d.session.Next(d.n.ctx)
			if err != nil {
				done <- err
				return
			}
			if out.Type != protocol.TypeMap {
				continue
			}
			m := out.Body.(protocol.Map)
			if err = d.merge(&m); err == nil {
				err = d.session.Receipt(d.n.ctx, d.receipt(0))
			}
			if err != nil {
				done <- fmt.Errorf("%s: %w", d.admitted.Name, err)
				return
			}
		}
	}()
	return done
}

// wantCode fails unless err is an *coordinator.Error of that code.
func wantCode(t *testing.T, what string, err error, code string) {
	t.Helper()
	var e *coordinator.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("%s: got %v (%T), want code %s", what, err, err, code)
	}
}

// ended waits until the session of d is over and returns why.
func (d *device) ended() error {
	d.n.t.Helper()
	for {
		if _, err := d.take(); err != nil {
			return err
		}
	}
}

// actions lists the audit log's actions, oldest first.
func (n *testnet) actions() (out []string) {
	n.t.Helper()
	records, err := n.Audit(n.ctx, operator, 10_000, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	for i := range records {
		out = append(out, records[len(records)-1-i].Action)
	}
	return out
}

// demote makes p a member, as another replica or a later version might.
func (n *testnet) demote(p *person) {
	n.t.Helper()
	err := n.store.Update(n.ctx, func(tx coordinator.Tx) error {
		u, err := tx.UserByID(p.ID)
		if err != nil {
			return err
		}
		u.Role = coordinator.RoleMember
		return tx.UpdateUser(u)
	})
	if err != nil {
		n.t.Fatal(err)
	}
}
