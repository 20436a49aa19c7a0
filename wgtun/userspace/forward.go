package userspace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Bounds of inbound forwarding, shared among peers (see share). Beyond them a connection is refused, never queued.
const (
	maxTCPHandshakes   = 128 // opened by a peer, and not yet answered by localhost or not finished by the peer
	maxTCPRefusals     = 128 // handshakes above those, on their way to be refused
	maxTCPConnections  = 1024
	maxUDPFlows        = 256 // each may hold two datagrams of 64 KiB
	localDialTimeout   = 5 * time.Second
	udpIdleTimeout     = 180 * time.Second // as long as the filter keeps a replied UDP flow
	maxDatagram        = 64 << 10
	copyBufferSize     = 32 << 10
	abortInterval      = 50 * time.Millisecond
	defaultReceiveSize = 0 // the stack's own
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

// forwarder hands inbound connections to localhost while one ForwardInbound runs.
type forwarder struct {
	stack *Stack
	ctx   context.Context // of ForwardInbound; in a field because gVisor calls back without one
	dial  DialFunc
	tcp   *tcp.Forwarder

	mu       sync.Mutex // guards what follows
	opening  share      // of handshakes
	open     share      // of TCP connections, those opening too
	udp      share      // of UDP flows
	ended    bool       // no new work
	work     sync.WaitGroup
	halfOpen map[stack.TransportEndpointID]bool // connections whose handshake the peer has not finished
}

// ForwardInbound hands every inbound TCP connection and UDP flow on port P to 127.0.0.1:P (or dial, when not nil) until ctx
// ends; then every forwarded connection is closed and nil returned. A port on which nothing listens, or that dial refuses, is refused to
// the peer as a kernel would: the handshake is completed only after localhost has accepted. Only one call may run at a time.
func (s *Stack) ForwardInbound(ctx context.Context, dial DialFunc) error {
	if dial == nil {
		dial = dialLocalhost
	}
	f := &forwarder{
		stack:    s,
		ctx:      ctx,
		dial:     dial,
		opening:  newShare(maxTCPHandshakes),
		open:     newShare(maxTCPConnections),
		udp:      newShare(maxUDPFlows),
		halfOpen: make(map[stack.TransportEndpointID]bool),
	}
	f.tcp = tcp.NewForwarder(s.ip, defaultReceiveSize, maxTCPHandshakes+maxTCPRefusals, f.serveTCP)
	if !s.inbound.CompareAndSwap(nil, f) {
		return errors.New("forward inbound connections: already running")
	}
	select {
	case <-ctx.Done():
	case <-s.device.closed:
	}
	s.inbound.Store(nil)
	f.end()
	if ctx.Err() == nil {
		return fmt.Errorf("forward inbound connections: %w", errClosed)
	}
	return nil
}

// begin admits one piece of work for a peer when the peer's share has room and the forwarder has not ended; done must then be called.
func (f *forwarder) begin(of *share, peer tcpip.Address) (done func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || !of.take(peer) {
		return nil, false
	}
	f.work.Add(1)
	return func() {
		f.mu.Lock()
		of.release(peer)
		f.mu.Unlock()
		f.work.Done()
	}, true
}

// end refuses new work and waits for the rest, which ctx has ended. Handshakes that wait for a peer are aborted, again and again:
// one that has just begun is noted before the stack knows it.
func (f *forwarder) end() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		f.work.Wait()
		close(done)
	}()
	ticker := time.NewTicker(abortInterval)
	defer ticker.Stop()
	for {
		f.abortHalfOpen()
		select {
		case <-done:
			return
		case <-ticker.C:
		}
	}
}

func (f *forwarder) abortHalfOpen() {
	f.mu.Lock()
	waiting := slices.Collect(maps.Keys(f.halfOpen))
	f.mu.Unlock()
	for _, id := range waiting {
		if ep := f.stack.ip.FindTransportEndpoint(networkOf(id.LocalAddress), header.TCPProtocolNumber, id, nicID); ep != nil {
			ep.Abort()
		}
	}
}

// setHalfOpen notes whether a handshake waits for its peer; false when the forwarder has ended meanwhile.
func (f *forwarder) setHalfOpen(id stack.TransportEndpointID, waiting bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !waiting {
		delete(f.halfOpen, id)
		return true
	}
	if f.ended {
		return false
	}
	f.halfOpen[id] = true
	return true
}

// dialLocal opens the service that stands behind a port of the overlay address.
func (f *forwarder) dialLocal(network string, id stack.TransportEndpointID) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, localDialTimeout)
	defer cancel()
	from, _ := netip.AddrFromSlice(id.RemoteAddress.AsSlice())
	return f.dial(ctx, network, netip.AddrPortFrom(from, id.RemotePort), id.LocalPort)
}
