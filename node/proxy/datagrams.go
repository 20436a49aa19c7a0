package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of datagrams. A flow holds a buffer of 64 KiB, so the flows of one proxy hold at most 16 MiB.
const (
	maxFlows    = 64  // of one carrier: a SOCKS5 association, or a forwarded port
	maxAllFlows = 256 // of all carriers that share a pool
	// flowIdle is how long a flow lives without a datagram either way: as long as the filter keeps a UDP flow that was answered.
	flowIdle = 180 * time.Second
	// refusalTime is how long what cannot be dialled, or was refused, is not tried again.
	refusalTime = time.Second
	maxDatagram = 65535
)

// Pool bounds the flows of all carriers that share it. It is safe for concurrent use; the zero one is empty.
type Pool struct {
	mu    sync.Mutex
	flows map[*flow]struct{}
}

// flow is datagrams that share their two ends.
type flow struct {
	carrier *carrier
	key     netip.AddrPort
	conn    net.Conn     // nil when it was refused, and that is remembered
	used    atomic.Int64 // when a datagram last passed, Unix time in ns
	sent    atomic.Uint64
	back    atomic.Uint64
	failed  atomic.Pointer[error] // why sending failed
	dropped bool                  // guarded by the pool: ended from this side
}

func (f *flow) touch()           { f.used.Store(time.Now().UnixNano()) }
func (f *flow) last() time.Time  { return time.Unix(0, f.used.Load()) }
func (f *flow) count() (c Bytes) { return Bytes{f.sent.Load(), f.back.Load()} }

// Bytes are what passed a connection, or a flow of datagrams.
type Bytes struct{ Sent, Received uint64 }

// carrier leads datagrams over dialled connections, one for each key. Only one goroutine may call send.
type carrier struct {
	pool *Pool
	// dial opens the connection of a key; it must not wait for anybody.
	dial func(ctx context.Context, key netip.AddrPort) (net.Conn, error)
	// room is how many bytes b has before an answer; answer does not keep b.
	room   int
	answer func(key netip.AddrPort, b []byte)
	// opened and ended are told of each flow; err of opened says that there is none, and err of ended is nil when it was idle or made room.
	opened func(key netip.AddrPort, far net.Conn, err error)
	ended  func(key netip.AddrPort, passed Bytes, err error)

	flows map[netip.AddrPort]*flow // guarded by the pool
	work  sync.WaitGroup
}

// send sends b over the connection of key, dialling it when there is none. What cannot be sent is lost, as datagrams are.
func (c *carrier) send(ctx context.Context, key netip.AddrPort, b []byte) {
	c.pool.mu.Lock()
	f := c.flows[key]
	c.pool.mu.Unlock()
	if f == nil {
		conn, err := c.dial(ctx, key)
		f = c.begin(key, conn)
		c.opened(key, conn, err)
		if conn != nil {
			c.work.Go(func() { c.hear(f) })
		}
	}
	if f.conn == nil {
		return
	}
	f.touch()
	n, err := f.conn.Write(b)
	f.sent.Add(uint64(n))
	if err != nil && !errors.Is(err, syscall.EMSGSIZE) {
		f.failed.CompareAndSwap(nil, &err)
		f.conn.Close() // hear tells, and a later datagram dials again
	}
}

// begin makes a flow, in the place of the one that was longest idle when there are too many. Without conn it remembers a refusal.
func (c *carrier) begin(key netip.AddrPort, conn net.Conn) *flow {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return c.beginLocked(key, conn)
}

func (c *carrier) beginLocked(key netip.AddrPort, conn net.Conn) *flow {
	f := &flow{carrier: c, key: key, conn: conn}
	f.touch()
	if c.pool.flows == nil {
		c.pool.flows = make(map[*flow]struct{})
	}
	if c.flows == nil {
		c.flows = make(map[netip.AddrPort]*flow)
	}
	if len(c.flows) >= maxFlows {
		c.pool.replaceOldest(c)
	} else if len(c.pool.flows) >= maxAllFlows {
		c.pool.replaceOldest(nil)
	}
	c.flows[key], c.pool.flows[f] = f, struct{}{}
	if conn == nil {
		time.AfterFunc(refusalTime, func() { c.drop(f) })
	}
	return f
}

// replaceOldest ends the flow that was idle longest, of one carrier unless that is nil. The caller holds the lock.
func (p *Pool) replaceOldest(of *carrier) {
	var oldest *flow
	for f := range p.flows {
		if (of == nil || f.carrier == of) && (oldest == nil || f.used.Load() < oldest.used.Load()) {
			oldest = f
		}
	}
	oldest.dropLocked()
}

// drop ends a flow; it may be called again.
func (c *carrier) drop(f *flow) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	f.dropLocked()
}

func (f *flow) dropLocked() {
	delete(f.carrier.pool.flows, f)
	if f.carrier.flows[f.key] == f {
		delete(f.carrier.flows, f.key)
	}
	f.dropped = true
	if f.conn != nil {
		f.conn.Close()
	}
}

// end ends every flow and waits for that. Nothing may be sent any more.
func (c *carrier) end() {
	c.pool.mu.Lock()
	for _, f := range c.flows {
		f.dropLocked()
	}
	c.pool.mu.Unlock()
	c.work.Wait()
}

// hear hands answers over until the flow is idle, refused or dropped.
func (c *carrier) hear(f *flow) {
	b := make([]byte, c.room+maxDatagram)
	for {
		_ = f.conn.SetReadDeadline(f.last().Add(flowIdle))
		n, err := f.conn.Read(b[c.room:])
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Since(f.last()) < flowIdle {
			continue // something was sent meanwhile
		}
		if err != nil {
			c.heardEnd(f, err)
			return
		}
		f.touch()
		f.back.Add(uint64(n))
		c.answer(f.key, b[:c.room+n])
	}
}

// heardEnd ends a flow that cannot be read any more. A refusal is remembered.
func (c *carrier) heardEnd(f *flow, err error) {
	if failed := f.failed.Load(); failed != nil {
		err = *failed
	}
	c.pool.mu.Lock()
	if f.dropped || errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	f.dropLocked()
	if err != nil && c.flows[f.key] == nil {
		c.beginLocked(f.key, nil)
	}
	c.pool.mu.Unlock()
	c.ended(f.key, f.count(), err)
}
