package userspace

import (
	"context"
	"errors"
	"io"
	"net"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// inboundTCP is the stack's handler for segments of no known connection; false makes the stack answer with a reset.
func (s *Stack) inboundTCP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	f := s.inbound.Load()
	return f != nil && f.tcp.HandlePacket(id, pkt)
}

// serveTCP carries one connection from its first SYN to its end. It runs on a goroutine of its own, which gVisor starts.
func (f *forwarder) serveTCP(r *tcp.ForwarderRequest) {
	done, ok := f.begin(&f.open, r.ID().RemoteAddress)
	if !ok {
		r.Complete(true)
		return
	}
	defer done()
	queue := new(waiter.Queue)
	local, ep, ok := f.openTCP(r, queue)
	if !ok {
		return
	}
	defer local.Close()
	remote := gonet.NewTCPConn(queue, ep)
	defer remote.Close()
	splice(f.ctx, local, remote, ep)
}

// openTCP joins the peer to localhost, or refuses the peer.
func (f *forwarder) openTCP(r *tcp.ForwarderRequest, queue *waiter.Queue) (net.Conn, tcpip.Endpoint, bool) {
	opened, ok := f.begin(&f.opening, r.ID().RemoteAddress)
	if !ok {
		r.Complete(true)
		return nil, nil, false
	}
	defer opened()
	local, err := f.dialLocal("tcp", r.ID())
	if err != nil {
		r.Complete(true) // the peer sees the refusal that localhost gave us
		return nil, nil, false
	}
	ep, accepted := f.accept(r, queue)
	if !accepted {
		reset(local)
		return nil, nil, false
	}
	return local, ep, true
}

// accept finishes the handshake with the peer, or fails when the peer or the forwarder has gone.
func (f *forwarder) accept(r *tcp.ForwarderRequest, queue *waiter.Queue) (tcpip.Endpoint, bool) {
	id := r.ID()
	if !f.setHalfOpen(id, true) {
		r.Complete(true)
		return nil, false
	}
	defer f.setHalfOpen(id, false)
	ep, err := r.CreateEndpoint(queue)
	r.Complete(err != nil)
	return ep, err == nil
}

// halfCloser is a connection whose writing half closes apart, as TCP's does.
type halfCloser interface{ CloseWrite() error }

// splice copies both ways until both ends have finished, one has failed, or ctx ends. An end that closes its writing half
// closes it on the other side only; an end that fails takes the other with it by a reset, so that nobody takes a cut
// connection for a finished one.
func splice(ctx context.Context, local net.Conn, remote *gonet.TCPConn, ep tcpip.Endpoint) {
	abort := func() {
		reset(local)
		ep.Abort()
	}
	stop := context.AfterFunc(ctx, abort)
	defer stop()
	inward := make(chan struct{})
	go func() {
		defer close(inward)
		if !pump(local, remote) {
			abort()
		}
	}()
	if !pump(remote, local) {
		abort()
	}
	<-inward
}

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
