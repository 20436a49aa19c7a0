package userspace

import (
	"context"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// batchSize is wireguard-go's own ideal: more packets a call save wake-ups, and no memory is held for them.
const batchSize = 128

// device is the tun.Device end of a Stack.
type device struct {
	stack  *Stack
	mtu    int
	events chan tun.Event

	closeOnce sync.Once
	closed    chan struct{}
}

func newDevice(s *Stack, mtu int) *device {
	d := &device{stack: s, mtu: mtu, events: make(chan tun.Event, 1), closed: make(chan struct{})}
	d.events <- tun.EventUp
	return d
}

func (d *device) File() *os.File           { return nil }
func (d *device) Name() (string, error)    { return "userspace", nil }
func (d *device) MTU() (int, error)        { return d.mtu, nil }
func (d *device) Events() <-chan tun.Event { return d.events }
func (d *device) BatchSize() int           { return batchSize }

// Read waits for one packet of the stack and takes along those that already stand behind it.
func (d *device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	pkt := d.stack.link.ReadContext(untilClosed{d.closed})
	if pkt == nil {
		return 0, os.ErrClosed
	}
	n := 0
	for pkt != nil {
		sizes[n] = copyOut(bufs[n][offset:], pkt)
		if n++; n == len(bufs) || n == len(sizes) {
			break
		}
		pkt = d.stack.link.Read()
	}
	return n, nil
}

// copyOut copies a packet into dst and gives it back to the stack; a packet that does not fit counts as empty.
func copyOut(dst []byte, pkt *stack.PacketBuffer) int {
	defer pkt.DecRef()
	if pkt.Size() > len(dst) {
		return 0
	}
	n := 0
	for _, part := range pkt.AsSlices() {
		n += copy(dst[n:], part)
	}
	return n
}

// Write hands packets to the stack, which runs the receiving half of its protocols in this call. Anything but IP is skipped.
func (d *device) Write(bufs [][]byte, offset int) (int, error) {
	select {
	case <-d.closed:
		return 0, os.ErrClosed
	default:
	}
	for _, b := range bufs {
		if len(b) <= offset {
			continue
		}
		d.inject(append([]byte(nil), b[offset:]...)) // the stack keeps what it is given, wireguard-go reuses its buffers
	}
	return len(bufs), nil
}

func (d *device) inject(packet []byte) {
	protocol := header.IPv4ProtocolNumber
	switch packet[0] >> 4 {
	case 4:
	case 6:
		protocol = header.IPv6ProtocolNumber
	default:
		return
	}
	d.stack.hearRefusal(packet)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	defer pkt.DecRef()
	d.stack.link.InjectInbound(protocol, pkt)
}

// Close ends the stack with every connection and waits for its goroutines.
func (d *device) Close() error {
	d.closeOnce.Do(func() {
		close(d.closed)
		d.stack.link.Close()
		d.stack.ip.Close()
		d.stack.ip.Wait()
		close(d.events)
	})
	return nil
}

// untilClosed is the context of a blocked Read: it ends when the channel is closed.
type untilClosed struct{ closed <-chan struct{} }

func (untilClosed) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c untilClosed) Done() <-chan struct{}     { return c.closed }
func (untilClosed) Value(any) any               { return nil }

func (c untilClosed) Err() error {
	select {
	case <-c.closed:
		return context.Canceled
	default:
		return nil
	}
}
