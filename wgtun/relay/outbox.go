package relay

import (
	"encoding/binary"
	"sync"
)

// bounds of an outbox.
type bounds struct {
	pairDatagrams int // that wait for, or from, one other end
	pairBytes     int // of those
	bytes         int // of all
}

var (
	// A server's: a slow receiver costs it 1 MiB, and one sender takes an eighth of that at most.
	serverBounds = bounds{pairDatagrams: 64, pairBytes: 128 << 10, bytes: 1 << 20}
	// A client's: WireGuard hands over batches of 128.
	clientBounds = bounds{pairDatagrams: 256, pairBytes: 512 << 10, bytes: 1 << 20}
)

const maxControl = 16 // frames of our own, such as pongs

// outbox is what waits to be written to a connection: for each other end, or from it, a queue of its own, taken from in turn, so that whoever sends much
// delays and displaces nobody else. All methods are safe for concurrent use; none blocks.
type outbox struct {
	wake   chan struct{} // room for one
	bounds bounds

	mu      sync.Mutex
	control [][]byte
	queues  map[Address]*queue
	turns   []*queue // those that hold something, whose turn is next first
	bytes   int
	closed  bool
}

// queue is the frames of one pair, oldest first, end to end in one piece of memory.
type queue struct {
	pair   Address
	b      []byte // frames begin at from
	from   int
	frames int
	waits  bool // it has a turn
}

// queues are lent to pairs while something of theirs waits.
var queues = sync.Pool{New: func() any { return new(queue) }}

func newOutbox(b bounds) *outbox {
	return &outbox{wake: make(chan struct{}, 1), bounds: b, queues: make(map[Address]*queue)}
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// put queues a datagram frame that bears the address of its sender, or receiver, and returns how many frames that cost: the oldest of the same
// pair, or this one when all queues together are full. The caller signals, once for all that it puts.
func (o *outbox) put(pair Address, marked Address, datagram []byte) (lost int) {
	n := headerSize + addressSize + len(datagram)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return 1
	}
	q := o.queues[pair]
	if q == nil {
		q = queues.Get().(*queue)
		q.pair = pair
		o.queues[pair] = q
	}
	for q.frames > 0 && (q.frames >= o.bounds.pairDatagrams || q.bytes()+n > o.share()) {
		o.bytes -= len(q.oldest())
		lost++
	}
	if n > o.share() {
		if !q.waits {
			o.forget(q)
		}
		return lost + 1
	}
	if !q.waits {
		q.waits = true
		o.turns = append(o.turns, q)
	}
	q.put(marked, datagram, n)
	o.bytes += n
	return lost
}

// share is how many bytes one pair may hold now: no more than are free. So however many flood, as much as each of them holds is left for who comes next.
func (o *outbox) share() int { return min(o.bounds.pairBytes, o.bounds.bytes-o.bytes) }

// say queues a frame of our own; it is dropped when there are too many, which only who asks for pongs faster than it reads brings about.
func (o *outbox) say(k kind, parts ...[]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed && len(o.control) < maxControl {
		o.control = append(o.control, appendFrame(nil, k, parts...))
		o.signal()
	}
}

// take appends what is to be written next, one frame of each pair in turn, until the next would make b longer than a batch or nothing is left.
func (o *outbox) take(b []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.control {
		b = append(b, c...)
	}
	o.control = nil
	for len(o.turns) > 0 {
		q := o.turns[0]
		if q.frames > 0 && len(b) > 0 && len(b)+q.next() > batchSize {
			break
		}
		o.turns[0] = nil
		o.turns = o.turns[1:]
		if q.frames > 0 { // put may have dropped all there was
			frame := q.oldest()
			o.bytes -= len(frame)
			b = append(b, frame...)
		}
		if q.frames > 0 {
			o.turns = append(o.turns, q)
		} else {
			o.forget(q) // who is silent costs nothing
		}
	}
	return b
}

// forget gives an empty queue back.
func (o *outbox) forget(q *queue) {
	delete(o.queues, q.pair)
	*q = queue{b: q.b[:0]}
	queues.Put(q)
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

func (q *queue) bytes() int { return len(q.b) - q.from }

// put appends a datagram frame of n bytes.
func (q *queue) put(marked Address, datagram []byte, n int) {
	if cap(q.b)-len(q.b) < n {
		q.room(n)
	}
	size := n - headerSize
	q.b = append(q.b, byte(kindDatagram), byte(size>>16), byte(size>>8), byte(size))
	q.b = append(q.b, marked[:]...)
	q.b = append(q.b, datagram...)
	q.frames++
}

// room makes room for n bytes at the end: by moving what waits to the front while that is at most half of it, so that each byte is moved once or so.
func (q *queue) room(n int) {
	b := q.b[:0]
	if need := q.bytes() + n; 2*need > cap(q.b) {
		b = make([]byte, 0, 2*need)
	}
	q.b, q.from = append(b, q.b[q.from:]...), 0
}

// next is how long the oldest frame is. There must be one.
func (q *queue) next() int { return headerSize + int(binary.BigEndian.Uint32(q.b[q.from:])&0xffffff) }

// oldest takes the oldest frame out; it is good until the next put. There must be one.
func (q *queue) oldest() []byte {
	n := q.next()
	frame := q.b[q.from : q.from+n]
	q.from += n
	q.frames--
	return frame
}
