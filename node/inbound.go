package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"picket.internal/acl"
)

// inbound joins peers to services of this host. Whether a peer may come in is the filter's to say, before it is asked.
type inbound struct {
	entrances entrances
	dialer    net.Dialer // that of a test sees when it connects
}

// dial connects to a service of this host for a peer. The agent's own entrances are none for peers.
func (i *inbound) dial(ctx context.Context, network string, port uint16) (net.Conn, error) {
	s := service{acl.TCP, port}
	if network == "udp" {
		s.proto = acl.UDP
	}
	closed := func() error {
		return fmt.Errorf("dial %s port %d: it leads into the overlay, which is for programs of this host", network, port)
	}
	if i.entrances.contains(s) {
		return nil, closed()
	}
	c, err := i.dialer.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return nil, err
	}
	if i.entrances.contains(s) { // since a moment ago
		abandon(c)
		return nil, closed()
	}
	udp, ok := c.(*net.UDPConn)
	if !ok {
		return c, nil
	}
	from := addrPort(udp.LocalAddr())
	return peerSocket{udp, i.entrances.note(from)}, nil
}

// abandon resets a connection, or closes a socket.
func abandon(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

// addrPort is the zero one when a is no socket's address.
func addrPort(a net.Addr) netip.AddrPort {
	if at, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return netip.AddrPortFrom(at.AddrPort().Addr().Unmap(), at.AddrPort().Port())
	}
	return netip.AddrPort{}
}

// peerSocket is a UDP socket opened for a peer.
type peerSocket struct {
	*net.UDPConn
	forget func()
}

func (s peerSocket) Close() error {
	err := s.UDPConn.Close()
	s.forget()
	return err
}
