package path

import (
	"context"
	"time"
)

// parcel is something to send to a peer: datagrams of WireGuard's, or a probe yet to be sealed.
type parcel struct {
	peer    *peer
	way     way
	bufs    [][]byte
	message message // a probe, when its kind is set
}

// Run probes until ctx ends, and then returns nil. Without it nothing is asked, answered or found. Call it once.
func (b *Bind) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	ticking := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-b.outbox:
			b.ship(p)
			continue
		case <-b.wake:
			b.shipAll(b.tendUrgent())
		case <-ticker.C:
			b.shipAll(b.tendAll())
		}
		switch asleep := b.asleep(); { // an idle node does not wake its processor
		case asleep && ticking:
			ticker.Stop()
		case !asleep && !ticking:
			ticker.Reset(tick)
		default:
			continue
		}
		ticking = !ticking
	}
}

func (b *Bind) asleep() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.alive) == 0
}

// post hands a parcel to Run without waiting.
func (b *Bind) post(p parcel) {
	select {
	case b.outbox <- p:
	default:
		b.drop(DropBusy, max(1, len(p.bufs)))
	}
}

func (b *Bind) shipAll(parcels []parcel) {
	for _, p := range parcels {
		b.ship(p)
	}
}

// ship sends a parcel. Failures need no word: what is not answered is asked again, and what WireGuard misses it repeats.
func (b *Bind) ship(p parcel) {
	if p.message.kind == 0 {
		size := max(1, b.inner.BatchSize())
		for ; len(p.bufs) > 0; p.bufs = p.bufs[min(size, len(p.bufs)):] {
			_ = b.through(p.peer, p.way, p.bufs[:min(size, len(p.bufs))])
		}
		return
	}
	sealer := b.boxOf(p.peer)
	if sealer == nil {
		return
	}
	if p.message.kind == ping {
		b.pings.Add(1)
	} else {
		b.pongs.Add(1)
	}
	probe := sealer.seal(p.message)
	if p.message.kind == ping && p.message.size > 0 {
		b.sendWhole(p.peer, p.way, probe, int(p.message.size))
		return
	}
	_ = b.through(p.peer, p.way, [][]byte{probe})
}

// tendUrgent tends the peers that cannot wait for the next tick.
func (b *Bind) tendUrgent() (pings []parcel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	urgent := b.urgent
	b.urgent = nil
	for _, p := range urgent {
		pings = append(pings, b.tendOneLocked(p)...)
	}
	return pings
}

// tendAll tends every live peer.
func (b *Bind) tendAll() (pings []parcel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.urgent = nil
	for p := range b.alive {
		pings = append(pings, b.tendOneLocked(p)...)
	}
	return pings
}

// tendOneLocked leaves everything as it is while the port is closed: nothing can be asked, so nothing fails to answer.
func (b *Bind) tendOneLocked(p *peer) []parcel {
	if p.live == nil {
		return nil
	}
	if b.port.Load() == 0 {
		p.live.urgent = false
		return nil
	}
	return b.tendLocked(p, b.now())
}
