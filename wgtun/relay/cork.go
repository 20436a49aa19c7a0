package relay

import (
	"net"
	"sync"
)

// Cork gathers what layers above write to a connection piece by piece. A WebSocket client hands a message to TLS in pieces of 4 KiB, because it
// masks them in a buffer of that size, and TLS writes a record for each: sixteen system calls where one does. Make it of the connection
// below TLS, and Through of the one above all.
type Cork struct {
	net.Conn

	mu   sync.Mutex
	on   bool   // a message is being written above
	held []byte // of it
}

// NewCork returns c with a Cork around it.
func NewCork(c net.Conn) *Cork { return &Cork{Conn: c} }

// Write is the connection's own, but for while a message is gathered.
func (c *Cork) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.on {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// pull writes what was gathered, in one piece.
func (c *Cork) pull() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = false
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.held)
	if c.held = c.held[:0]; cap(c.held) > 2*bufferSize {
		c.held = nil
	}
	return err
}

// Through is above, a connection that leads through c, of which each Write reaches the network in one piece. It takes one Write at a time.
func (c *Cork) Through(above net.Conn) net.Conn { return &corked{above, c} }

type corked struct {
	net.Conn
	cork *Cork
}

func (c *corked) Write(b []byte) (int, error) {
	c.cork.mu.Lock()
	c.cork.on = true
	c.cork.mu.Unlock()
	n, err := c.Conn.Write(b)
	if pulled := c.cork.pull(); err == nil && pulled != nil {
		return 0, pulled
	}
	return n, err
}
