package relay

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// recordSize is what one TLS record holds (RFC 8446, section 5.1).
const recordSize = 16 << 10

// Cork gathers what a WebSocket writes of a message piece by piece: it has a buffer of 4 KiB, and TLS makes a record and a system call of each
// piece. Make it of what is below the WebSocket, have the WebSocket write to it, and write to Through of the WebSocket.
//
// Write takes one call at a time, which WebSockets see to. Nothing is held back longer than a Write above lasts, nor by it.
type Cork struct {
	below io.Writer
	due   atomic.Int64 // bytes of the message being written above that have not come yet; not above 0 when there is none
	held  *[]byte      // of that message; nil for nothing. Owned by Write
}

// NewCork returns a cork above w.
func NewCork(w io.Writer) *Cork { return &Cork{below: w} }

// Write gathers a piece, and writes what was gathered as soon as it makes a TLS record, or the message is whole.
func (c *Cork) Write(b []byte) (int, error) {
	// What comes before the message, such as its own header, is counted as of it; so it is whole early, if anything, and never late.
	whole := c.due.Add(-int64(len(b))) <= 0
	if c.held == nil {
		if whole || len(b) >= recordSize {
			return c.below.Write(b)
		}
		c.held = batches.Get().(*[]byte)
		*c.held = (*c.held)[:0]
	}
	*c.held = append(*c.held, b...)
	if !whole && len(*c.held) < recordSize {
		return len(b), nil
	}
	_, err := c.below.Write(*c.held)
	batches.Put(c.held)
	c.held = nil
	return len(b), err
}

// Through is above, the connection whose WebSocket writes to c.
func (c *Cork) Through(above net.Conn) net.Conn { return &corked{Conn: above, cork: c} }

type corked struct {
	net.Conn
	cork *Cork
	mu   sync.Mutex // a message at a time
}

func (c *corked) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cork.due.Store(int64(len(b)))
	defer c.cork.due.Store(0)
	return c.Conn.Write(b)
}
