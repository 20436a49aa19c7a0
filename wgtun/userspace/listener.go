package userspace

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A peer that vanished gives its place back after three minutes.
const (
	keepaliveIdle     = time.Minute
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 8
)

// listener has connections wait for Accept. It implements net.Listener.
type listener struct {
	owner *Listeners
	place place

	queue  chan accepted // never full: who sends has a part of waiting
	closed chan struct{}

	mu      sync.Mutex // guards what follows, and the sending to queue
	waiting share      // connections that Accept has not had, those whose handshake goes on too
	ended   bool
}

var errRefused = errors.New("nobody takes it")

func (p program) openTCP(_ *forwarder, id stack.TransportEndpointID) (taker, error) {
	r, ok := p.find("tcp", localOf(id)).(*listener)
	if !ok {
		return nil, errRefused
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || !r.waiting.take(id.RemoteAddress) {
		return nil, errRefused
	}
	from := remoteOf(id)
	// Before the handshake is answered: it cannot be finished by whoever has the address later, whose flow it is not.
	return &waiting{at: r, peer: id.RemoteAddress, from: from, holder: p.holder(from.Addr())}, nil
}

// accepted is a connection that waits for Accept.
type accepted struct {
	*tcpConn
	part *waiting
}

// waiting is a connection's part of a listener's backlog.
type waiting struct {
	at     *listener
	peer   tcpip.Address
	from   netip.AddrPort
	holder string // of the address, when it called
}

// abandon gives the part back.
func (w *waiting) abandon() {
	w.at.mu.Lock()
	defer w.at.mu.Unlock()
	w.at.waiting.release(w.peer)
}

// refuse resets a connection that the program does not get.
func (w *waiting) refuse(c *tcpConn) {
	w.abandon()
	_ = c.SetLinger(0)
	_ = c.Close()
}

// carry hands the connection to Accept and stays until the program has closed it: until then it counts. When ctx ends it is reset, and the program's
// to close all the same.
func (w *waiting) carry(ctx context.Context, c *tcpConn) {
	keepAlive(c.ep)
	w.at.owner.note(w)
	c.onClose = func() { w.at.owner.forgetCaller(w) }
	w.at.mu.Lock()
	ended := w.at.ended
	if !ended {
		w.at.queue <- accepted{c, w}
	}
	w.at.mu.Unlock()
	if ended {
		w.refuse(c)
		return
	}
	select {
	case <-c.closed:
	case <-ctx.Done():
		c.ep.Abort()
	}
}

func keepAlive(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	_ = ep.SetSockOpt(&idle) // TCP takes each of these
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	ep.SocketOptions().SetKeepAlive(true)
}

func (l *listener) at() place { return l.place }

// Addr is where it listens: with an unspecified address when that is every one of the node's.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.place.addrPort()) }

// Accept waits for a connection. It may have ended meanwhile, as with a kernel's socket.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed: // not by chance when something waits, too
		return nil, l.errClosed()
	default:
	}
	select {
	case c := <-l.queue:
		c.part.abandon()
		return c.tcpConn, nil
	case <-l.closed:
		return nil, l.errClosed()
	}
}

func (l *listener) errClosed() error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}

// Close resets what waits for Accept; what it has returned goes on.
func (l *listener) Close() error {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return nil
	}
	l.ended = true
	close(l.closed)
	l.mu.Unlock()
	l.owner.forget("tcp", l)
	for {
		select {
		case c := <-l.queue:
			c.part.refuse(c.tcpConn)
		default:
			return nil
		}
	}
}
