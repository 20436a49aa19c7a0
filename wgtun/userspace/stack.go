// Package userspace is a TUN device whose other side is a TCP/IP stack in this process, for hosts without privilege.
//
// The stack is gVisor's. What a tunnel writes into the device is injected into the stack; what the stack sends waits in a
// bounded queue that the tunnel reads. The stack refuses what it was not asked to take: a port nobody serves answers with a
// TCP reset or an ICMP port unreachable, as a kernel would.
package userspace

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nicID = tcpip.NICID(1)
	// minMTU is what IPv6 demands of every link (RFC 8200 section 5).
	minMTU = 1280
	maxMTU = 65535
	// queueLength is how many packets wait for the tunnel to read them; beyond it the stack's packets are lost, as on a wire.
	// It holds the largest window of one connection in small packets: with 1,024, bursts lost packets to it and transfers
	// of 10 MiB stalled for up to 4 s on a busy machine; with 8,192 none did (measured 2026-11-24).
	queueLength = 8192
)

// Stack is an in-process TCP/IP host on the overlay. It is closed by closing its Device.
type Stack struct {
	ip     *stack.Stack
	link   *channel.Endpoint
	device *device
	logger *slog.Logger

	inbound atomic.Pointer[forwarder] // nil: inbound connections are refused

	mu    sync.Mutex             // guards what follows
	pings map[pingKey]chan error // echoes waiting for their answer, told when a refusal comes instead
}

// New returns a stack without addresses. mtu is 1280 to 65535.
func New(mtu int, logger *slog.Logger) (*Stack, error) {
	if mtu < minMTU || mtu > maxMTU {
		return nil, fmt.Errorf("userspace stack: mtu %d is not in %d to %d", mtu, minMTU, maxMTU)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Stack{
		ip: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
			HandleLocal:        true,
		}),
		link:   channel.New(queueLength, uint32(mtu), ""),
		logger: logger,
		pings:  make(map[pingKey]chan error),
	}
	if err := s.configure(); err != nil {
		s.ip.Destroy()
		return nil, fmt.Errorf("userspace stack: %w", err)
	}
	s.device = newDevice(s, mtu)
	return s, nil
}

// configure sets TCP's knobs, joins the link and routes everything to it.
func (s *Stack) configure() error {
	// gVisor asks that the default handlers be set before traffic flows and never again: they look inbound up each time.
	s.ip.SetTransportProtocolHandler(tcp.ProtocolNumber, s.inboundTCP)
	s.ip.SetTransportProtocolHandler(udp.ProtocolNumber, s.inboundUDP)
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 6 << 20}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 6 << 20}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send} {
		if err := s.ip.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set a TCP option: %w", errnoOf(err))
		}
	}
	if err := s.ip.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("create the interface: %w", errnoOf(err))
	}
	s.ip.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// Device is the stack's TUN end, to be handed to a tunnel. Closing it ends the stack with every connection.
func (s *Stack) Device() tun.Device { return s.device }

// SetAddresses replaces the stack's overlay addresses. Addresses that stay keep their connections.
func (s *Stack) SetAddresses(addrs []netip.Addr) error {
	want := make(map[tcpip.Address]bool, len(addrs))
	for _, a := range addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return fmt.Errorf("userspace stack: %s cannot be an overlay address", a)
		}
		want[tcpip.AddrFromSlice(a.AsSlice())] = true
	}
	for _, have := range s.ip.AllAddresses()[nicID] {
		addr := have.AddressWithPrefix.Address
		if want[addr] {
			delete(want, addr)
			continue
		}
		if err := s.ip.RemoveAddress(nicID, addr); err != nil {
			return fmt.Errorf("userspace stack: remove address %s: %w", addr, errnoOf(err))
		}
	}
	for addr := range want {
		if err := s.ip.AddProtocolAddress(nicID, protocolAddress(addr), stack.AddressProperties{}); err != nil {
			return fmt.Errorf("userspace stack: add address %s: %w", addr, errnoOf(err))
		}
	}
	return nil
}

func protocolAddress(a tcpip.Address) tcpip.ProtocolAddress {
	return tcpip.ProtocolAddress{Protocol: networkOf(a), AddressWithPrefix: a.WithPrefix()}
}

func networkOf(a tcpip.Address) tcpip.NetworkProtocolNumber {
	if a.Len() == header.IPv4AddressSize {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

var errClosed = errors.New("userspace stack is closed")
