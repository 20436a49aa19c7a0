package relay

import "sync"

// Bounds of an outbox.
const (
	maxPairDatagrams = 64
	maxPairBytes     = 128 << 10
	maxOutboxBytes   = 1 << 20
	maxControl       = 16 // frames of our own, such as pongs
)

// outbox is what waits to be written to a connection: for each other end, or from it, a queue of its own, taken from in turn, so that whoever sends much
// delays and displaces nobody else. All methods are safe for concurrent use; none blocks.
type outbox struct {
	wake chan struct{} // room for one

	mu      sync.Mutex
	control [][]byte
	queues  map[Address]*queue
	turns   []*queue // those that hold something, whose turn is next first
	bytes   int
	closed  bool
}

// queue is the frames of one pair, oldest first.
type queue struct {
	pair   Address
	frames [][]byte
	bytes  int
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), queues: make(map[Address]*queue)}
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// put queues a datagram frame that bears the address of its sender, or receiver, and returns how many frames that cost: the oldest of the same
// pair, or this one when all queues together are full.
func (o *outbox) put(pair Address, marked Address, datagram []byte) (lost int) {
	frame := appendFrame(make([]byte, 0, headerSize+addressSize+len(datagram)), kindDatagram, marked[:], datagram)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return 1
	}
	q := o.queues[pair]
	if q == nil {
		q = &queue{pair: pair}
		o.queues[pair] = q
	}
	for len(q.frames) > 0 && (len(q.frames) >= maxPairDatagrams || q.bytes+len(frame) > maxPairBytes || o.bytes+len(frame) > maxOutboxBytes) {
		o.dropOldest(q)
		lost++
	}
	if o.bytes+len(frame) > maxOutboxBytes {
		if len(q.frames) == 0 {
			delete(o.queues, pair)
		}
		return lost + 1
	}
	if len(q.frames) == 0 && !o.waits(q) {
		o.turns = append(o.turns, q)
	}
	q.frames = append(q.frames, frame)
	q.bytes += len(frame)
	o.bytes += len(frame)
	o.signal()
	return lost
}

// waits reports whether a queue has a turn; one that was emptied by dropOldest keeps its own.
func (o *outbox) waits(q *queue) bool {
	for _, t := range o.turns {
		if t == q {
			return true
		}
	}
	return false
}

func (o *outbox) dropOldest(q *queue) {
	n := len(q.frames[0])
	q.frames[0] = nil
	q.frames = q.frames[1:]
	q.bytes -= n
	o.bytes -= n
}

// say queues a frame of our own; it is dropped when there are too many, which only who asks for pongs faster than it reads brings about.
func (o *outbox) say(k kind, parts ...[]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed && len(o.control) < maxControl {
		o.control = append(o.control, appendFrame(nil, k, parts...))
		o.signal()
	}
}

// take appends what is to be written next, one frame of each pair in turn, until b is full or nothing is left.
func (o *outbox) take(b []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.control {
		b = append(b, c...)
	}
	o.control = nil
	for len(o.turns) > 0 && len(b) < bufferSize {
		q := o.turns[0]
		o.turns[0] = nil
		o.turns = o.turns[1:]
		if len(q.frames) > 0 {
			b = append(b, q.frames[0]...)
			o.dropOldest(q)
		}
		if len(q.frames) > 0 {
			o.turns = append(o.turns, q)
		} else {
			delete(o.queues, q.pair) // who is silent costs nothing
		}
	}
	return b
}

// close drops everything, now and later.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.control, o.turns, o.bytes = true, nil, nil, 0
	clear(o.queues)
	o.signal()
}

// over reports whether it was closed.
func (o *outbox) over() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}
