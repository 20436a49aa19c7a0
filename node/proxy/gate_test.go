package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// gateWorld is a gate at loopback that leads to a service there, and what it was told.
type gateWorld struct {
	near   string
	far    chan *net.TCPConn // what came through
	told   chan string
	budget *Budget
	end    func()
}

func newGate(t *testing.T, refuse error) *gateWorld {
	t.Helper()
	service, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &gateWorld{near: l.Addr().String(), far: make(chan *net.TCPConn, 2*maxGateConns), told: make(chan string, 4*maxGateConns), budget: NewBudget()}
	go func() {
		for {
			c, err := service.AcceptTCP()
			if err != nil {
				return
			}
			w.far <- c
		}
	}()
	g := &Gate{Budget: w.budget,
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			if refuse != nil {
				return nil, refuse
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", service.Addr().String())
		},
		Opened: func(_, to netip.AddrPort, err error) {
			if err != nil {
				w.told <- "refused: " + err.Error()
				return
			}
			w.told <- "opened"
		},
		Ended: func(_ netip.AddrPort, b Bytes, err error) {
			word := "ended"
			if err != nil {
				word = "cut"
			}
			if b != (Bytes{}) {
				word += " with bytes"
			}
			w.told <- word
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := newDone()
	go func() { done <- g.ServeTCP(ctx, l) }()
	w.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeTCP: %v", err)
		}
		if len(w.budget.conns) != 0 {
			t.Errorf("%d places are still held", len(w.budget.conns))
		}
		service.Close()
	})
	t.Cleanup(w.end)
	return w
}

func (w *gateWorld) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", w.near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func (w *gateWorld) heard(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-w.told:
		if got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("told nothing, want %q", want)
	}
}

func TestGate_endsEachWayApart(t *testing.T) {
	w := newGate(t, nil)
	c := w.dial(t)
	w.heard(t, "opened")
	far := <-w.far
	defer far.Close()
	io.WriteString(c, "question")
	c.CloseWrite()
	if b, err := io.ReadAll(far); err != nil || string(b) != "question" {
		t.Errorf("there came %q, %v", b, err)
	}
	io.WriteString(far, "answer")
	far.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "answer" {
		t.Errorf("back came %q, %v", b, err)
	}
	w.heard(t, "ended with bytes")
}

func TestGate_passesACutOnAsACut(t *testing.T) {
	w := newGate(t, nil)
	c := w.dial(t)
	w.heard(t, "opened")
	Reset(<-w.far)
	if _, err := io.ReadAll(c); err == nil {
		t.Error("a cut connection reads as a finished one")
	}
	w.heard(t, "cut")
}

func TestGate_refusesByAReset(t *testing.T) {
	w := newGate(t, errors.New("no rule allows it"))
	if c, err := net.Dial("tcp", w.near); err == nil { // else the reset was there at once
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadAll(c); err == nil {
			t.Error("a refused connection reads as a finished one")
		}
	}
	w.heard(t, "refused: no rule allows it")
}

func TestGate_endsItsConnections(t *testing.T) {
	w := newGate(t, nil)
	c := w.dial(t)
	w.heard(t, "opened")
	w.end()
	if _, err := io.ReadAll(c); err == nil {
		t.Error("the end of a gate reads as the connection's own")
	}
	w.heard(t, "cut")
	if c, err := net.Dial("tcp", w.near); err == nil {
		c.Close()
		t.Error("the gate is open still")
	}
}

func TestGate_isBounded(t *testing.T) {
	w := newGate(t, nil)
	var first *net.TCPConn
	for range maxGateConns {
		c := w.dial(t)
		w.heard(t, "opened")
		if first == nil {
			first = c
		}
	}
	if c, err := net.Dial("tcp", w.near); err == nil {
		defer c.Close()
	}
	w.heard(t, "refused: "+errGateFull.Error())
	Reset(first)
	w.heard(t, "cut")
	free, ok := take(w.budget.conns)
	if !ok {
		t.Fatal("the place of a connection that ended is not free")
	}
	free()
	for range 10_000 { // the place is given back after the word
		if len(w.budget.conns) < maxGateConns {
			break
		}
		time.Sleep(time.Millisecond)
	}
	w.dial(t)
	w.heard(t, "opened")
}

func TestClients_haveTheirShare(t *testing.T) {
	c, all := clients{most: 2}, make(chan struct{}, 3)
	a, b := key(1).Addr(), netip.MustParseAddr("100.64.0.3")
	free, ok1 := c.take(a, all)
	_, ok2 := c.take(a, all)
	_, ok3 := c.take(a, all)
	_, ok4 := c.take(b, all)
	_, ok5 := c.take(b, all)
	if !ok1 || !ok2 || ok3 || !ok4 || ok5 {
		t.Errorf("took %v %v %v, another %v, more than there are %v", ok1, ok2, ok3, ok4, ok5)
	}
	free()
	if _, ok := c.take(b, all); !ok || len(all) != 3 || c.have[a] != 1 {
		t.Errorf("what was given back is not free: %d are taken, %v", len(all), c.have)
	}
}

func TestTake_takesAllOrNone(t *testing.T) {
	a, full := make(chan struct{}, 1), make(chan struct{})
	if _, ok := take(a, full); ok || len(a) != 0 {
		t.Errorf("took %d places of the first though the second is full", len(a))
	}
}

// TestGate_leadsNoPeersDatagrams: a peer's socket may have been joined to the port before the gate had it.
func TestGate_leadsNoPeersDatagrams(t *testing.T) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := addrPort(c.LocalAddr())
	peer, client := sender(t, at), sender(t, at)
	far := new(farEnd)
	ended := make(chan Bytes, 10)
	g := &Gate{Budget: NewBudget(), Dial: far.dial, FromPeer: func(a netip.AddrPort) bool { return a == addrPort(peer.LocalAddr()) },
		Opened: func(netip.AddrPort, netip.AddrPort, error) {},
		Ended:  func(_ netip.AddrPort, b Bytes, _ error) { ended <- b }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.ServeUDP(ctx, c) }()
	io.WriteString(peer, "let me through")
	through(t, client, "datagram", "datagram")
	silent(t, peer, "a peer")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b := <-ended; b != (Bytes{8, 8}) {
		t.Errorf("passed %+v", b)
	}
	if len(far.dialed) != 1 {
		t.Errorf("dialled for %v", far.dialed)
	}
}

// shortListener has no descriptor to give at first.
type shortListener struct {
	net.Listener
	errs []error
}

func (l *shortListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	return l.Listener.Accept()
}

// TestListeners_outliveAShortage: peers and local programs may have this process run out of descriptors; that must not end what they use, nor the agent.
func TestListeners_outliveAShortage(t *testing.T) {
	shortage := []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED}
	for name, serve := range map[string]func(context.Context, net.Listener) error{
		"a proxy": NewSOCKS5(&fakeNetwork{}, slog.New(slog.DiscardHandler)).Serve,
		"a gate":  (&Gate{Budget: NewBudget(), Dial: refuseAll, Opened: func(_, _ netip.AddrPort, _ error) {}}).ServeTCP,
	} {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := newDone()
		go func() { done <- serve(ctx, &shortListener{inner, shortage}) }()
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = c.Write([]byte{0, 0}) // no SOCKS5: either answers by an end
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s answers nobody any more", name)
		}
		c.Close()
		select {
		case err := <-done:
			t.Errorf("%s ended: %v", name, err)
		default:
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		cancel()
		inner.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := accept(ctx, &shortListener{nil, shortage}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while there was nothing to give: %v", err)
	}
}

func refuseAll(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, errors.New("the test has no peers")
}
