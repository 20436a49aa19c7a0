package relay

import (
	"slices"
	"time"
)

// atOnce bounds what somebody else than a client's own writer writes for it in a row, in batches.
const atOnce = 4

// feedMost is how many datagrams are fed before they are delivered: half of what a pair's queue takes.
const feedMost = 32

// fed are the clients for which a reader has queued something that is not yet delivered. That goes out when nothing more has come, or it makes a batch: by
// a datagram at a time, each would cost a record, a system call, and waking a goroutine.
type fed struct {
	clients   [8]*client
	n         int
	datagrams int
	bytes     int
}

// add notes a datagram for c.
func (f *fed) add(c *client, bytes int) {
	n := headerSize + addressSize + bytes
	f.datagrams++
	f.bytes += n
	switch {
	case slices.Contains(f.clients[:f.n], c):
	case f.n == len(f.clients):
		c.out.signal()
	default:
		f.clients[f.n] = c
		f.n++
	}
	if f.datagrams >= feedMost || f.bytes+n > batchSize { // another like this would begin a batch anew
		f.deliver()
	}
}

// deliver sends it on, without waiting for anybody.
func (f *fed) deliver() {
	for i, c := range f.clients[:f.n] {
		if !c.writeNow() {
			c.out.signal()
		}
		f.clients[i] = nil
	}
	f.n, f.datagrams, f.bytes = 0, 0, 0
}

// writeNow writes what is in the outbox as far as that takes no waiting, neither for the client nor for who else writes to it. It reports whether nothing is
// left.
func (c *client) writeNow() (done bool) {
	if c.prompt == nil || !c.writing.TryLock() {
		return false
	}
	defer c.writing.Unlock()
	batch := batches.Get().(*[]byte)
	defer batches.Put(batch)
	for range atOnce {
		if c.prompt.Behind() {
			return false
		}
		b := c.out.take((*batch)[:0])
		if len(b) == 0 {
			return true
		}
		if _, err := c.conn.Write(b); err != nil {
			go c.broken() // to close may take a moment
			return true
		}
	}
	return false
}

// write writes what is in the outbox until it is closed and empty, or a write fails.
func (c *client) write() {
	for range c.out.wake {
		c.writeAll()
		if c.out.over() {
			return
		}
	}
}

func (c *client) writeAll() {
	c.writing.Lock()
	defer c.writing.Unlock()
	batch := batches.Get().(*[]byte)
	defer batches.Put(batch)
	for {
		c.limitWrites(writeTime, false)
		if c.prompt != nil {
			if err := c.prompt.drain(); err != nil {
				c.broken()
				return
			}
		}
		b := c.out.take((*batch)[:0])
		if len(b) == 0 {
			break
		}
		if _, err := c.conn.Write(b); err != nil {
			c.broken()
			return
		}
	}
	c.limitWrites(0, false) // what layers below say of their own accord is not to meet a deadline that is past
}

// drain waits for what is held to be taken, or for the limit of writes.
func (c *client) drain() {
	if c.prompt == nil {
		return
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.prompt.drain()
}

// limitWrites sets how long writes may take from now on, 0 for any time. The last limit, which is for a word of farewell, stays.
func (c *client) limitWrites(d time.Duration, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.farewell {
		return
	}
	c.farewell = last
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	_ = c.conn.SetWriteDeadline(t)
}

// broken is after a write that failed: read ends with the connection.
func (c *client) broken() {
	c.out.close()
	c.conn.Close()
}
