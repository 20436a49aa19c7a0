// Package proxy lets programs on this host open connections into the overlay without a network interface.
//
// Two ways in, both on loopback: SOCKS5 (RFC 1928; CONNECT and UDP ASSOCIATE, without authentication, no BIND) and HTTP CONNECT
// (RFC 9110 section 9.3.6). A destination is an overlay address or the name of a peer; nothing else is resolved or dialled, so neither
// proxy is a way to the rest of the world or to this host's own services. What leaves them meets the same filter as everything else.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Network is where the proxies dial.
type Network interface {
	// Resolve returns the overlay address of a peer's name, or err that says in words why there is none.
	Resolve(name string) (netip.Addr, error)
	// Overlay reports whether a is inside the overlay, and none of this node's own addresses.
	Overlay(a netip.Addr) bool
	// Dial opens a TCP connection to an overlay address.
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// DialUDP is Dial for datagrams; it waits for nobody.
	DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// FromPeer reports whether a datagram from that address of this host may be a peer's, who must not go on into the overlay from here.
	FromPeer(from netip.AddrPort) bool
}

const (
	// helloTime bounds how long a client may take to say where it wants to go.
	helloTime = 10 * time.Second
	// dialTime bounds how long the other end may take to answer.
	dialTime = 30 * time.Second
	// maxConns bounds the connections of one proxy.
	maxConns = 1024
)

// Proxy is one listener's proxy.
type Proxy struct {
	name    string
	network Network
	logger  *slog.Logger
	serve   func(ctx context.Context, p *Proxy, c net.Conn) error
	flows   Pool
}

// NewSOCKS5 makes a SOCKS5 proxy; it starts nothing.
func NewSOCKS5(n Network, logger *slog.Logger) *Proxy {
	return &Proxy{name: "socks5", network: n, logger: logger, serve: serveSOCKS5}
}

// NewHTTP makes an HTTP CONNECT proxy; it starts nothing.
func NewHTTP(n Network, logger *slog.Logger) *Proxy {
	return &Proxy{name: "http", network: n, logger: logger, serve: serveHTTP}
}

// Listen opens a listener for a proxy. An address that is not on loopback is refused: whoever reaches the proxy acts as this node.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("the proxy address %q is not HOST:PORT, such as 127.0.0.1:1080", address)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	a, err := netip.ParseAddr(host)
	if err != nil || !a.IsLoopback() {
		return nil, fmt.Errorf("the proxy address %q is not on loopback: whoever reaches the proxy acts as this node, so use 127.0.0.1:%s", address, port)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("open the proxy's port %q: another program has it, or it needs privilege: name another port", address)
	}
	return l, nil
}

// Serve answers on l until ctx ends, then closes it and every connection; it returns nil on cancellation.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxConns)
	for {
		c, err := accept(ctx, l)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("the %s proxy stopped: %w", p.name, err)
		}
		select {
		case slots <- struct{}{}:
		default: // full: whoever opened so many is told by the reset
			c.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-slots }()
			p.one(ctx, c)
		})
	}
}

func (p *Proxy) one(ctx context.Context, c net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	c.SetDeadline(time.Now().Add(helloTime))
	if err := p.serve(ctx, p, c); err != nil {
		p.logger.Debug("proxy refused", "proxy", p.name, "reason", err)
	}
}

// errForeign is answered for everything that is not the overlay's.
var errForeign = errors.New("not an overlay address, nor the name of a peer")

// target turns a host and port into an overlay address; nothing but the map's names is asked.
func (p *Proxy) target(host string, port uint16) (netip.AddrPort, error) {
	if port == 0 {
		return netip.AddrPort{}, errors.New("port 0")
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		if a, err = p.network.Resolve(host); err != nil {
			return netip.AddrPort{}, err
		}
	}
	if a = a.Unmap(); a.Zone() != "" || !p.network.Overlay(a) {
		return netip.AddrPort{}, errForeign
	}
	return netip.AddrPortFrom(a, port), nil
}

func (p *Proxy) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return p.network.Dial(ctx, to)
}

// splice joins a client who was answered to the far end.
func splice(ctx context.Context, client, far net.Conn) {
	client.SetDeadline(time.Time{})
	_, _ = Join(ctx, client, far) // both ends were told
}
