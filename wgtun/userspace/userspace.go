// Package userspace is a TUN device whose other side is a TCP/IP stack in this process, for hosts without privilege.
package userspace

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// Stack is an in-process TCP/IP host on the overlay.
type Stack struct{}

// New returns a stack without addresses.
func New(mtu int, logger *slog.Logger) (*Stack, error) { panic("unimplemented") }

// Device is the stack's TUN end, to be handed to a tunnel.
func (s *Stack) Device() tun.Device { panic("unimplemented") }

// SetAddresses replaces the stack's overlay addresses.
func (s *Stack) SetAddresses(addrs []netip.Addr) error { panic("unimplemented") }

// Dial opens "tcp" or "udp" to an overlay address. A refusal by the filter surfaces at once as a connection error.
func (s *Stack) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	panic("unimplemented")
}

// Ping sends one ICMP echo and waits for its answer: the round-trip time.
func (s *Stack) Ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	panic("unimplemented")
}

// ForwardInbound hands every inbound TCP connection and UDP flow on port P to 127.0.0.1:P (or dial, when not nil) until ctx ends.
func (s *Stack) ForwardInbound(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error)) error {
	panic("unimplemented")
}
