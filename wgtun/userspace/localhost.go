package userspace

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// DialFunc opens the service of this host that stands behind a port of the overlay address, for the peer at from; network is "tcp" or "udp". TCP
// connections that it returns should have CloseWrite, or they end both ways at the peer's end of stream, and SetLinger, or a peer's
// failure reads as an end.
type DialFunc func(ctx context.Context, network string, from netip.AddrPort, port uint16) (net.Conn, error)

// dialLocalhost opens the same port of 127.0.0.1.
func dialLocalhost(ctx context.Context, network string, _ netip.AddrPort, port uint16) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
}

// localhost is the destination that joins peers to the services of this host.
type localhost struct{ dial DialFunc }

// open opens the service that stands behind a port of the overlay address.
func (h localhost) open(ctx context.Context, network string, id stack.TransportEndpointID) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, localDialTimeout)
	defer cancel()
	from, _ := netip.AddrFromSlice(id.RemoteAddress.AsSlice())
	return h.dial(ctx, network, netip.AddrPortFrom(from, id.RemotePort), id.LocalPort)
}

func (h localhost) openTCP(f *forwarder, id stack.TransportEndpointID) (taker, error) {
	c, err := h.open(f.ctx, "tcp", id)
	if err != nil {
		return nil, err
	}
	return service{c}, nil
}

// service is a connection to a service of this host, to which a peer is joined.
type service struct{ net.Conn }

func (s service) abandon() { reset(s.Conn) }

// carry copies both ways until both ends have finished, one has failed, or ctx ends. An end that closes its writing half
// closes it on the other side only; an end that fails takes the other with it by a reset, so that nobody takes a cut
// connection for a finished one. A peer that vanished is noticed here alone: the service's own keepalives do not leave this host.
func (s service) carry(ctx context.Context, remote *tcpConn) {
	keepAlive(remote.ep)
	defer remote.Close()
	defer s.Close()
	abort := func() {
		reset(s.Conn)
		remote.ep.Abort()
	}
	stop := context.AfterFunc(ctx, abort)
	defer stop()
	inward := make(chan struct{})
	go func() {
		defer close(inward)
		if !pump(s.Conn, remote) {
			abort()
		}
	}()
	if !pump(remote, s.Conn) {
		abort()
	}
	<-inward
}

// halfCloser is a connection whose writing half closes apart, as TCP's does.
type halfCloser interface{ CloseWrite() error }

// reset closes a connection of this host such that its other end reads an error and no end of stream.
func reset(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// pump copies src to dst until src ends, and then closes dst's writing half; false when either failed.
func pump(dst io.Writer, src io.Reader) bool {
	// Plain Read and Write: net.TCPConn's own ReadFrom would allocate the same buffer for us.
	if _, err := io.CopyBuffer(plainWriter{dst}, plainReader{src}, make([]byte, copyBufferSize)); err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	if c, ok := dst.(halfCloser); ok {
		return c.CloseWrite() == nil
	}
	return false
}

type plainWriter struct{ io.Writer }
type plainReader struct{ io.Reader }
