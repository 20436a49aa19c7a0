package userspace

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// inboundUDP is the stack's handler for datagrams of no known flow; false makes the stack answer with port unreachable.
func (s *Stack) inboundUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	f := s.inbound.Load()
	return f != nil && f.to.openUDP(f, id, pkt)
}

// openUDP makes the flow's socket before it returns, so that datagrams close behind the first find it.
func (h localhost) openUDP(f *forwarder, id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	done, ok := f.begin(&f.udp, id.RemoteAddress)
	if !ok {
		return false
	}
	started := false
	first := pkt.Clone() // kept until localhost has answered or refused
	udp.NewForwarder(f.stack.ip, func(r *udp.ForwarderRequest) {
		queue := new(waiter.Queue)
		ep, err := r.CreateEndpoint(queue)
		if err != nil {
			return
		}
		started = true
		go func() {
			defer done()
			defer first.DecRef()
			h.serveUDP(f, gonet.NewUDPConn(queue, ep), id, first)
		}()
	}).HandlePacket(id, pkt)
	if !started {
		first.DecRef()
		done()
	}
	return true
}

// serveUDP carries one flow until it has been idle, localhost refuses, or ctx ends.
func (h localhost) serveUDP(f *forwarder, remote *gonet.UDPConn, id stack.TransportEndpointID, first *stack.PacketBuffer) {
	defer remote.Close()
	local, err := h.open(f.ctx, "udp", id)
	if err != nil {
		f.stack.portUnreachable(first)
		return
	}
	defer local.Close()
	stop := context.AfterFunc(f.ctx, func() { _, _ = remote.Close(), local.Close() })
	defer stop()

	var idle idleness
	idle.touch()
	inward := make(chan struct{})
	go func() {
		defer close(inward)
		defer local.Close()
		_ = idle.relay(local, remote)
	}()
	if err := idle.relay(remote, local); errors.Is(err, syscall.ECONNREFUSED) {
		f.stack.portUnreachable(first)
	}
	_ = remote.Close()
	<-inward
}

// idleness remembers when a flow last carried anything, whichever way.
type idleness struct{ last atomic.Int64 }

func (i *idleness) touch() { i.last.Store(time.Now().UnixNano()) }

// relay copies datagrams from src to dst until either fails or the flow has been idle for udpIdleTimeout both ways.
func (i *idleness) relay(dst, src net.Conn) error {
	b := make([]byte, maxDatagram)
	for {
		_ = src.SetReadDeadline(time.Unix(0, i.last.Load()).Add(udpIdleTimeout))
		n, err := src.Read(b)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && time.Since(time.Unix(0, i.last.Load())) < udpIdleTimeout {
			continue // the other direction was busy meanwhile
		}
		if err != nil {
			return err
		}
		i.touch()
		if _, err := dst.Write(b[:n]); errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
	}
}

// portUnreachable refuses the datagram that opened a flow, as a kernel does for a port nobody holds.
func (s *Stack) portUnreachable(pkt *stack.PacketBuffer) {
	switch handler := s.ip.NetworkProtocolInstance(pkt.NetworkProtocolNumber).(type) {
	case stack.RejectIPv4WithHandler:
		_ = handler.SendRejectionError(pkt, stack.RejectIPv4WithICMPPortUnreachable, true)
	case stack.RejectIPv6WithHandler:
		_ = handler.SendRejectionError(pkt, stack.RejectIPv6WithICMPPortUnreachable, true)
	}
}
