package userspace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Bounds of inbound forwarding, shared among peers (see share). Beyond them a connection is refused, never queued.
const (
	maxTCPHandshakes   = 128 // opened by a peer, and not yet taken here or not finished by the peer
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

// destination is where inbound flows go: the host's own ports, or a program's listeners.
type destination interface {
	// openTCP finds who takes a connection, before its handshake is answered. It may block, until f.ctx ends at the latest; an error refuses the peer.
	openTCP(f *forwarder, id stack.TransportEndpointID) (taker, error)
	// openUDP takes a datagram of no known flow; false makes the stack answer with port unreachable. It does not block.
	openUDP(f *forwarder, id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool
}

// taker waits for a connection whose handshake is going on; one of its methods is called, once.
type taker interface {
	// carry has the connection, and closes it; it returns when that has ended, at the latest when ctx has.
	carry(ctx context.Context, c *tcpConn)
	// abandon is told that the handshake was not finished.
	abandon()
}

// forwarder hands inbound flows to a destination, within bounds, until it is ended.
type forwarder struct {
	stack *Stack
	ctx   context.Context // of forward; in a field because gVisor calls back without one
	to    destination
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
// the peer as a kernel would: the handshake is completed only after localhost has accepted. Only one call of this or Serve may run at a time.
func (s *Stack) ForwardInbound(ctx context.Context, dial DialFunc) error {
	if dial == nil {
		dial = dialLocalhost
	}
	return s.forward(ctx, localhost{dial})
}

// forward hands inbound flows to a destination until ctx ends, and ends them then.
func (s *Stack) forward(ctx context.Context, to destination) error {
	f := &forwarder{
		stack:    s,
		ctx:      ctx,
		to:       to,
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
