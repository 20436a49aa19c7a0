package path

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"picket.internal/wgtun/key"
)

// Ping sends a probe at once and waits for the answer: its round-trip time and the address it came from, the zero one through a relay. Unanswered it is sent
// again, on every way there is, until ctx ends. The error is ErrNoPeer when the peer is not known or is removed meanwhile, else
// ctx's. Run must be running.
func (b *Bind) Ping(ctx context.Context, t key.TunnelPublic) (time.Duration, netip.AddrPort, error) {
	w := &waiter{since: b.now(), answer: make(chan answer, 1)}
	p, err := b.await(t, w)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	select {
	case a, ok := <-w.answer:
		if !ok {
			return 0, netip.AddrPort{}, fmt.Errorf("ping %s: %w", t.Short(), ErrNoPeer)
		}
		if isAlias(a.from.Addr()) {
			a.from = netip.AddrPort{}
		}
		return a.latency, a.from, nil
	case <-ctx.Done():
		b.forget(p, w)
		return 0, netip.AddrPort{}, fmt.Errorf("ping %s: no answer: %w", t.Short(), ctx.Err())
	}
}

// await enters w among those who wait for p's next answer, and has p asked.
func (b *Bind) await(t key.TunnelPublic, w *waiter) (*peer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.table.peer(t)
	if p == nil {
		return nil, fmt.Errorf("ping %s: %w", t.Short(), ErrNoPeer)
	}
	l := b.rouseLocked(p)
	if len(l.waiters) >= maxWaiters {
		return nil, fmt.Errorf("ping %s: %d pings are waiting already", t.Short(), maxWaiters)
	}
	l.waiters = append(l.waiters, w)
	if l.current == nil {
		b.roundLocked(p)
	} else {
		l.current.due = b.now()
	}
	b.hastenLocked(p)
	return p, nil
}

func (b *Bind) forget(p *peer, w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.live != nil {
		p.live.waiters = slices.DeleteFunc(p.live.waiters, func(x *waiter) bool { return x == w })
	}
}
