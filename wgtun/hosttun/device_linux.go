package hosttun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	// queueLength is how many packets the kernel keeps for us: its usual 500 overflow with small packets before we get to read them.
	queueLength = 4000
	maxRead     = headerSize + maxWhole
)

// Device is a TUN device with segmentation offload. Write may be called concurrently, Read not.
type Device struct {
	tun.Device // wireguard-go's: name, MTU, events, closing
	raw        syscall.RawConn
	udp        bool // UDP may be handed to the kernel in runs

	stage []byte // what one read(2) brings
	held  int    // length of what stage holds over for the next Read, not judged yet; 0 for nothing

	mergers sync.Pool
	dropped atomic.Uint64
}

var _ tun.Device = (*Device)(nil)

// Open makes a TUN device, or takes over one that is there without owner; name may be a pattern such as "picket%d". It needs CAP_NET_ADMIN.
func Open(name string, mtu int) (tun.Device, error) {
	native, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, err
	}
	if native.BatchSize() == 1 { // the kernel has no offload to give
		return native, nil
	}
	d := &Device{Device: native, stage: make([]byte, maxRead)}
	if d.raw, err = native.File().SyscallConn(); err != nil {
		native.Close()
		return nil, fmt.Errorf("use the TUN device: %w", err)
	}
	d.mergers.New = func() any { return &batch{merger: merger{udp: d.udp}} }
	if err := d.tune(); err != nil {
		native.Close()
		return nil, err
	}
	return d, nil
}

// tune learns whether the kernel takes UDP runs (Linux 6.2), and lengthens the queue; that neither is possible costs only speed.
func (d *Device) tune() error {
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_USO4 | unix.TUN_F_USO6
	err := d.raw.Control(func(fd uintptr) { d.udp = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, offloads) == nil })
	if err != nil {
		return fmt.Errorf("use the TUN device: %w", err)
	}
	name, err := d.Name()
	if err != nil {
		return fmt.Errorf("ask the TUN device's name: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint32(queueLength)
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(s)
	_ = unix.IoctlIfreq(s, unix.SIOCSIFTXQLEN, request)
	return nil
}

// BatchSize is how many packets Read and Write take at once.
func (d *Device) BatchSize() int { return conn.IdealBatchSize }

// Dropped counts what the kernel handed over and could not be cut.
func (d *Device) Dropped() uint64 { return d.dropped.Load() }

// Read is ReadJudged with a judge that passes everything.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	return d.ReadJudged(bufs, sizes, offset, func([]byte, int, int) bool { return true })
}

// ReadJudged waits for a packet, reads what else is there as far as bufs reach, and fills bufs from offset on with what the judge
// passes, cut. It returns 0 when the judge passed nothing of what it was shown. What was judged is returned at once: nothing that has passed
// waits for a later call, nor for more than a batch of packets that do not pass.
func (d *Device) ReadJudged(bufs [][]byte, sizes []int, offset int, judge Judge) (n int, err error) {
	b := reading{bufs: bufs, sizes: sizes, offset: offset, judge: judge}
	if d.held > 0 {
		d.take(&b, d.held)
		d.held = 0
	}
	rawErr := d.raw.Read(func(fd uintptr) bool {
		for reads := 0; b.n < len(bufs) && reads < len(bufs); reads++ {
			var m int
			m, err = unix.Read(int(fd), d.stage)
			switch {
			case errors.Is(err, unix.EAGAIN):
				err = nil
				return b.judged
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				return true
			}
			if !d.take(&b, m) {
				d.held = m
				return true
			}
		}
		return true
	})
	switch {
	case errors.Is(err, unix.EBADFD): // the device is gone
		err = os.ErrClosed
	case err == nil && rawErr != nil: // nothing else makes Read of a RawConn fail
		err = os.ErrClosed
	}
	if b.n > 0 {
		return b.n, nil
	}
	return 0, err
}

// reading is one ReadJudged under way.
type reading struct {
	bufs   [][]byte
	sizes  []int
	offset int
	judge  Judge
	n      int
	judged bool // something was shown to the judge
}

// take judges and cuts what stage holds, m bytes; false when there is no room for it now, and it was not judged.
func (d *Device) take(b *reading, m int) bool {
	w, err := open(d.stage[:m])
	if err != nil {
		d.dropped.Add(1)
		return true
	}
	count := w.count()
	if free := len(b.bufs) - b.n; count > free && b.n > 0 {
		return false
	}
	b.judged = true
	if !b.judge(w.pkt, count, w.longest()) {
		return true
	}
	for i := 0; i < count && b.n < len(b.bufs); i++ { // what is cut into more than a whole batch is not sent whole: TCP will notice
		b.sizes[b.n] = w.give(i, b.bufs[b.n][b.offset:])
		b.n++
	}
	return true
}

// batch is what one Write needs.
type batch struct {
	merger
	vectors []unix.Iovec
	header  [headerSize]byte
	at      int // the run to write next
	err     error
}

// Write hands packets to the host, joined where they continue each other. They are changed.
// It returns the number of packets taken.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	b := d.mergers.Get().(*batch)
	defer func() {
		b.reset()
		d.mergers.Put(b)
	}()
	for _, buf := range bufs {
		b.add(buf[offset:])
	}
	b.at, b.err = 0, nil
	if err := d.raw.Write(b.write); err != nil || errors.Is(b.err, unix.EBADFD) {
		return 0, os.ErrClosed // nothing else makes Write of a RawConn fail
	}
	if b.err != nil {
		return 0, b.err
	}
	return len(bufs), nil
}

// write hands over the runs that are left; false when the kernel takes no more now.
func (b *batch) write(fd uintptr) bool {
	for ; b.at < len(b.runs); b.at++ {
		if err := b.writeRun(fd, &b.runs[b.at]); err != nil {
			if errors.Is(err, unix.EAGAIN) {
				return false
			}
			b.err = err
		}
	}
	return true
}

// writeRun writes one run with the kernel's header before it.
func (b *batch) writeRun(fd uintptr, r *run) error {
	r.finish().put(b.header[:])
	b.vectors = append(b.vectors[:0], vector(b.header[:]))
	for _, p := range r.pkts {
		b.vectors = append(b.vectors, vector(p))
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&b.vectors[0])), uintptr(len(b.vectors)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

func vector(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}
