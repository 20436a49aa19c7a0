package userspace

import (
	"net"
	"net/netip"
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

func (s *Stack) dialUDP(to netip.AddrPort) (net.Conn, error) {
	fail := func(err tcpip.Error) error {
		return &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: errnoOf(err)}
	}
	remote := fullAddress(to)
	queue := new(waiter.Queue)
	ep, err := s.ip.NewEndpoint(udp.ProtocolNumber, networkOf(remote.Addr), queue)
	if err != nil {
		return nil, fail(err)
	}
	if err := ep.Connect(remote); err != nil {
		ep.Close()
		return nil, fail(err)
	}
	return &udpConn{UDPConn: gonet.NewUDPConn(queue, ep), ep: ep, queue: queue, deadline: newDeadline()}, nil
}

// udpConn is a connected socket whose Read is woken by a refusal; gonet's own waits for datagrams only.
type udpConn struct {
	*gonet.UDPConn // all but reading
	ep             tcpip.Endpoint
	queue          *waiter.Queue
	deadline       *deadline
}

// Read returns one datagram, or an error that matches syscall.ECONNREFUSED when one that was sent has been refused.
func (c *udpConn) Read(b []byte) (int, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	c.queue.EventRegister(&entry)
	defer c.queue.EventUnregister(&entry)
	for {
		w := tcpip.SliceWriter(b)
		res, err := c.ep.Read(&w, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			return res.Count, nil
		case *tcpip.ErrClosedForReceive:
			return 0, c.readError(net.ErrClosed)
		case *tcpip.ErrWouldBlock:
		default:
			return 0, c.readError(errnoOf(err))
		}
		if err := c.wait(ready); err != nil {
			return 0, c.readError(err)
		}
	}
}

// wait blocks until ready, or the deadline has passed.
func (c *udpConn) wait(ready <-chan struct{}) error {
	due, moved, stop := c.deadline.timer()
	defer stop()
	select {
	case <-due:
		return os.ErrDeadlineExceeded
	case <-ready:
	case <-moved:
	}
	return nil
}

func (c *udpConn) readError(err error) error {
	return &net.OpError{Op: "read", Net: "udp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Write sends one datagram; a refusal of an earlier one may be its error.
func (c *udpConn) Write(b []byte) (int, error) {
	n, err := c.UDPConn.Write(b)
	return n, mapped(err)
}

// SetReadDeadline also moves the deadline of a Read that waits.
func (c *udpConn) SetReadDeadline(t time.Time) error {
	c.deadline.set(t)
	return nil
}

// SetDeadline sets both deadlines.
func (c *udpConn) SetDeadline(t time.Time) error {
	if err := c.SetWriteDeadline(t); err != nil {
		return err
	}
	return c.SetReadDeadline(t)
}
