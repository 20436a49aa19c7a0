package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/key"
)

const network = "net"

// world is a relay and its clients, over pipes.
type world struct {
	t      *testing.T
	key    key.CoordinatorPrivate
	server *Server
	ctx    context.Context

	mu     sync.Mutex
	serves sync.WaitGroup
	frozen chan struct{} // not nil: nothing comes from the relay any more, until it is closed
	fails  error
	dials  []time.Time
	pings  int // of clients
}

func newWorld(t *testing.T, change ...func(*ServerConfig)) *world {
	t.Helper()
	w := &world{t: t, key: key.NewCoordinator()}
	c := ServerConfig{Coordinator: w.key.Public(), Network: network, Name: "near"}
	for _, f := range change {
		f(&c)
	}
	w.server = NewServer(c)
	ctx, cancel := context.WithCancel(t.Context())
	w.ctx = ctx
	t.Cleanup(func() {
		cancel()
		w.server.Close()
		w.serves.Wait()
		if n := w.server.Stats().Clients; n != 0 {
			t.Errorf("%d clients are left", n)
		}
	})
	return w
}

// dial connects to the relay.
func (w *world) dial(context.Context) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials = append(w.dials, time.Now())
	if w.fails != nil {
		return nil, w.fails
	}
	here, there := net.Pipe()
	w.serves.Go(func() { _ = w.server.Serve(w.ctx, there) })
	return &valve{Conn: here, w: w, closed: make(chan struct{})}, nil
}

// valve is a connection that can be frozen.
type valve struct {
	net.Conn
	w      *world
	once   sync.Once
	closed chan struct{}
}

func (v *valve) Read(b []byte) (int, error) {
	n, err := v.Conn.Read(b)
	v.w.mu.Lock()
	frozen := v.w.frozen
	v.w.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-v.closed:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (v *valve) Write(b []byte) (int, error) {
	if len(b) == headerSize+pingSize && kind(b[0]) == kindPing {
		v.w.mu.Lock()
		v.w.pings++
		v.w.mu.Unlock()
	}
	return v.Conn.Write(b)
}

func (v *valve) Close() error {
	v.once.Do(func() { close(v.closed) })
	return v.Conn.Close()
}

// node is a device with a client.
type node struct {
	*Client
	w      *world
	device key.DevicePrivate
	stop   func()

	mu   sync.Mutex
	pass []byte
	got  []string // sender's first byte, and text
}

func (n *node) address() Address { return AddressOf(network, n.device.Public()) }

// node makes a device that is not connected yet.
func (w *world) node() *node {
	n := &node{w: w, device: key.NewDevice()}
	n.Client = NewClient(ClientConfig{
		Name: "near", Network: network, Dial: w.dial, Device: n.device,
		Pass: func() []byte { n.mu.Lock(); defer n.mu.Unlock(); return n.pass },
		Receive: func(from Address, d []byte) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.got = append(n.got, fmt.Sprintf("%x %s", from[:4], d))
		},
	})
	return n
}

// may gives a node a pass for others.
func (n *node) may(others ...*node) {
	var peers []Address
	for _, o := range others {
		peers = append(peers, o.address())
	}
	p := NewPass(network, n.device.Public(), peers, time.Now())
	n.mu.Lock()
	n.pass = p.Sign(n.w.key)
	n.mu.Unlock()
	n.Renew()
}

func (n *node) start() {
	ctx, cancel := context.WithCancel(n.w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			n.w.t.Errorf("Run: %v", err)
		}
	}()
	n.stop = sync.OnceFunc(func() { cancel(); <-done })
	n.w.t.Cleanup(n.stop)
}

func (n *node) take() []string {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	got := n.got
	n.got = nil
	return got
}

func said(from *node, text string) string {
	a := from.address()
	return fmt.Sprintf("%x %s", a[:4], text)
}

// pair is two nodes that may meet, connected.
func (w *world) pair() (a, b *node) {
	a, b = w.node(), w.node()
	a.may(b)
	b.may(a)
	a.start()
	b.start()
	synctest.Wait()
	if !a.Status().Connected || !b.Status().Connected {
		w.t.Fatalf("not connected: %+v, %+v", a.Status(), b.Status())
	}
	return a, b
}

// raw is a client made by hand, up to a step of the login.
type raw struct {
	t    *testing.T
	conn net.Conn
	r    *reader
}

func (w *world) raw() *raw {
	conn, err := w.dial(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return &raw{w.t, conn, &reader{r: conn, only: func(kind) bool { return true }}}
}

func (r *raw) next() (kind, []byte) {
	r.t.Helper()
	_ = r.conn.SetReadDeadline(time.Now().Add(10 * time.Minute))
	k, payload, err := r.r.next()
	if err != nil {
		return 0, nil
	}
	return k, bytes.Clone(payload)
}

func (r *raw) write(b []byte) { _, _ = r.conn.Write(b) }

// refused reads until the relay ends it, and returns the code.
func (r *raw) refused() byte {
	for {
		k, payload := r.next()
		switch k {
		case kindRefuse:
			if k, _ := r.next(); k != 0 {
				r.t.Errorf("a frame of type %d after the refusal", k)
			}
			return payload[0]
		case 0:
			return 0
		}
	}
}

var errTest = errors.New("no way there")

func contains(got []string, want string) bool { return slices.Contains(got, want) }
