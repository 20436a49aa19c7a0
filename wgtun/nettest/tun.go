package nettest

import (
	"context"
	"os"
	"slices"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
)

// TUN is a tun.Device without an operating system: Send is what the system writes into it, Recv what the system gets out.
type TUN struct {
	mtu    int
	batch  int
	toRead chan []byte // Send to Read
	wrote  chan []byte // Write to Recv
	events chan tun.Event
	closed chan struct{}

	mu      sync.Mutex // guards closing, so that it is done once
	ended   bool
	stalled chan struct{} // nil, or open while writes are held back
}

// NewTUN returns a TUN that is up, with batches of DefaultBatch. mtu is in bytes.
func NewTUN(mtu int) *TUN { return NewTUNBatch(mtu, DefaultBatch) }

// NewTUNBatch is NewTUN with reads of up to batch packets.
func NewTUNBatch(mtu, batch int) *TUN {
	t := &TUN{
		mtu: mtu, batch: batch,
		toRead: make(chan []byte, queueLength),
		wrote:  make(chan []byte, queueLength),
		events: make(chan tun.Event, 1),
		closed: make(chan struct{}),
	}
	t.events <- tun.EventUp
	return t
}

// Send hands IP packets to the tunnel, copying them. Like a real device with a full queue it drops what does not fit, and what is
// sent after Close; it reports how many packets it took.
func (t *TUN) Send(packets ...[]byte) int {
	select {
	case <-t.closed:
		return 0
	default:
	}
	for i, p := range packets {
		select {
		case t.toRead <- slices.Clone(p):
		default:
			return i
		}
	}
	return len(packets)
}

// Recv returns the next IP packet that the tunnel delivered. It returns ctx's error when ctx ends and os.ErrClosed after Close.
func (t *TUN) Recv(ctx context.Context) ([]byte, error) {
	select {
	case p := <-t.wrote:
		return p, nil
	default:
	}
	select {
	case p := <-t.wrote:
		return p, nil
	case <-t.closed:
		return nil, os.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Stall makes Write block until Resume or Close, as a kernel under memory pressure does.
func (t *TUN) Stall() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stalled == nil {
		t.stalled = make(chan struct{})
	}
}

// Resume ends Stall.
func (t *TUN) Resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stalled != nil {
		close(t.stalled)
		t.stalled = nil
	}
}

// File is nil.
func (t *TUN) File() *os.File { return nil }

// MTU is the one given to NewTUN.
func (t *TUN) MTU() (int, error) { return t.mtu, nil }

// Name is "nettest".
func (t *TUN) Name() (string, error) { return "nettest", nil }

// Events holds one tun.EventUp, and is closed by Close.
func (t *TUN) Events() <-chan tun.Event { return t.events }

// BatchSize is the size given to NewTUNBatch.
func (t *TUN) BatchSize() int { return t.batch }

// Close ends all reads, writes and receives. Closing again does nothing.
func (t *TUN) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.ended = true
		close(t.closed)
		close(t.events)
	}
	return nil
}

// Read waits for one packet and takes as many more as are there; os.ErrClosed after Close. A packet that does not fit its buffer
// gets size 0.
func (t *TUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-t.closed:
		return 0, os.ErrClosed
	default:
	}
	var p []byte
	select {
	case <-t.closed:
		return 0, os.ErrClosed
	case p = <-t.toRead:
	}
	for n := 0; ; n++ {
		sizes[n] = 0
		if len(p) <= len(bufs[n])-offset {
			sizes[n] = copy(bufs[n][offset:], p)
		}
		if n+1 == min(len(bufs), t.batch) {
			return n + 1, nil
		}
		select {
		case p = <-t.toRead:
		default:
			return n + 1, nil
		}
	}
}

// Write delivers packets to Recv; what a lagging receiver has no room for is dropped, as a full socket drops it. os.ErrClosed after Close.
func (t *TUN) Write(bufs [][]byte, offset int) (int, error) {
	t.mu.Lock()
	stalled := t.stalled
	t.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-t.closed:
		}
	}
	select {
	case <-t.closed:
		return 0, os.ErrClosed
	default:
	}
	for _, b := range bufs {
		select {
		case t.wrote <- slices.Clone(b[offset:]):
		default:
		}
	}
	return len(bufs), nil
}
