package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// bufferSize is what each socket may keep in the kernel, each way, in bytes; beyond net.core.rmem_max it needs CAP_NET_ADMIN.
const bufferSize = 7 << 20

// portTries is how often another port is tried for both families, when the system chooses.
const portTries = 100

// Bind is a conn.Bind of one socket for each family.
type Bind struct {
	mu     sync.RWMutex // held for reading while sending
	v4, v6 *socket      // nil while closed, or where the family is missing
	mark   uint32
}

// New returns a Bind that is closed.
func New() conn.Bind { return &Bind{} }

// Open listens on a port in both families, as far as the system has them; 0 lets the system choose.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.v4 != nil || b.v6 != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	v4, v6, actual, err := openBoth(port)
	if err != nil {
		return nil, 0, err
	}
	b.v4, b.v6 = v4, v6
	var fns []conn.ReceiveFunc
	for _, s := range []*socket{v4, v6} {
		if s == nil {
			continue
		}
		if b.mark != 0 {
			if err := s.setMark(b.mark); err != nil {
				b.closeLocked()
				return nil, 0, err
			}
		}
		fns = append(fns, s.receive)
	}
	return fns, actual, nil
}

// openBoth opens both families on one port.
func openBoth(port uint16) (v4, v6 *socket, actual uint16, err error) {
	for try := 0; ; try++ {
		v4, actual, err = open("udp4", port)
		if err != nil && !errors.Is(err, syscall.EAFNOSUPPORT) {
			return nil, nil, 0, err
		}
		if v4 == nil {
			actual = port
		}
		v6, actual6, err := open("udp6", actual)
		switch {
		case err == nil:
			return v4, v6, actual6, nil
		case errors.Is(err, syscall.EAFNOSUPPORT) && v4 != nil:
			return v4, nil, actual, nil
		}
		if v4 != nil {
			v4.conn.Close()
		}
		if port != 0 || !errors.Is(err, syscall.EADDRINUSE) || try == portTries {
			return nil, nil, 0, err
		}
	}
}

func open(network string, port uint16) (*socket, uint16, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = tune(int(fd), network) }); cerr != nil {
			return cerr
		}
		return err
	}}
	pc, err := lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, 0, err
	}
	udp := pc.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err != nil {
		udp.Close()
		return nil, 0, err
	}
	s := newSocket(udp, raw)
	return s, udp.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

// tune sets what costs speed at most when the kernel refuses it, and what is needed.
func tune(fd int, network string) error {
	for _, o := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, bufferSize)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	if network == "udp6" {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	return nil
}

// Close ends all receives with net.ErrClosed. A Bind may be opened again.
func (b *Bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closeLocked()
}

func (b *Bind) closeLocked() error {
	var errs []error
	for _, s := range []**socket{&b.v4, &b.v6} {
		if *s != nil {
			errs = append(errs, (*s).conn.Close())
			*s = nil
		}
	}
	return errors.Join(errs...)
}

// SetMark marks all that is sent (SO_MARK, socket(7)), also after the next Open.
func (b *Bind) SetMark(mark uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mark = mark
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			if err := s.setMark(mark); err != nil {
				return err
			}
		}
	}
	return nil
}

// BatchSize is how many datagrams Send and receiving take at once.
func (b *Bind) BatchSize() int { return conn.IdealBatchSize }

// ParseEndpoint reads "ip:port".
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	return newEndpoint(a), nil
}

// SendUnfragmented sends one datagram that neither this host nor a router may cut, whatever is believed of the path's MTU: to find that out.
func (b *Bind) SendUnfragmented(buf []byte, ep conn.Endpoint) error {
	to, ok := ep.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	s := b.socketFor(to)
	if s == nil {
		return syscall.EAFNOSUPPORT
	}
	return s.sendUnfragmented(buf, to)
}

func (b *Bind) socketFor(to *endpoint) *socket {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if to.Addr().Is6() {
		return b.v6
	}
	return b.v4
}

// Send sends datagrams to one address, in order. A datagram that the network refuses as too long is lost, and the error says so.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	to, ok := ep.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	s := b.socketFor(to)
	if s == nil {
		return syscall.EAFNOSUPPORT
	}
	return s.send(bufs, to)
}
