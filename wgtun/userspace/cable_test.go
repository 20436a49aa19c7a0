package userspace

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	a4 = netip.MustParseAddr("100.64.0.1")
	b4 = netip.MustParseAddr("100.64.0.2")
	a6 = netip.MustParseAddr("fd7a::1")
	b6 = netip.MustParseAddr("fd7a::2")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cable joins two stacks. onWire, when set, sees each packet and may answer it toward its sender, or lose it.
type cable struct {
	mu     sync.Mutex
	onWire func(packet []byte) (answer []byte, pass bool)
}

func (c *cable) judge(packet []byte) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.onWire == nil {
		return nil, true
	}
	return c.onWire(packet)
}

// newPair returns two joined stacks with addresses of both families; they are closed when the test ends.
func newPair(t *testing.T) (a, b *Stack, c *cable) {
	t.Helper()
	a, b, c = newStack(t, a4, a6), newStack(t, b4, b6), &cable{}
	var ends sync.WaitGroup
	ends.Go(func() { c.carry(a, b) })
	ends.Go(func() { c.carry(b, a) })
	t.Cleanup(func() {
		a.Device().Close()
		b.Device().Close()
		ends.Wait()
	})
	return a, b, c
}

func newStack(t *testing.T, addrs ...netip.Addr) *Stack {
	t.Helper()
	s, err := New(1280, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetAddresses(addrs); err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *cable) carry(from, to *Stack) {
	const offset = 16
	bufs, sizes := make([][]byte, batchSize), make([]int, batchSize)
	for i := range bufs {
		bufs[i] = make([]byte, offset+2000)
	}
	for {
		n, err := from.Device().Read(bufs, sizes, offset)
		if err != nil {
			return
		}
		for i := range n {
			answer, pass := c.judge(bufs[i][offset : offset+sizes[i]])
			if answer != nil {
				_, _ = from.Device().Write([][]byte{append(make([]byte, offset), answer...)}, offset)
			}
			if pass {
				_, _ = to.Device().Write([][]byte{bufs[i][:offset+sizes[i]]}, offset)
			}
		}
	}
}

// within bounds what must not hang; it is far longer than anything here takes.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// forward runs ForwardInbound until the test ends.
func forward(t *testing.T, s *Stack) {
	t.Helper()
	forwardBy(t, s, nil)
}

func forwardBy(t *testing.T, s *Stack, dial DialFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ForwardInbound(ctx, dial) }()
	for s.inbound.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ForwardInbound: %v", err)
		}
	})
}
