package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"picket.internal/node/localapi"
	"picket.internal/wgtun/filter"
)

// Bounds of captures: how many run at once, and what each holds for a slow reader beside what it is being handed, which is as much.
const (
	maxCaptures    = 4
	maxQueued      = 8192
	maxQueuedBytes = 8 << 20 // packets have up to 64 KiB before they are cut
)

// Capture shows packets as the filter judges them. What its reader does not take in time is dropped and counted: packets never wait.
func (a api) Capture(ctx context.Context, q localapi.AskCapture, emit func([]localapi.CaptureEvent)) error {
	v := a.n.view.Load()
	o, err := v.open()
	if err != nil {
		return err
	}
	c, err := v.choose(q.Selection)
	if err := errors.Join(err, checkCapture(q)); err != nil {
		return err
	}
	select {
	case a.n.capturing <- struct{}{}:
		defer func() { <-a.n.capturing }()
	default:
		return fmt.Errorf("%d captures run already: end one first", maxCaptures)
	}
	log := a.n.log.With("user", localapi.Caller(ctx), "filter", q.Selection.String(), "allowed", q.Allowed, "denied", q.Denied)
	log.Info("a capture of packets has begun")
	if q.Duration > 0 {
		timed, cancel := context.WithTimeout(ctx, q.Duration)
		defer cancel()
		ctx = timed
	}
	s := newSpool(q.Snaplen, q.Count)
	stop := o.Watch(&filter.Tap{Passed: q.Allowed, Denied: q.Denied, See: func(p filter.Sighting) {
		if c.fits(p.Peer, traits(p.Local, p.Remote, p.Proto, p.Out)) {
			s.put(&p)
		}
	}})
	emit([]localapi.CaptureEvent{{Start: &localapi.CaptureStart{Interface: o.Interface(), Version: v.version, At: time.Now()}}})
	why := a.spoolOut(ctx, o, s, emit)
	stop()
	end := s.end(why)
	emit([]localapi.CaptureEvent{{End: &end}})
	log.Info("a capture of packets has ended", "packets", end.Matched, "dropped", end.Dropped)
	return nil
}

func checkCapture(q localapi.AskCapture) error {
	switch {
	case !q.Allowed && !q.Denied:
		return errors.New("a capture is of allowed packets, denied ones, or both")
	case q.Snaplen < 1 || q.Snaplen > localapi.MaxSnaplen:
		return fmt.Errorf("of each packet 1 to %d bytes can be captured", localapi.MaxSnaplen)
	case q.Duration < 0:
		return errors.New("a capture cannot last less than no time")
	}
	return nil
}

// spoolOut hands over what the spool holds until it is full to its count, ctx ends, or the overlay is another one; for the last it says so.
func (a api) spoolOut(ctx context.Context, o overlay, s *spool, emit func([]localapi.CaptureEvent)) (why string) {
	lost := uint64(0)
	flush := func(v *view) (complete bool) {
		packets, dropped, complete := s.take()
		if len(packets) > 0 {
			emit(v.who().events(packets, lost, dropped))
			lost = dropped
		}
		return complete
	}
	for {
		v := a.n.view.Load()
		if v.overlay != o {
			flush(v)
			return "the tunnel was closed"
		}
		if flush(v) {
			return ""
		}
		select {
		case <-ctx.Done():
			flush(v)
			return ""
		case <-v.over:
		case <-s.more:
		}
	}
}

// events: what was dropped since the last time came after the last of these packets, when there was no room for more.
func (w *who) events(packets []captured, lost, dropped uint64) []localapi.CaptureEvent {
	events := make([]localapi.CaptureEvent, len(packets))
	for i := range packets {
		events[i].Packet = w.packet(&packets[i])
		events[i].Packet.Dropped = lost
	}
	events[len(events)-1].Packet.Dropped = dropped
	return events
}

func (w *who) packet(s *captured) *localapi.Packet {
	p := &localapi.Packet{
		At: w.wall(s.At), Out: s.Out, Allow: s.Verdict == filter.Pass, Reason: s.Reason.String(), Words: s.Reason.Words(), Rule: ruleText(s.Rule),
		Length: s.length, Data: s.Packet,
	}
	if s.Local.IsValid() {
		p.Proto = s.Proto.String()
		p.Src, p.Dst = w.between(s.Out, s.Peer, s.Local, s.Remote)
	}
	return p
}

// captured is a packet cut to the snaplen, and how long it was.
type captured struct {
	filter.Sighting
	length int
}

// spool holds packets from where they are judged until they are read.
type spool struct {
	snaplen int
	more    chan struct{} // of one: something was put in, or the count is full

	mu      sync.Mutex
	queue   []captured
	bytes   int
	left    uint64 // to be taken in; 0 when count was reached
	matched uint64
	dropped uint64
}

// newSpool takes in count packets, of 0 without end.
func newSpool(snaplen int, count uint64) *spool {
	if count == 0 {
		count--
	}
	return &spool{snaplen: snaplen, more: make(chan struct{}, 1), left: count}
}

// put copies a packet unless there is no room.
func (s *spool) put(p *filter.Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return
	}
	s.matched++
	n := min(len(p.Packet), s.snaplen)
	if len(s.queue) == maxQueued || s.bytes+n > maxQueuedBytes {
		s.dropped++
		return
	}
	s.left--
	s.bytes += n
	c := captured{*p, len(p.Packet)}
	c.Packet = bytes.Clone(p.Packet[:n])
	s.queue = append(s.queue, c)
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// take returns what was put in, how much was dropped so far, and whether no more will be taken in.
func (s *spool) take() (queue []captured, dropped uint64, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue, s.queue, s.bytes = s.queue, nil, 0
	return queue, s.dropped, s.left == 0
}

// end is called when nothing is put in any more.
func (s *spool) end(why string) localapi.CaptureEnd {
	s.mu.Lock()
	defer s.mu.Unlock()
	return localapi.CaptureEnd{At: time.Now(), Matched: s.matched, Dropped: s.dropped, Why: why}
}
