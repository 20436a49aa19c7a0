package userspace

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Dial opens "tcp" or "udp" to an overlay address. A refusal by the filter surfaces at once: for TCP as the error of Dial, for
// UDP as the error of the next Read or Write; errors.Is matches syscall.ECONNREFUSED. The stack's own addresses are refused: past them
// lies what ForwardInbound reaches, and the filter sees nothing of it.
// The TCP connection has CloseWrite and SetLinger.
func (s *Stack) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if !to.IsValid() || to.Addr().Is4In6() || to.Addr().Zone() != "" {
		return nil, fmt.Errorf("dial %s %s: not an overlay address", network, to)
	}
	if remote := fullAddress(to); s.ip.CheckLocalAddress(0, networkOf(remote.Addr), remote.Addr) != 0 { // of a given NIC it holds every IPv4 address for local
		return nil, fmt.Errorf("dial %s %s: that is this node itself", network, to)
	}
	switch network {
	case "tcp":
		return s.dialTCP(ctx, to)
	case "udp":
		return s.dialUDP(to)
	}
	return nil, fmt.Errorf("dial %s: %w", to, net.UnknownNetworkError(network))
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

func (s *Stack) dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	remote := fullAddress(to)
	queue := new(waiter.Queue)
	ep, err := s.ip.NewEndpoint(tcp.ProtocolNumber, networkOf(remote.Addr), queue)
	if err != nil {
		return nil, fail(errnoOf(err))
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	err = ep.Connect(remote)
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Abort()
			return nil, fail(context.Cause(ctx))
		case <-s.device.closed:
			ep.Abort()
			return nil, fail(errClosed)
		case <-connected:
			err = ep.LastError()
		}
	}
	if err != nil {
		ep.Close()
		return nil, fail(errnoOf(err))
	}
	return newTCPConn(queue, ep), nil
}
