package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"

	"picket.internal/acl"
	"picket.internal/node/proxy"
)

// inbound joins peers to services of this host. Whether a peer may come in is the filter's to say, before it is asked. The zero one joins each
// port to the same of 127.0.0.1.
type inbound struct {
	entrances entrances
	only      bool       // nothing but what is exposed
	dialer    net.Dialer // that of a test sees when it connects

	mu      sync.Mutex
	exposed map[service]*exposure
}

// dial connects to what stands behind a port of this node without a network interface, for the peer at from.
func (i *inbound) dial(ctx context.Context, network string, from netip.AddrPort, port uint16) (net.Conn, error) {
	s := service{acl.TCP, port}
	if network == "udp" {
		s.proto = acl.UDP
	}
	i.mu.Lock()
	x := i.exposed[s]
	i.mu.Unlock()
	switch {
	case x != nil:
		return x.dial(ctx, i, from)
	case i.only:
		return nil, fmt.Errorf("%s port %d is not exposed", s.proto, port)
	}
	return i.connect(ctx, s)
}

// connect connects to a service of this host for a peer. The agent's own entrances are none for peers.
func (i *inbound) connect(ctx context.Context, s service) (net.Conn, error) {
	if err := i.closed(s); err != nil {
		return nil, err
	}
	c, err := i.dialer.DialContext(ctx, s.proto.String(), net.JoinHostPort("127.0.0.1", strconv.Itoa(int(s.port))))
	if err != nil {
		return nil, err
	}
	if err := i.closed(s); err != nil { // since a moment ago
		proxy.Reset(c)
		return nil, err
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return c, nil
	}
	return peerSocket{udp, i.entrances.note(addrPort(udp.LocalAddr()))}, nil
}

// closed says why a service is not for peers, if it is not.
func (i *inbound) closed(s service) error {
	if i.entrances.contains(s) {
		return fmt.Errorf("%s port %d of 127.0.0.1 leads into the overlay: it is for programs of this machine, not for peers", s.proto, s.port)
	}
	return nil
}

// addrPort is the zero one when a is no socket's address.
func addrPort(a net.Addr) netip.AddrPort {
	if at, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return netip.AddrPortFrom(at.AddrPort().Addr().Unmap(), at.AddrPort().Port())
	}
	return netip.AddrPort{}
}

// peerSocket is a UDP socket opened for a peer.
type peerSocket struct {
	*net.UDPConn
	forget func()
}

func (s peerSocket) Close() error {
	err := s.UDPConn.Close()
	s.forget()
	return err
}

// exposure leads peers who come to a port of this node to another of this host, as long as a command asks for it.
type exposure struct {
	to     service
	opened func(from, to netip.AddrPort, err error)
	ended  func(from netip.AddrPort, passed proxy.Bytes, err error)

	mu    sync.Mutex
	over  bool
	conns map[*exposedConn]struct{}
}

// expose leads a port by x until hide is called, which resets every connection; an error when it is exposed already.
func (i *inbound) expose(s service, x *exposure) (hide func(), err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.exposed[s] != nil {
		return nil, fmt.Errorf("%s port %d is exposed already: end that first", s.proto, s.port)
	}
	if i.exposed == nil {
		i.exposed = make(map[service]*exposure)
	}
	i.exposed[s] = x
	return func() {
		i.mu.Lock()
		delete(i.exposed, s)
		i.mu.Unlock()
		x.end()
	}, nil
}

func (x *exposure) dial(ctx context.Context, i *inbound, from netip.AddrPort) (net.Conn, error) {
	c, err := i.connect(ctx, x.to)
	if err != nil {
		x.opened(from, netip.AddrPort{}, err)
		return nil, err
	}
	e := &exposedConn{Conn: c, exposure: x, from: from}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over {
		proxy.Reset(c)
		return nil, net.ErrClosed
	}
	if x.conns == nil {
		x.conns = make(map[*exposedConn]struct{})
	}
	x.conns[e] = struct{}{}
	x.opened(from, addrPort(c.RemoteAddr()), nil)
	return e, nil
}

// end resets every connection.
func (x *exposure) end() {
	x.mu.Lock()
	x.over = true
	var all []*exposedConn
	for e := range x.conns {
		all = append(all, e)
	}
	x.mu.Unlock()
	for _, e := range all {
		proxy.Reset(e)
	}
}

// exposedConn counts what passes from and to a peer.
type exposedConn struct {
	net.Conn
	exposure *exposure
	from     netip.AddrPort
	sent     atomic.Uint64 // by the peer
	received atomic.Uint64
	closing  sync.Once
}

func (e *exposedConn) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	e.received.Add(uint64(max(n, 0)))
	return n, err
}

func (e *exposedConn) Write(b []byte) (int, error) {
	n, err := e.Conn.Write(b)
	e.sent.Add(uint64(max(n, 0)))
	return n, err
}

// CloseWrite is a TCP connection's.
func (e *exposedConn) CloseWrite() error {
	if half, ok := e.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return e.Close()
}

// SetLinger is a TCP connection's; of a datagram socket it does nothing.
func (e *exposedConn) SetLinger(seconds int) error {
	if c, ok := e.Conn.(interface{ SetLinger(seconds int) error }); ok {
		return c.SetLinger(seconds)
	}
	return nil
}

func (e *exposedConn) Close() error {
	err := e.Conn.Close()
	e.closing.Do(func() {
		x := e.exposure
		x.mu.Lock()
		delete(x.conns, e)
		x.mu.Unlock()
		x.ended(e.from, proxy.Bytes{Sent: e.sent.Load(), Received: e.received.Load()}, nil)
	})
	return err
}
