package userspace

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxPayload is the most that one datagram carries over either IP version, in bytes (RFC 768, RFC 791).
const maxPayload = 65535 - header.IPv4MinimumSize - header.UDPMinimumSize

// packetConn has datagrams wait for ReadFrom. It implements net.PacketConn; both ends of a datagram belong to no socket of the stack's, so that
// it outlives stacks.
type packetConn struct {
	owner    *Listeners
	place    place
	deadline *deadline

	queue  chan datagram // never full: who sends has a part of waiting
	closed chan struct{}

	mu      sync.Mutex // guards what follows, and the sending to queue
	waiting share      // datagrams that ReadFrom has not had
	ended   bool
}

// datagram is one that a peer sent.
type datagram struct {
	from    tcpip.Address
	port    uint16
	payload []byte
}

// openUDP keeps a datagram for the receiver that holds its port. Beyond the peer's share it is lost, as from a kernel's socket whose buffer is full.
func (l *Listeners) openUDP(_ *forwarder, id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	c, ok := l.find("udp", localOf(id)).(*packetConn)
	if !ok {
		return false
	}
	h := header.UDP(pkt.TransportHeader().Slice())
	fits, intact := header.UDPValid(h, pkt.Data().Checksum, uint16(pkt.Data().Size()), pkt.NetworkProtocolNumber, id.RemoteAddress, id.LocalAddress, pkt.RXChecksumValidated)
	if !fits || !intact {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && c.waiting.take(id.RemoteAddress) {
		c.queue <- datagram{id.RemoteAddress, id.RemotePort, pkt.Data().AsRange().ToSlice()[:h.Length()-header.UDPMinimumSize]}
	}
	return true
}

func (c *packetConn) at() place { return c.place }

// LocalAddr is where it listens: with an unspecified address when that is every one of the node's.
func (c *packetConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.place.addrPort()) }

// ReadFrom returns one datagram, cut to the length of b, and the *net.UDPAddr that it came from.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		due, moved, stop := c.deadline.timer()
		n, from, err := c.read(b, due, moved)
		stop()
		if err != nil {
			return 0, nil, &net.OpError{Op: "read", Net: "udp", Source: c.LocalAddr(), Err: err}
		}
		if from != nil {
			return n, from, nil
		}
	}
}

// read waits for a datagram; without one and without an error the deadline has moved.
func (c *packetConn) read(b []byte, due <-chan time.Time, moved <-chan struct{}) (int, net.Addr, error) {
	select {
	case d := <-c.queue:
		c.mu.Lock()
		c.waiting.release(d.from)
		c.mu.Unlock()
		return copy(b, d.payload), &net.UDPAddr{IP: d.from.AsSlice(), Port: int(d.port)}, nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	case <-due:
		return 0, nil, os.ErrDeadlineExceeded
	case <-moved:
		return 0, nil, nil
	}
}

// WriteTo sends one datagram of at most 65,507 bytes to an overlay address; it never blocks. Whether it arrives, or is refused, is not told.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if err := c.send(b, to); err != nil {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: c.LocalAddr(), Addr: to, Err: err}
	}
	return len(b), nil
}

func (c *packetConn) send(b []byte, to net.Addr) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return fmt.Errorf("%T is no UDP address", to)
	}
	at := udp.AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	s := c.owner.stack.Load()
	switch {
	case !at.IsValid() || at.Addr().Zone() != "" || at.Addr().IsMulticast() || at.Addr().IsUnspecified() || at.Port() == 0 || !c.place.sendsTo(at.Addr()):
		return fmt.Errorf("%s is no overlay address that this can send to", at)
	case len(b) > maxPayload:
		return syscall.EMSGSIZE
	case s == nil:
		return syscall.ENETDOWN
	}
	return s.sendUDP(netip.AddrPortFrom(c.place.addr, c.place.port), at, b)
}

// sendUDP sends a datagram (RFC 768) from a port of an own address, the zero Addr for the one of the other end's IP version.
func (s *Stack) sendUDP(from, to netip.AddrPort, payload []byte) error {
	remote := fullAddress(to)
	var local tcpip.Address
	if from.Addr().IsValid() {
		local = fullAddress(from).Addr
	}
	route, err := s.ip.FindRoute(nicID, local, remote.Addr, networkOf(remote.Addr), false)
	if err != nil {
		return errnoOf(err)
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(route.MaxHeaderLength()), Payload: buffer.MakeWithData(slices.Clone(payload)),
	})
	defer pkt.DecRef()
	h := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
	length := uint16(pkt.Size())
	h.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: length})
	sum := ^h.CalculateChecksum(checksum.Combine(route.PseudoHeaderChecksum(header.UDPProtocolNumber, length), pkt.Data().Checksum()))
	if sum == 0 { // which would mean that there is none
		sum = 0xffff
	}
	h.SetChecksum(sum)
	err = route.WritePacket(stack.NetworkHeaderParams{Protocol: header.UDPProtocolNumber, TTL: route.DefaultTTL()}, pkt)
	if _, full := err.(*tcpip.ErrNoBufferSpace); err == nil || full { // lost, as on a wire
		return nil
	}
	return errnoOf(err)
}

// Close ends ReadFroms that wait.
func (c *packetConn) Close() error {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return nil
	}
	c.ended = true
	close(c.closed)
	c.mu.Unlock()
	c.owner.forget("udp", c)
	return nil
}

// SetReadDeadline also moves the deadline of a ReadFrom that waits.
func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.deadline.set(t)
	return nil
}

// SetWriteDeadline does nothing: WriteTo never waits.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }
