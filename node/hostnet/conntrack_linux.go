package hostnet

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// Flow is a flow that this host forwarded: who opened it to whom, as they stood in its first packet on the tunnel's side.
type Flow struct {
	Src, Dst netip.AddrPort // ICMP echo has its id as source port and 0 as destination port
	Proto    uint8
}

// resetTime is left to the resets of cut flows, which go through the kernel too and need its address translation.
const resetTime = 100 * time.Millisecond

// Forgetter makes the kernel's connection tracking forget flows that were cut, and with them their address translation.
type Forgetter struct {
	logger *slog.Logger
	wake   chan struct{}

	mu    sync.Mutex
	queue []Flow // no longer than the filter's table
}

// NewForgetter makes one; it starts nothing.
func NewForgetter(logger *slog.Logger) *Forgetter {
	return &Forgetter{logger: logger, wake: make(chan struct{}, 1)}
}

// Forget has the flows forgotten soon. It does not block.
func (f *Forgetter) Forget(flows []Flow) {
	if len(flows) == 0 {
		return
	}
	f.mu.Lock()
	f.queue = append(f.queue, flows...)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run works in the network namespace of the calling thread at its first flow, until ctx ends; then it forgets what is left and returns nil.
func (f *Forgetter) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			f.forgetQueued()
			return nil
		case <-f.wake:
		}
		select {
		case <-ctx.Done():
		case <-time.After(resetTime):
		}
		f.forgetQueued()
	}
}

func (f *Forgetter) forgetQueued() {
	f.mu.Lock()
	flows := f.queue
	f.queue = nil
	f.mu.Unlock()
	if len(flows) == 0 {
		return
	}
	c, err := conntrack.Dial(nil)
	if err != nil {
		f.logger.Warn("the kernel's connection tracking is not reached: it may know cut flows for a while", "reason", err)
		return
	}
	defer c.Close()
	for _, flow := range flows {
		if err := c.Delete(entryOf(flow)); err != nil && !errors.Is(err, unix.ENOENT) {
			f.logger.Warn("the kernel's connection tracking keeps a cut flow", "reason", err)
			return // the next one would fail the same way
		}
	}
}

// entryOf is the entry of connection tracking that the flow's first packet made.
func entryOf(f Flow) conntrack.Flow {
	out := conntrack.NewFlow(f.Proto, 0, f.Src.Addr(), f.Dst.Addr(), f.Src.Port(), f.Dst.Port(), 0, 0)
	switch f.Proto {
	case unix.IPPROTO_ICMP:
		out.TupleOrig.Proto = conntrack.ProtoTuple{Protocol: f.Proto, ICMPv4: true, ICMPID: f.Src.Port(), ICMPType: 8}
	case unix.IPPROTO_ICMPV6:
		out.TupleOrig.Proto = conntrack.ProtoTuple{Protocol: f.Proto, ICMPv6: true, ICMPID: f.Src.Port(), ICMPType: 128}
	}
	// The kernel looks for the first tuple; the library learns the family from both.
	out.TupleReply.Proto = out.TupleOrig.Proto
	return out
}
