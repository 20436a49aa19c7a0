package wgtun

import (
	"os"
	"slices"
	"sync"

	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/hosttun"
)

// guardedTUN stands between wireguard-go and the TUN and lets through what the filter passes.
//
// Read is called by one goroutine, Write by one a peer, concurrently. Neither changes, swaps nor keeps a buffer: wireguard-go
// goes on using each where it put it, and TUN devices write into the room around packets.
type guardedTUN struct {
	inner    tun.Device
	filter   *filter.Filter
	inject   *injector
	reading  readState
	judging  judgedReader
	outward  handed // what Read gave the device
	inward   *pace
	events   chan tun.Event
	outgoing *outward // where packets that pass go; nil: anywhere

	closeOnce sync.Once
	closed    chan struct{}
	closeErr  error
}

func newGuardedTUN(inner tun.Device, f *filter.Filter, i *injector, out, in *pace) *guardedTUN {
	g := &guardedTUN{inner: inner, filter: f, inject: i, outward: handed{pace: out}, inward: in, events: make(chan tun.Event, 1), closed: make(chan struct{})}
	g.reading.cond.L = &g.reading.mu
	g.judging, _ = inner.(judgedReader)
	return g
}

func (g *guardedTUN) File() *os.File           { return g.inner.File() }
func (g *guardedTUN) MTU() (int, error)        { return g.inner.MTU() }
func (g *guardedTUN) Name() (string, error)    { return g.inner.Name() }
func (g *guardedTUN) BatchSize() int           { return g.inner.BatchSize() }
func (g *guardedTUN) Events() <-chan tun.Event { return g.events }

// Read returns what the inner device read and the filter passed. Of what it refused either nothing is there, or the size is 0, which wireguard-go
// skips. Packets that come together with an error are judged like any other.
func (g *guardedTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	g.reading.begin()
	g.outward.settle(bufs)
	g.outward.pace.wait()
	n, err := g.read(bufs, sizes, offset)
	g.reading.took(n, err)
	g.outward.fill(bufs, n, func(i int) bool { return sizes[i] > 0 })
	return n, err
}

// read has each packet judged, by the inner device before it cuts it where it can, else here.
func (g *guardedTUN) read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if g.judging != nil {
		return g.judging.ReadJudged(bufs, sizes, offset, g.judge)
	}
	n, err := g.inner.Read(bufs, sizes, offset)
	for i := range n {
		if !g.judge(bufs[i][offset:offset+sizes[i]], 1, sizes[i]) {
			sizes[i] = 0
		}
	}
	return n, err
}

// judgedReader is a TUN that has packets judged before it cuts them.
type judgedReader interface {
	ReadJudged(bufs [][]byte, sizes []int, offset int, judge hosttun.Judge) (int, error)
}

// judge gives the verdict on a packet that is to be sent as count packets. From here it counts as under way, before the verdict: a drain after a
// swap waits for every packet that an older verdict passed.
func (g *guardedTUN) judge(packet []byte, count, longest int) bool {
	g.reading.judging()
	switch verdict := g.filter.EgressCut(packet, count).Verdict; {
	case verdict == filter.Pass, !filtered && hasDestination(packet):
		return g.outgoing == nil || g.forward(packet, longest)
	case verdict == filter.Reject:
		g.answer(g.filter.AppendReject(newInjection(), packet))
	}
	return false
}

// forward reports whether a packet that has passed can go on to its peer. One too long for the peer's path is answered, as a router would.
func (g *guardedTUN) forward(packet []byte, longest int) bool {
	mtu, ok := g.outgoing.ready(packet)
	if !ok || longest <= mtu {
		return ok
	}
	if mayBeCut(packet) {
		return true
	}
	g.answer(g.filter.AppendTooBig(newInjection(), packet, mtu))
	return false
}

// mayBeCut tells whether routers may fragment a packet: what carries it will be cut instead.
func mayBeCut(packet []byte) bool {
	const dontFragment = 0x40
	return packet[0]>>4 == 4 && packet[6]&dontFragment == 0
}

