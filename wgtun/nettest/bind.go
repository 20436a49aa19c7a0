package nettest

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// DefaultBatch is the batch size of binds and TUNs: more than one, so that batches are tested, and few, because a WireGuard
// device holds 64 KB for each.
const DefaultBatch = 8

// queueLength is how many datagrams a socket holds for a reader that lags; more are lost.
const queueLength = 1024

// Endpoint is the conn.Endpoint of this package's binds: where datagrams go, and the local address they came to, which replies keep.
type Endpoint struct {
	netip.AddrPort
	src netip.Addr
}

// ClearSrc forgets the local address.
func (e *Endpoint) ClearSrc() { e.src = netip.Addr{} }

// SrcToString is the local address.
func (e *Endpoint) SrcToString() string { return e.src.String() }

// DstToString is "ip:port".
func (e *Endpoint) DstToString() string { return e.AddrPort.String() }

// DstToBytes is the binary form of netip.AddrPort.
func (e *Endpoint) DstToBytes() []byte {
	b, _ := e.AddrPort.MarshalBinary()
	return b
}

// DstIP is the remote address.
func (e *Endpoint) DstIP() netip.Addr { return e.AddrPort.Addr() }

// SrcIP is the local address.
func (e *Endpoint) SrcIP() netip.Addr { return e.src }

// bind is a conn.Bind over a Host.
type bind struct {
	host  *Host
	batch int

	mu     sync.Mutex
	socket *socket // nil while closed
}

// socket is one open UDP port: like conn.StdNetBind it has a queue for each IP version, each read by its own function.
type socket struct {
	port   uint16
	v4, v6 *queue
}

func (s *socket) queue(d Datagram) *queue {
	if d.To.Addr().Is4() {
		return s.v4
	}
	return s.v6
}

// Open takes a port on the host; the error is syscall.EADDRINUSE when it is taken.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	s, err := b.host.listen(port)
	if err != nil {
		return nil, 0, err
	}
	b.socket = s
	return []conn.ReceiveFunc{s.v4.receive, s.v6.receive}, s.port, nil
}

// listen opens a port; 0 picks a free one.
func (h *Host) listen(port uint16) (*socket, error) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	if port == 0 {
		port = h.freePortLocked()
	}
	if h.sockets[port] != nil {
		return nil, syscall.EADDRINUSE
	}
	s := &socket{port: port, v4: newQueue(), v6: newQueue()}
	h.sockets[port] = s
	return s, nil
}

func (h *Host) freePortLocked() uint16 {
	for {
		port := max(h.nextTry, firstEphemeral)
		h.nextTry = port + 1 // wraps to 0, which max lifts again
		if h.sockets[port] == nil {
			return port
		}
	}
}

// Close frees the port and ends all receives.
func (b *bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.socket == nil {
		return nil
	}
	b.host.network.mu.Lock()
	delete(b.host.sockets, b.socket.port)
	b.host.network.mu.Unlock()
	b.socket.v4.close()
	b.socket.v6.close()
	b.socket = nil
	return nil
}

// SetMark does nothing: there is no routing policy here.
func (b *bind) SetMark(uint32) error { return nil }

// BatchSize is the size given to BindBatch.
func (b *bind) BatchSize() int { return b.batch }

// ParseEndpoint reads "ip:port".
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &Endpoint{AddrPort: a}, nil
}

// Send never blocks. It returns net.ErrClosed when the bind is closed and syscall.ENETUNREACH when the host has no address of the
// destination's IP version.
func (b *bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.mu.Lock()
	s := b.socket
	b.mu.Unlock()
	if s == nil {
		return net.ErrClosed
	}
	n := b.host.network
	n.mu.Lock()
	defer n.mu.Unlock()
	src, ok := b.host.sourceLocked(to.src, to.Addr())
	if !ok {
		return syscall.ENETUNREACH
	}
	for _, buf := range bufs {
		n.launchLocked(b.host, b.host.realm, Datagram{
			From: netip.AddrPortFrom(src, s.port), To: to.AddrPort, Payload: slices.Clone(buf),
		})
	}
	return nil
}

// SendUnfragmented sends one datagram; nothing is ever cut here.
func (b *bind) SendUnfragmented(buf []byte, ep conn.Endpoint) error { return b.Send([][]byte{buf}, ep) }

// queue is what has arrived and is not yet read.
type queue struct {
	arrived chan Datagram
	closed  chan struct{}
}

func newQueue() *queue {
	return &queue{arrived: make(chan Datagram, queueLength), closed: make(chan struct{})}
}

// push reports false when the queue is full.
func (q *queue) push(d Datagram) bool {
	select {
	case q.arrived <- d:
		return true
	default:
		return false
	}
}

func (q *queue) close() { close(q.closed) }

// receive is a conn.ReceiveFunc: it waits for one datagram and takes as many more as are there.
func (q *queue) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	select {
	case <-q.closed: // first, so that nothing is delivered after Close
		return 0, net.ErrClosed
	default:
	}
	var d Datagram
	select {
	case <-q.closed:
		return 0, net.ErrClosed
	case d = <-q.arrived:
	}
	for n := 0; ; n++ {
		sizes[n] = copy(bufs[n], d.Payload)
		eps[n] = &Endpoint{AddrPort: d.From, src: d.To.Addr()}
		if n+1 == len(bufs) {
			return n + 1, nil
		}
		select {
		case d = <-q.arrived:
		default:
			return n + 1, nil
		}
	}
}
