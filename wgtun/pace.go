package wgtun

import (
	"sync/atomic"
	"time"
)

const (
	// maxInside is how many packets may lie inside the WireGuard device, each way, before it is handed more. Each holds a buffer of
	// 64 KiB there, so many of them cost memory and the processor's cache; fewer leave its goroutines without work.
	maxInside = 128
	// maxDoublings is how often maxInside is doubled while packets keep getting lost: a peer that sends what does not authenticate would have
	// everybody wait lostAfter for each maxInside of its packets, and at most 1024 inside still bound the memory. calmAfter without a
	// loss undoes it.
	maxDoublings = 3
	calmAfter    = 100 * time.Millisecond
	// lostAfter is how long nothing may come out before what is inside is taken for lost: packets that fail authentication, or wait for
	// a handshake, do not come out. Far longer than the device needs for maxInside packets.
	lostAfter = time.Millisecond
	// stuckAfter is how long a system call that takes packets out may block before no more is waited for it.
	stuckAfter = 50 * time.Millisecond
)

// pace bounds the packets inside the device one way: what was handed to it and has not come out at its other side. The device itself
// knows no bound. The count is a help to speed, not to safety: it may be wrong for a moment, and mends itself.
type pace struct {
	inside  atomic.Int64
	outs    atomic.Uint64 // times that something came out
	working atomic.Int32  // calls under way at the other side
	waiting atomic.Int32  // callers of wait
	doubled atomic.Int32  // times that room is maxInside doubled
	loss    atomic.Int64  // when packets were last taken for lost, since start
	start   time.Time
	wake    chan struct{} // room for one
}

func newPace() *pace { return &pace{wake: make(chan struct{}, 1), start: time.Now()} }

// room is how many packets may be inside now.
func (p *pace) room() int64 { return maxInside << p.doubled.Load() }

// lost gives up what is inside, of which nothing has come out for so long.
func (p *pace) lost() {
	p.inside.Store(0)
	p.loss.Store(int64(time.Since(p.start)))
	p.doubled.Store(min(p.doubled.Load()+1, maxDoublings))
}

// calm takes back the doublings when nothing was lost for some time.
func (p *pace) calm() {
	if time.Since(p.start)-time.Duration(p.loss.Load()) >= calmAfter {
		p.doubled.Store(0)
	}
}

// begin says that a call begins that takes packets out; end that it is over and took n.
func (p *pace) begin() { p.working.Add(1) }

func (p *pace) end(n int) {
	p.working.Add(-1)
	if n == 0 { // keepalives and handshakes: as long as there is no end of them, what is lost would be waited for
		return
	}
	p.outs.Add(1)
	p.take(n)
}

func (p *pace) take(n int) {
	inside := p.inside.Add(-int64(n))
	if inside < 0 { // some were taken for lost
		p.inside.CompareAndSwap(inside, 0)
	}
	if inside < p.room() && p.waiting.Load() > 0 {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// wait blocks while too many packets are inside.
func (p *pace) wait() {
	if p.inside.Load() < maxInside {
		return
	}
	p.calm()
	if p.inside.Load() < p.room() {
		return
	}
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	timer := time.NewTimer(lostAfter)
	defer timer.Stop()
	outs, since := p.outs.Load(), time.Now()
	for p.inside.Load() >= p.room() {
		select {
		case <-p.wake:
		case <-timer.C:
			timer.Reset(lostAfter)
		}
		if now := p.outs.Load(); now != outs {
			outs, since = now, time.Now()
			continue
		}
		if silent := time.Since(since); silent >= stuckAfter || silent >= lostAfter && p.working.Load() == 0 {
			p.lost()
		}
	}
}

// drain waits until nothing is inside, but no longer than within. It looks first after a while: what was judged just before is not counted yet.
func (p *pace) drain(within time.Duration) {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		time.Sleep(within / 20)
		if p.inside.Load() <= 0 {
			return
		}
	}
}

// handed counts the packets that calls of the device are given. All count at first; that the device did not take one shows in the next call:
// it puts another buffer in the place of each that it keeps, and offers the rest again.
type handed struct {
	pace   *pace
	places []*byte // of the buffers counted in the last call; nil where none was
}

// settle takes back the count of what the device left. It is called first in each call.
func (h *handed) settle(bufs [][]byte) {
	left := 0
	for i, at := range h.places {
		if at != nil && i < len(bufs) && at == &bufs[i][0] {
			left++
		}
	}
	h.places = h.places[:0]
	if left > 0 {
		h.pace.take(left)
	}
}

// fill counts the buffers that a call has filled; counts tells which matter.
func (h *handed) fill(bufs [][]byte, n int, counts func(i int) bool) {
	given := 0
	for i := range n {
		var at *byte
		if counts(i) {
			at = &bufs[i][0]
			given++
		}
		h.places = append(h.places, at)
	}
	h.pace.inside.Add(int64(given))
}
