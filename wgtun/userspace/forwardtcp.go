package userspace

import (
	"gvisor.dev/gvisor/pkg/tcpip"
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
	by, ep, ok := f.openTCP(r, queue)
	if !ok {
		return
	}
	by.carry(f.ctx, newTCPConn(queue, ep))
}

// openTCP finds who takes the peer's connection and finishes the handshake, or refuses the peer.
func (f *forwarder) openTCP(r *tcp.ForwarderRequest, queue *waiter.Queue) (taker, tcpip.Endpoint, bool) {
	opened, ok := f.begin(&f.opening, r.ID().RemoteAddress)
	if !ok {
		r.Complete(true)
		return nil, nil, false
	}
	defer opened()
	by, err := f.to.openTCP(f, r.ID())
	if err != nil {
		r.Complete(true) // the peer sees the refusal that we were given
		return nil, nil, false
	}
	ep, accepted := f.accept(r, queue)
	if !accepted {
		by.abandon()
		return nil, nil, false
	}
	return by, ep, true
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
