package userspace

import (
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/waiter"
)

// tcpConn gives the stack's errors as a kernel's socket would.
type tcpConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint

	closing sync.Once
	closed  chan struct{} // by Close
	onClose func()        // nil for nothing
}

func newTCPConn(queue *waiter.Queue, ep tcpip.Endpoint) *tcpConn {
	return &tcpConn{TCPConn: gonet.NewTCPConn(queue, ep), ep: ep, closed: make(chan struct{})}
}

// SetLinger is net.TCPConn's: with 0 Close resets the connection, below 0 is the default.
func (c *tcpConn) SetLinger(seconds int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: seconds >= 0, Timeout: time.Duration(max(seconds, 0)) * time.Second})
	return nil
}

func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	return n, c.failed("read", err)
}

func (c *tcpConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, c.failed("write", err)
}

// failed is err as net.TCPConn gives it: whatever comes after Close matches net.ErrClosed.
func (c *tcpConn) failed(op string, err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-c.closed:
		return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: net.ErrClosed}
	default:
		return mapped(err)
	}
}

// Close ends Reads and Writes that wait, too. What was written is still sent, unless SetLinger(0) was called.
func (c *tcpConn) Close() error {
	c.closing.Do(func() {
		close(c.closed)
		_ = c.SetDeadline(time.Unix(1, 0))
		c.ep.Close()
		if c.onClose != nil {
			c.onClose()
		}
	})
	return nil
}
