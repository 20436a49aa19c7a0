//go:build linux

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Raw is a packet socket on one interface of a host (packet(7)): what a program with root writes into it passes neither the host's stack nor its
// firewall, and what comes in is seen before they see it.
//
// The sockets belong to the host's namespace, where they were opened, whichever thread uses them; so this needs no helper process.
type Raw struct {
	out  int // with a virtio_net_hdr before each packet
	to   unix.SockaddrLinklayer
	in   *os.File
	conn syscall.RawConn
	done chan struct{}

	mu     sync.Mutex
	frames []Frame
	lost   int
}

// Frame is a packet that an interface carried.
type Frame struct {
	Packet []byte // from the IP header on
	Out    bool   // sent by this host
}

// maxFrames bounds what a Raw keeps between two calls of Take.
const maxFrames = 100_000

// Raw opens the interface called link.
func (h *Host) Raw(link string) (*Raw, error) {
	r := &Raw{done: make(chan struct{})}
	err := h.ns.Do(func() error { return r.open(link) })
	if err != nil {
		return nil, fmt.Errorf("open %s of %s for packets: %w", link, h.Name, err)
	}
	go r.capture()
	h.world.cleanup.add(r.close)
	return r, nil
}

func (r *Raw) open(link string) (err error) {
	dev, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	if r.out, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	r.to = unix.SockaddrLinklayer{Ifindex: dev.Index}
	if err := unix.SetsockoptInt(r.out, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return err
	}
	in, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	r.in = os.NewFile(uintptr(in), "packets of "+link)
	_ = unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
	if err := unix.Bind(in, &unix.SockaddrLinklayer{Ifindex: dev.Index, Protocol: bigEndian(unix.ETH_P_ALL)}); err != nil {
		return err
	}
	r.conn, err = r.in.SyscallConn()
	return err
}

func (r *Raw) close() {
	_ = r.in.Close()
	<-r.done
	_ = unix.Close(r.out)
}

// capture keeps what comes until the socket is closed.
func (r *Raw) capture() {
	defer close(r.done)
	buf := make([]byte, 1<<16+64)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if r.conn.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(err, unix.EAGAIN)
		}) != nil {
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if err != nil || !ok {
			continue
		}
		r.mu.Lock()
		if len(r.frames) < maxFrames {
			r.frames = append(r.frames, Frame{append([]byte(nil), buf[:n]...), ll.Pkttype == unix.PACKET_OUTGOING})
		} else {
			r.lost++
		}
		r.mu.Unlock()
	}
}

// Offload is struct virtio_net_hdr (linux/virtio_net.h): what the kernel is told of a packet that it, or whoever reads the TUN, is to cut or sum.
type Offload struct {
	Flags, GSO            uint8
	Headers, Segment      uint16
	SumStart, SumPosition uint16
}

// Send puts packets on the interface as they are.
func (r *Raw) Send(packets ...[]byte) error {
	for _, p := range packets {
		if err := r.SendOffload(Offload{}, p); err != nil {
			return err
		}
	}
	return nil
}

// SendOffload puts one packet on the interface with what is said of it. The kernel refuses some lies itself.
func (r *Raw) SendOffload(o Offload, packet []byte) error {
	b := make([]byte, 10, 10+len(packet))
	b[0], b[1] = o.Flags, o.GSO
	for i, v := range []uint16{o.Headers, o.Segment, o.SumStart, o.SumPosition} {
		binary.NativeEndian.PutUint16(b[2+2*i:], v)
	}
	to := r.to
	to.Protocol = bigEndian(unix.ETH_P_IP)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		to.Protocol = bigEndian(unix.ETH_P_IPV6)
	}
	for {
		err := unix.Sendto(r.out, append(b, packet...), 0, &to)
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
			time.Sleep(100 * time.Microsecond) // the queue of the interface is full
			continue
		}
		return err
	}
}

// Take returns what was carried since it was last called, and how many frames were lost because nobody called it.
func (r *Raw) Take() ([]Frame, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	frames, lost := r.frames, r.lost
	r.frames, r.lost = nil, 0
	var st *unix.TpacketStats
	err := r.conn.Control(func(fd uintptr) {
		st, _ = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err == nil && st != nil {
		lost += int(st.Drops)
	}
	return frames, lost
}

func bigEndian(proto uint16) uint16 { return proto<<8 | proto>>8 }

// Silence has the host's own stack neither hear nor say anything on the interface called link, so that nothing is there but what a Raw sends.
func (h *Host) Silence(link string) error {
	return h.ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, link)
		table := c.AddTable(&nftables.Table{Name: "silence", Family: nftables.TableFamilyINet})
		for _, ch := range []struct {
			name string
			hook *nftables.ChainHook
			key  expr.MetaKey
		}{{"in", nftables.ChainHookInput, expr.MetaKeyIIFNAME}, {"out", nftables.ChainHookOutput, expr.MetaKeyOIFNAME}} {
			chain := c.AddChain(&nftables.Chain{Name: ch.name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: ch.hook, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Meta{Key: ch.key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name}, &expr.Verdict{Kind: expr.VerdictDrop},
			}})
		}
		return c.Flush()
	})
}
