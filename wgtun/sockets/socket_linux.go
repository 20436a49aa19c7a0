package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// maxSegments bounds the datagrams of one message: UDP_MAX_SEGMENTS of older kernels.
	maxSegments = 64
	// maxMessage bounds its length: what IPv4 leaves to UDP.
	maxMessage = 65535 - 20 - 8
	maxControl = 64 // bytes of control messages that we look at
)

// socket is one family's.
type socket struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	cutting atomic.Bool // the kernel cuts what is sent
	senders sync.Pool   // *sender
	probing sync.Mutex  // held while the socket sends nothing that may be cut

	// Receiving is done by one goroutine.
	stage   []byte
	name    [unix.SizeofSockaddrInet6]byte
	control [maxControl]byte
	last    *endpoint // whom the last message came from: mostly the next does too
}

func newSocket(c *net.UDPConn, raw syscall.RawConn) *socket {
	s := &socket{conn: c, raw: raw, stage: make([]byte, 1<<16)}
	s.senders.New = func() any { return newSender() }
	_ = raw.Control(func(fd uintptr) { // Linux 4.18
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.cutting.Store(err == nil)
	})
	return s
}

func (s *socket) setMark(mark uint32) error {
	var err error
	if cerr := s.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) }); cerr != nil {
		return cerr
	}
	return err
}

// receive waits for a message and reads what else is there, as far as bufs reach.
func (s *socket) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int, err error) {
	rawErr := s.raw.Read(func(fd uintptr) bool {
		for n < len(bufs) {
			// A message that the kernel joined may hold maxSegments datagrams: with less room, what is there waits.
			if n > 0 && len(bufs)-n < maxSegments {
				return true
			}
			size, segment, from, errno := s.read(fd)
			switch {
			case errors.Is(errno, unix.EAGAIN):
				return n > 0
			case errors.Is(errno, unix.EINTR):
				continue
			case errno != nil:
				if n == 0 { // not a bare Errno, for which wireguard-go would stop receiving at once
					err = fmt.Errorf("receive: %w", errno)
				}
				return true
			}
			n += apart(s.stage[:size], segment, bufs[n:], sizes[n:], eps[n:], from)
		}
		return true
	})
	if rawErr != nil {
		return 0, net.ErrClosed // nothing else makes Read of a RawConn fail
	}
	return n, err
}

// read takes one message: its length, that of the datagrams in it (0 when it is one), and whom it is from.
func (s *socket) read(fd uintptr) (size, segment int, from *endpoint, err error) {
	v := unix.Iovec{Base: &s.stage[0]}
	v.SetLen(len(s.stage))
	h := unix.Msghdr{Name: &s.name[0], Namelen: uint32(len(s.name)), Iov: &v, Control: &s.control[0]}
	h.SetIovlen(1)
	h.SetControllen(len(s.control))
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&h)), 0)
	if errno != 0 {
		return 0, 0, nil, errno
	}
	if a := readName(s.name[:]); s.last == nil || s.last.AddrPort != a {
		s.last = newEndpoint(a)
	}
	return int(n), joined(s.control[:h.Controllen]), s.last, nil
}

// joined reads from control messages how long the datagrams of a message are; 0 when it is one.
func joined(control []byte) int {
	for len(control) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4 { // a C int, udp(7)
			return int(binary.NativeEndian.Uint32(data))
		}
		control = rest
	}
	return 0
}

// apart copies the datagrams of a message into buffers of their own, and returns how many; what finds no room is lost. An empty message is
// one empty datagram: whoever sends them does not keep receive from returning what else is there.
func apart(message []byte, segment int, bufs [][]byte, sizes []int, eps []conn.Endpoint, from *endpoint) (n int) {
	if segment <= 0 {
		segment = max(1, len(message))
	}
	for more := true; more && n < len(bufs); n++ {
		one := message[:min(segment, len(message))]
		message = message[len(one):]
		sizes[n], eps[n] = copy(bufs[n], one), from
		more = len(message) > 0
	}
	return n
}

// sender is what one Send needs.
type sender struct {
	vectors  []unix.Iovec
	messages []message
	controls [][unix.SizeofCmsghdr + 8]byte // one a message
	at       int                            // the message to send next
	refused  bool                           // that message was not cut
	err      error
}

// message is struct mmsghdr (sendmmsg(2)), which C and Go pad alike: to 8 bytes on systems of 64 bits, not at all on those of 32.
type message struct {
	unix.Msghdr
	sent uint32
}

