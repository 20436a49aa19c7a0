// Package reflector tells whoever asks over UDP from which address his datagram came: STUN's binding request (RFC 8489), and nothing else of it.
//
// A source may be forged, so an answer is never longer than its question: requests shorter than RequestSize are dropped, as is all that is no
// plain binding request. No state is kept but a fixed table of rates. Two ports let a node see whether its address translator uses one
// outside port for all destinations.
package reflector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

// Stats counts since Listen.
type Stats struct {
	Answered  uint64
	Malformed uint64 // no binding request, or too short a one
	Limited   uint64 // beyond the rate of its source, or of all
}

// Server answers on its sockets.
type Server struct {
	sockets []socket
	limit   *limiter

	answered, malformed, limited atomic.Uint64
}

// Listen opens UDP ports: "HOST:PORT", where an empty host is every address of both IP versions. A host without IPv6 serves IPv4 alone.
// The caller must Run the Server, or Close it.
func Listen(ctx context.Context, addresses ...string) (*Server, error) {
	s := &Server{limit: newLimiter()}
	for _, at := range addresses {
		if err := s.Open(ctx, at); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Open opens one more port, before Run.
func (s *Server) Open(ctx context.Context, at string) error {
	var lc net.ListenConfig
	var failed error
	opened := 0
	for _, network := range []string{"udp4", "udp6"} {
		c, err := lc.ListenPacket(ctx, network, at)
		if err != nil {
			if errors.Is(err, syscall.EADDRINUSE) {
				failed = err
				break
			}
			if failed == nil {
				failed = err
			}
			continue
		}
		opened++
		s.sockets = append(s.sockets, newSocket(network, c))
		if _, port, err := net.SplitHostPort(at); err == nil && port == "0" { // the same port for the other version
			at = net.JoinHostPort(hostOf(at), strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port))
		}
	}
	if opened == 0 || errors.Is(failed, syscall.EADDRINUSE) {
		return fmt.Errorf("the UDP address %s cannot be had: %w", at, failed)
	}
	return nil
}

func hostOf(at string) string {
	host, _, _ := net.SplitHostPort(at)
	return host
}

// Ports lists the UDP ports served, each once, in the order of Listen.
func (s *Server) Ports() (ports []uint16) {
	for _, c := range s.sockets {
		if p := c.local().Port(); !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	return ports
}

// Stats returns a snapshot.
func (s *Server) Stats() Stats {
	return Stats{s.answered.Load(), s.malformed.Load(), s.limited.Load()}
}

// Close closes the sockets.
func (s *Server) Close() {
	for _, c := range s.sockets {
		_ = c.conn.Close()
	}
}

// Run answers until ctx ends, then closes the sockets and returns nil.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	var g errgroup.Group
	for _, c := range s.sockets {
		g.Go(func() error { return s.serve(c) })
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serve answers on one socket until that is closed.
func (s *Server) serve(c socket) error {
	buf, out := make([]byte, 2048), make([]byte, 0, RequestSize)
	for {
		n, from, at, err := c.read(buf)
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("reflector: %w", err)
		}
		if err != nil {
			continue // of one datagram: an ICMP error for an earlier answer, say
		}
		transaction, ok := request(buf[:n])
		switch {
		case !ok:
			s.malformed.Add(1)
		case !s.limit.allow(from.Addr()):
			s.limited.Add(1)
		default:
			s.answered.Add(1)
			c.write(answer(out, transaction, from), from, at)
		}
	}
}

// socket is a UDP port of one IP version. Answers leave from the address that was asked, which on a host with several the kernel would not
// choose by itself, and who asks believes no other.
type socket struct {
	conn net.PacketConn
	v4   *ipv4.PacketConn // one of the two
	v6   *ipv6.PacketConn
}

func newSocket(network string, c net.PacketConn) socket {
	s := socket{conn: c}
	if network == "udp4" { // where the system cannot tell the address asked, answers leave by the system's choice
		s.v4 = ipv4.NewPacketConn(c)
		_ = s.v4.SetControlMessage(ipv4.FlagDst, true)
		return s
	}
	s.v6 = ipv6.NewPacketConn(c)
	_ = s.v6.SetControlMessage(ipv6.FlagDst, true)
	return s
}

func (s socket) local() netip.AddrPort {
	a, _ := netip.ParseAddrPort(s.conn.LocalAddr().String())
	return a
}

// read returns a datagram's length, its source and the address it came to, nil when that is not known.
func (s socket) read(buf []byte) (n int, from netip.AddrPort, at net.IP, err error) {
	var src net.Addr
	if s.v4 != nil {
		var cm *ipv4.ControlMessage
		if n, cm, src, err = s.v4.ReadFrom(buf); cm != nil {
			at = cm.Dst
		}
	} else {
		var cm *ipv6.ControlMessage
		if n, cm, src, err = s.v6.ReadFrom(buf); cm != nil {
			at = cm.Dst
		}
	}
	if u, ok := src.(*net.UDPAddr); ok {
		from = u.AddrPort()
	}
	return n, from, at, err
}

// write sends an answer; what fails is asked again.
func (s socket) write(b []byte, to netip.AddrPort, from net.IP) {
	dst := net.UDPAddrFromAddrPort(to)
	if s.v4 != nil {
		_, _ = s.v4.WriteTo(b, &ipv4.ControlMessage{Src: from}, dst)
		return
	}
	_, _ = s.v6.WriteTo(b, &ipv6.ControlMessage{Src: from}, dst)
}