// answer hands the local host what is behind injectOffset bytes, if anything is.
func (g *guardedTUN) answer(b []byte) {
	if len(b) > injectOffset {
		g.inject.offer(b)
	}
}

// hasDestination tells whether a packet that nobody judged is long enough for a destination address; only an unfiltered build asks.
func hasDestination(packet []byte) bool {
	return len(packet) >= 40 || len(packet) >= 20 && packet[0]>>4 == 4
}

// writePool holds the slices of slices that Write compacts passed packets into; a shared one would race between peers.
var writePool = sync.Pool{New: func() any { return new([][]byte) }}

// Write hands the packets that the filter passes to the inner device in one call, as the slices they came in. It returns
// len(bufs) unless the inner device fails: a refused packet has been dealt with.
func (g *guardedTUN) Write(bufs [][]byte, offset int) (int, error) {
	g.inward.begin()
	defer g.inward.end(len(bufs))
	pooled := writePool.Get().(*[][]byte)
	passed := (*pooled)[:0]
	for some := range slices.Chunk(bufs, filter.BatchSize) {
		passed = g.appendPassed(passed, some, offset)
	}
	var err error
	if len(passed) > 0 {
		_, err = g.inner.Write(passed, offset)
	}
	clear(passed)
	*pooled = passed
	writePool.Put(pooled)
	if err != nil {
		return 0, err
	}
	return len(bufs), nil
}

// appendPassed appends those of at most filter.BatchSize packets that the filter passes.
func (g *guardedTUN) appendPassed(passed, bufs [][]byte, offset int) [][]byte {
	var verdicts [filter.BatchSize]filter.Verdict
	g.filter.IngressBatch(bufs, offset, verdicts[:])
	for i, b := range bufs {
		if len(b) > offset && (verdicts[i] == filter.Pass || !filtered) {
			passed = append(passed, b)
		}
	}
	return passed
}

// Close closes the inner device, so that blocked calls return. It is called before the device's own Close too, which would
// wait for a removal that waits for a blocked Write.
func (g *guardedTUN) Close() error {
	g.closeOnce.Do(func() {
		close(g.closed)
		g.reading.end()
		g.closeErr = g.inner.Close()
	})
	return g.closeErr
}

// forwardEvents passes on changes of MTU until the device closes. Up and down are Run's to decide: at EventUp wireguard-go
// would open its sockets from a goroutine of its own, on no port of ours, before it is configured.
func (g *guardedTUN) forwardEvents() {
	defer close(g.events)
	for {
		select {
		case <-g.closed:
			return
		case e, ok := <-g.inner.Events():
			if !ok {
				return
			}
			if e&tun.EventMTUUpdate == 0 {
				continue
			}
			select {
			case g.events <- tun.EventMTUUpdate:
			case <-g.closed:
				return
			}
		}
	}
}

// drain waits until every packet that Read has returned so far has been put behind a peer, which wireguard-go has done when it
// calls Read again.
func (g *guardedTUN) drain() { g.reading.wait() }

// readState tells whether packets are between Read's return and the next Read.
type readState struct {
	mu       sync.Mutex
	cond     sync.Cond
	underWay bool
	ended    bool
}

func (r *readState) begin() {
	r.mu.Lock()
	r.underWay = false
	r.mu.Unlock()
	r.cond.Broadcast()
}

// judging notes that a packet is about to be judged.
func (r *readState) judging() {
	r.mu.Lock()
	r.underWay = true
	r.mu.Unlock()
}

// took notes n packets under way. After an error other than a partial read there is no next Read to wait for.
func (r *readState) took(n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.underWay = n > 0
	if err != nil && n == 0 {
		r.cond.Broadcast()
	}
}

func (r *readState) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.cond.Broadcast()
}

func (r *readState) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.underWay && !r.ended {
		r.cond.Wait()
	}
}
