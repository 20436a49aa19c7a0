package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	maxGateConns = 256  // TCP connections of one gate
	maxAllConns  = 1024 // of all gates that share a budget
)

// Budget bounds what all gates that share it hold at once: 1024 TCP connections and 256 flows of datagrams.
type Budget struct {
	conns chan struct{}
	flows Pool
}

// NewBudget makes one with nothing held.
func NewBudget() *Budget { return &Budget{conns: make(chan struct{}, maxAllConns)} }

// Gate leads what comes to one listener to one place, a connection for each client. Its functions are called concurrently.
type Gate struct {
	Budget *Budget
	// PerClient bounds the TCP connections of one client address; 0 is no bound.
	PerClient int
	// Dial opens the way for a client; of datagrams it must not wait for anybody.
	Dial func(ctx context.Context, from netip.AddrPort) (net.Conn, error)
	// FromPeer is Network's.
	FromPeer func(from netip.AddrPort) bool
	// Opened is told that the way stands, to is where to; or, by err, why it does not.
	Opened func(from, to netip.AddrPort, err error)
	// Ended is told of each that stood; err is nil when nothing failed.
	Ended func(from netip.AddrPort, passed Bytes, err error)
}

// errGateFull is told to Opened.
var errGateFull = fmt.Errorf("too many connections are open at once: %d here, %d in all, or those of one address", maxGateConns, maxAllConns)

// ServeTCP answers on l until ctx ends, then closes it and resets every connection; it returns nil on cancellation.
func (g *Gate) ServeTCP(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	mine, of := make(chan struct{}, maxGateConns), clients{most: g.PerClient}
	for {
		c, err := accept(ctx, l)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		free, ok := of.take(addrPort(c.RemoteAddr()).Addr(), mine, g.Budget.conns)
		if !ok {
			Reset(c)
			g.Opened(addrPort(c.RemoteAddr()), netip.AddrPort{}, errGateFull)
			continue
		}
		running.Go(func() {
			defer free()
			g.one(ctx, c)
		})
	}
}

// acceptAgain is how long a listener waits when the system had nothing to give.
const acceptAgain = 50 * time.Millisecond

// accept waits for a connection. What passes by itself ends no listener: else who has this process run out of descriptors ends the agent.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EMFILE),
			errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		default:
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(acceptAgain):
		}
	}
}

// clients counts what each client has.
type clients struct {
	most int
	mu   sync.Mutex
	have map[netip.Addr]int
}

// take is the function take, and one more place of the client's own.
func (c *clients) take(client netip.Addr, places ...chan struct{}) (free func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most > 0 && c.have[client] >= c.most {
		return nil, false
	}
	others, ok := take(places...)
	if !ok {
		return nil, false
	}
	if c.have == nil {
		c.have = make(map[netip.Addr]int)
	}
	c.have[client]++
	return func() {
		others()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.have[client]--; c.have[client] == 0 {
			delete(c.have, client)
		}
	}, true
}

// take takes one place of each, or none.
func take(places ...chan struct{}) (free func(), ok bool) {
	for i, p := range places {
		select {
		case p <- struct{}{}:
		default:
			for _, taken := range places[:i] {
				<-taken
			}
			return nil, false
		}
	}
	return func() {
		for _, p := range places {
			<-p
		}
	}, true
}

func (g *Gate) one(ctx context.Context, c net.Conn) {
	from := addrPort(c.RemoteAddr())
	far, err := g.Dial(ctx, from)
	if err != nil {
		Reset(c)
		g.Opened(from, netip.AddrPort{}, err)
		return
	}
	g.Opened(from, addrPort(far.RemoteAddr()), nil)
	passed, err := Join(ctx, c, far)
	g.Ended(from, passed, err)
}

// ServeUDP leads datagrams until ctx ends, then closes c and every flow; it returns nil on cancellation.
func (g *Gate) ServeUDP(ctx context.Context, c *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	k := &carrier{
		pool: &g.Budget.flows, dial: g.Dial, ended: g.Ended,
		answer: func(from netip.AddrPort, b []byte) { _, _ = c.WriteToUDPAddrPort(b, from) }, // the client may be gone
	}
	k.opened = func(from netip.AddrPort, far net.Conn, err error) {
		if err != nil {
			g.Opened(from, netip.AddrPort{}, err)
			return
		}
		g.Opened(from, addrPort(far.RemoteAddr()), nil)
	}
	defer k.end()
	b := make([]byte, maxDatagram)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if !g.FromPeer(from) {
			k.send(ctx, from, b[:n])
		}
	}
}