func newSender() *sender {
	return &sender{
		vectors:  make([]unix.Iovec, 0, conn.IdealBatchSize),
		messages: make([]message, 0, conn.IdealBatchSize),
		controls: make([][unix.SizeofCmsghdr + 8]byte, conn.IdealBatchSize),
	}
}

// send sends bufs, at most BatchSize. What the kernel does not cut goes out uncut: it says EIO where the interface cannot make checksums
// (udp_send_skb in Linux), from then on for all, and EINVAL or EMSGSIZE where the path takes only smaller datagrams, for cutAgain for this address.
func (s *socket) send(bufs [][]byte, to *endpoint) error {
	x := s.senders.Get().(*sender)
	defer s.senders.Put(x)
	defer x.reset()
	x.prepare(bufs, to, s.cutting.Load() && !to.uncut())
	err := s.flush(x)
	switch {
	case !x.refused:
		return err
	case errors.Is(err, unix.EIO):
		s.cutting.Store(false)
	default:
		to.leaveUncut()
	}
	sent := x.datagrams()
	x.reset()
	x.prepare(bufs[sent:], to, false)
	return s.flush(x)
}

// sendUnfragmented sets the socket to probe for the length of one send. What others send meanwhile on it differs only where it would have had to
// be cut, and is lost there.
func (s *socket) sendUnfragmented(buf []byte, to *endpoint) error {
	level, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	probe, usual := unix.IP_PMTUDISC_PROBE, unix.IP_PMTUDISC_WANT
	if to.Addr().Is6() {
		level, option, probe, usual = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, unix.IPV6_PMTUDISC_WANT
	}
	set := func(value int) error {
		var err error
		if cerr := s.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) }); cerr != nil {
			return cerr
		}
		return err
	}
	s.probing.Lock()
	defer s.probing.Unlock()
	if err := set(probe); err != nil {
		return fmt.Errorf("have a datagram sent uncut: %w", err)
	}
	err := s.send([][]byte{buf}, to)
	return errors.Join(err, set(usual))
}

// prepare makes messages of bufs.
func (x *sender) prepare(bufs [][]byte, to *endpoint, cutting bool) {
	for _, b := range bufs {
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		x.vectors = append(x.vectors, v)
	}
	for from := 0; from < len(bufs); {
		n := 1
		if cutting {
			n = alike(bufs[from:])
		}
		x.add(x.vectors[from:from+n], len(bufs[from]), to)
		from += n
	}
}

// alike is how many of bufs make one message: all of one length, the last at most as long.
func alike(bufs [][]byte) int {
	n, size, whole := 1, len(bufs[0]), len(bufs[0])
	for n < len(bufs) && n < maxSegments && len(bufs[n-1]) == size && len(bufs[n]) <= size && whole+len(bufs[n]) <= maxMessage {
		whole += len(bufs[n])
		n++
	}
	return n
}

func (x *sender) add(vectors []unix.Iovec, segment int, to *endpoint) {
	m := message{Msghdr: unix.Msghdr{Name: to.pointer(), Namelen: to.size, Iov: &vectors[0]}}
	m.SetIovlen(len(vectors))
	if len(vectors) > 1 {
		control := &x.controls[len(x.messages)]
		h := (*unix.Cmsghdr)(unsafe.Pointer(control))
		h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
		binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(segment))
		m.Control = &control[0]
		m.SetControllen(unix.CmsgSpace(2))
	}
	x.messages = append(x.messages, m)
}

// flush sends the messages prepared. One that fails is left out; the error is that of the last.
func (s *socket) flush(x *sender) error {
	rawErr := s.raw.Write(func(fd uintptr) bool {
		for x.at < len(x.messages) {
			n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&x.messages[x.at])), uintptr(len(x.messages)-x.at), 0, 0, 0)
			switch errno {
			case 0:
				x.at += int(n)
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				x.err = errno
				if x.messages[x.at].Iovlen > 1 && (errno == unix.EIO || errno == unix.EINVAL || errno == unix.EMSGSIZE) {
					x.refused = true
					return true
				}
				x.at++
			}
		}
		return true
	})
	if rawErr != nil {
		return net.ErrClosed
	}
	return x.err
}

// datagrams is how many of the bufs prepared are dealt with.
func (x *sender) datagrams() (n int) {
	for _, m := range x.messages[:x.at] {
		n += int(m.Iovlen)
	}
	return n
}

// reset forgets what was sent: a sender at rest keeps no buffer.
func (x *sender) reset() {
	clear(x.vectors)
	clear(x.messages)
	x.vectors, x.messages, x.at, x.refused, x.err = x.vectors[:0], x.messages[:0], 0, false, nil
}
