package path

import (
	"errors"
	"slices"

	"golang.zx2c4.com/wireguard/conn"
)

// Open opens the inner bind and has all peers in use probed from the new port.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	inner, actual, err := b.inner.Open(port)
	if err != nil {
		return nil, 0, err
	}
	fns := make([]conn.ReceiveFunc, len(inner))
	for i, fn := range inner {
		fns[i] = b.sifted(fn)
	}
	if b.config.Relay != nil {
		fns = append(fns, b.receiveRelayed(b.reopened()))
	}
	b.port.Store(uint32(actual))
	b.Reprobe()
	b.Reflect()
	return fns, actual, nil
}

// Close closes the inner bind: all receives return net.ErrClosed. Peers and proofs stay for the next Open.
func (b *Bind) Close() error {
	b.port.Store(0)
	b.reopened()
	return b.inner.Close()
}

// reopened ends the receives from relays, and returns what ends those that begin now.
func (b *Bind) reopened() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		close(b.closed)
	}
	b.closed = make(chan struct{})
	return b.closed
}

// SetMark marks all datagrams, probes too.
func (b *Bind) SetMark(mark uint32) error { return b.inner.SetMark(mark) }

// BatchSize is the inner bind's.
func (b *Bind) BatchSize() int { return b.inner.BatchSize() }

// Send sends a batch by the peer's proved path, as a batch. Without one it keeps copies of the newest datagrams for up to 3 s and
// returns nil: the first probe answered sends them. What is meant for a peer no longer known is dropped and counted, also without error.
func (b *Bind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	p := b.table.peer(e.tunnel)
	if p == nil {
		b.drop(DropNoPeer, len(bufs))
		return nil
	}
	p.sent.Store(int64(b.now()))
	if len(bufs) == 1 && isInitiation(bufs[0]) && b.keepInitiation(p, e.tunnel, bufs[0]) {
		return nil
	}
	w := p.way.Load()
	if w == nil {
		b.hold(p, bufs)
		return nil
	}
	err := b.through(p, w, bufs)
	if err != nil && !errors.As(err, new(conn.ErrUDPGSODisabled)) {
		b.suspect(p)
	}
	return err
}

// through sends to a peer unless it was removed; RemovePeer waits for it.
func (b *Bind) through(p *peer, w way, bufs [][]byte) error {
	p.gate.RLock()
	defer p.gate.RUnlock()
	if p.removed {
		b.drop(DropNoPeer, len(bufs))
		return nil
	}
	return w.send(bufs)
}

// hold keeps copies of the newest datagrams until a path is proved, and has one looked for.
func (b *Bind) hold(p *peer, bufs [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.table.peer(p.tunnel) != p {
		b.drop(DropNoPeer, len(bufs))
		return
	}
	l, now := b.rouseLocked(p), b.now()
	for _, buf := range bufs[max(0, len(bufs)-maxHeld):] {
		b.holdOneLocked(l, buf, now)
	}
	b.drop(DropNoPath, max(0, len(bufs)-maxHeld))
	if w := p.way.Load(); w != nil { // proved between Send's look and the lock: do not let them wait for the next answer
		b.flushLocked(p, w)
		return
	}
	if !l.asking() {
		b.roundLocked(p)
		b.hastenLocked(p)
	}
}

func (b *Bind) holdOneLocked(l *live, buf []byte, now instant) {
	if len(buf) > maxHeldSize || b.heldSize+len(buf) > maxHeldAll {
		b.drop(DropNoPath, 1)
		return
	}
	size := 0
	for _, h := range l.held {
		size += len(h.datagram)
	}
	for len(l.held) > 0 && (len(l.held) == maxHeld || size+len(buf) > maxHeldSize) {
		size -= len(l.held[0].datagram)
		b.dropHeldLocked(l, 1)
	}
	l.held = append(l.held, held{slices.Clone(buf), now})
	b.heldSize += len(buf)
}

// dropHeldLocked drops the n oldest.
func (b *Bind) dropHeldLocked(l *live, n int) {
	b.releaseLocked(l, n)
	b.drop(DropNoPath, n)
}

// releaseLocked takes the n oldest held datagrams out.
func (b *Bind) releaseLocked(l *live, n int) [][]byte {
	out := make([][]byte, n)
	for i, h := range l.held[:n] {
		out[i] = h.datagram
		b.heldSize -= len(h.datagram)
	}
	l.held = slices.Delete(l.held, 0, n)
	return out
}

// flushLocked hands all held datagrams to the outbox.
func (b *Bind) flushLocked(p *peer, w way) {
	if l := p.live; len(l.held) > 0 {
		b.post(parcel{peer: p, way: w, bufs: b.releaseLocked(l, len(l.held))})
	}
}

// sifted wraps a receive function of the inner bind.
func (b *Bind) sifted(receive conn.ReceiveFunc) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, err := receive(bufs, sizes, eps)
		if err != nil {
			return n, err
		}
		b.sift(bufs[:n], sizes[:n], eps[:n])
		return n, nil
	}
}

// sift takes out of a batch what WireGuard is not to see, by setting its size to 0, and gives the rest its peers' endpoints.
func (b *Bind) sift(bufs [][]byte, sizes []int, eps []conn.Endpoint) {
	now := b.now()
	var last *claim // a batch is mostly from one place
	var at *binding
	for i, size := range sizes {
		if size == 0 {
			continue
		}
		datagram, from := bufs[i][:size], source(eps[i])
		switch {
		case isAlias(from.Addr()): // what relays carry does not come here
			b.drop(DropForbidden, 1)
		case looksLikeProbe(datagram):
			b.takeProbe(datagram, from, func() way { return &direct{inner: b.inner, to: from, ep: eps[i]} })
		case !looksLikeWireGuard(datagram):
			b.takeForeign(datagram, from)
		default:
			if last == nil || last.endpoint.from != from {
				at, last = b.table.claimant(from, now)
			}
			if last != nil {
				at.heard.Store(int64(now))
				last.peer.received.Store(int64(now))
				eps[i] = last.endpoint
				continue
			}
			b.drop(DropStranger, 1)
		}
		sizes[i] = 0
	}
}
