package wgtun

import (
	"context"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
)

const (
	// injectOffset is the room that a TUN device may want before a packet (LIBRARIES.md section 2, trap 4).
	injectOffset = 16
	// injectRoom holds any reject: headers, and the quotation of an ICMP error, at most 1280 bytes (RFC 4443 section 2.4 c).
	injectRoom = injectOffset + 1280
	// maxOffered bounds the rejects that wait; beyond it they are dropped, and senders wait out their own timeouts.
	maxOffered = 256
)

// newInjection returns the room before a packet, to append the packet to.
func newInjection() []byte { return make([]byte, injectOffset, injectRoom) }

// injector writes packets of our own to the local side, on one goroutine.
type injector struct {
	wake chan struct{}

	mu      sync.Mutex
	queue   [][]byte // each with injectOffset bytes of room in front
	offered int      // how many of queue came by offer
}

func newInjector() *injector { return &injector{wake: make(chan struct{}, 1)} }

// offer queues an answer to a refused packet, or drops it when many wait. It never blocks and keeps b.
func (i *injector) offer(b []byte) {
	i.mu.Lock()
	full := i.offered >= maxOffered
	if !full {
		i.offered++
		i.queue = append(i.queue, b)
	}
	i.mu.Unlock()
	if !full {
		i.signal()
	}
}

// must queues resets of cut flows. None is dropped: there are at most as many as the flow table holds. It never blocks.
func (i *injector) must(packets [][]byte) {
	i.mu.Lock()
	i.queue = append(i.queue, packets...)
	i.mu.Unlock()
	i.signal()
}

func (i *injector) signal() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// run writes to inner until ctx ends. A packet that inner does not take is lost.
func (i *injector) run(ctx context.Context, inner tun.Device) {
	for {
		for _, b := range i.take() {
			_, _ = inner.Write([][]byte{b}, injectOffset)
		}
		select {
		case <-ctx.Done():
			return
		case <-i.wake:
		}
	}
}

func (i *injector) take() [][]byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	queue := i.queue
	i.queue, i.offered = nil, 0
	return queue
}
