package wgtun

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

const (
	// sessionMemory is how long a peer may go on sending into a session (RejectAfterTime, WireGuard whitepaper section 6.1).
	sessionMemory = device.RejectAfterTime
	// restInterval is how often it is seen whether there is nothing to look for any more.
	restInterval = 30 * time.Second
)

// sessions finds peers that send into a session which this device does not have, because it was started anew or the peer was
// removed and came back (not because it was reaped: no session lives so long): WireGuard itself notices only 15 seconds later. Such a peer's first message is transport data; from
// a peer without a session it is part of a handshake. Only the former is met with a handshake of ours, for if both sides
// began one at the same moment each would drop the other's answer, and the next try comes 5 seconds later.
//
// A forged message can set off one handshake for each time its peer was added, if it bears an address that the peer has proved.
type sessions struct {
	waiting atomic.Bool                      // some may be found out, else Receive need not look
	lost    chan key.TunnelPublic            // read by run
	came    func(key.TunnelPublic) time.Time // when a peer was added; the zero Time for none
	mu      sync.Mutex                       // guards what follows
	until   time.Time                        // nobody has to be looked at any more
	heardOf map[key.TunnelPublic]struct{}    // who has spoken since, and needs no second look
}

func newSessions(came func(key.TunnelPublic) time.Time) *sessions {
	return &sessions{lost: make(chan key.TunnelPublic, 64), came: came, heardOf: make(map[key.TunnelPublic]struct{})}
}

// added says that a peer has come, without session; removed that it has left.
func (s *sessions) added(k key.TunnelPublic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.heardOf, k)
	s.until = time.Now().Add(sessionMemory)
	s.waiting.Store(true)
}

func (s *sessions) removed(k key.TunnelPublic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.heardOf, k)
}

// heard notes a peer's first message since it was added.
func (s *sessions) heard(k key.TunnelPublic, message []byte) {
	if len(message) < 4 || !s.first(k) {
		return
	}
	since := s.came(k)
	if binary.LittleEndian.Uint32(message) != device.MessageTransportType || since.IsZero() || time.Since(since) > sessionMemory {
		return
	}
	select {
	case s.lost <- k:
	default: // WireGuard will notice by itself
	}
}

// run calls handshake for each peer that was found out, until ctx ends. It is apart from receiving, which must not wait for
// the device's locks.
func (s *sessions) run(ctx context.Context, handshake func(key.TunnelPublic)) {
	ticker := time.NewTicker(restInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case k := <-s.lost:
			handshake(k)
		case <-ticker.C:
			s.rest()
		}
	}
}

// first reports whether a peer has not spoken before, and notes that it has.
func (s *sessions) first(k key.TunnelPublic) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, before := s.heardOf[k]
	s.heardOf[k] = struct{}{}
	return !before
}

// rest stops looking once everybody has been here for so long that there is nothing to find.
func (s *sessions) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().After(s.until) {
		s.waiting.Store(false)
		clear(s.heardOf)
	}
}

// watchedBind is the path layer with sessions looking on.
type watchedBind struct {
	*path.Bind
	sessions *sessions
	over     *takeovers
	rekeying *rekeying
	out, in  *pace
}

// dataSize is more than the length of any message that carries no packet.
const dataSize = device.MessageTransportSize

func isData(message []byte) bool {
	return len(message) > dataSize && message[0] == device.MessageTransportType
}

// Send counts what comes out of the device.
func (b watchedBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	n := 0
	for _, buf := range bufs {
		if isData(buf) {
			n++
		}
	}
	b.out.begin()
	defer b.out.end(n)
	if k := b.rekeying.pending(); k != nil {
		if e, ok := ep.(*path.Endpoint); ok && len(bufs) > 0 {
			k.sent(e.Peer(), bufs[0])
		}
	}
	if b.over.any.Load() && b.over.hold(ep, bufs) {
		return nil
	}
	return b.Bind.Send(bufs, ep)
}

// Open opens the path layer.
func (b watchedBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := b.Bind.Open(port)
	for i, fn := range fns {
		fns[i] = b.watch(fn)
	}
	return fns, port, err
}

// dropResponses takes the answers to handshakes out of a batch: see roster.changeKey.
func dropResponses(bufs [][]byte, sizes []int) {
	for i, size := range sizes {
		if size > 0 && bufs[i][0] == messageResponse {
			sizes[i] = 0
		}
	}
}

func (b watchedBind) watch(receive conn.ReceiveFunc) conn.ReceiveFunc {
	inward := handed{pace: b.in}
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		inward.settle(bufs)
		b.in.wait()
		n, err := receive(bufs, sizes, eps)
		if err == nil {
			inward.fill(bufs, n, func(i int) bool { return sizes[i] > 0 && isData(bufs[i][:sizes[i]]) })
		}
		if b.rekeying.deaf.Load() && err == nil {
			dropResponses(bufs[:n], sizes[:n])
		}
		if k := b.rekeying.pending(); k != nil && err == nil {
			for i := range n {
				if e, ok := eps[i].(*path.Endpoint); ok && sizes[i] > 0 {
					k.heard(e, bufs[i][:sizes[i]])
				}
			}
		}
		if err != nil || !b.sessions.waiting.Load() {
			return n, err
		}
		for i := range n {
			if e, ok := eps[i].(*path.Endpoint); ok && sizes[i] > 0 {
				b.sessions.heard(e.Peer(), bufs[i][:sizes[i]])
			}
		}
		return n, nil
	}
}
