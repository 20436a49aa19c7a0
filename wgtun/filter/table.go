package filter

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"picket.internal/wgtun/packet"
)

// Limits bound what a filter remembers. Within each, a peer may hold as much as is still free for all others together (or a small
// floor): one that floods ends at half, two at a third each, and there is always as much left for the rest.
type Limits struct {
	Flows     int // live flows; as many tombstones may stand beside them
	Fragments int // fragmented packets under way
}

// DefaultLimits cost at most about 50 MiB, tombstones included.
var DefaultLimits = Limits{Flows: 128 << 10, Fragments: 4096}

// floor is what a peer may hold however little is free.
const floor = 16

// share counts what is taken of a bound, in total.
type share struct {
	limit int64
	used  atomic.Int64
}

// take takes one for a holder that counts its own in mine; false when the holder's share, or everything, is used up.
func (b *share) take(mine *atomic.Int64) bool {
	used, held := b.used.Add(1), mine.Add(1)
	if used > b.limit || held > floor && held > b.limit-used {
		b.release(mine)
		return false
	}
	return true
}

func (b *share) release(mine *atomic.Int64) {
	b.used.Add(-1)
	mine.Add(-1)
}

// key names a flow by its ends as seen from this node, so that a packet fits its flow only if it travels the right way.
// An ICMP echo has its id as the requester's port and 0 as the other's.
type key struct {
	local, remote packet.Addr
	meta          uint64 // family, local port, remote port, who asks in an echo, protocol: bits 48, 32, 16, 8, 0
}

// set makes k the key of the flow that a packet belongs to. Of ICMP only echo messages have one. Keys are passed by pointer: copying one that
// was just written stalls the processor.
func (k *key) set(v *packet.View, dir direction) {
	k.setEnds(v, dir)
	if v.IsICMP() {
		k.setEcho(v, dir)
	}
}

// setEnds is set for all but ICMP.
func (k *key) setEnds(v *packet.View, dir direction) {
	k.local, k.remote = v.Src(), v.Dst()
	local, remote := v.SrcPort(), v.DstPort()
	if dir == ingress {
		k.local, k.remote, local, remote = k.remote, k.local, remote, local
	}
	k.meta = uint64(local)<<32 | uint64(remote)<<16 | uint64(v.Proto())
	if v.IsIPv6() {
		// Or an IPv6 packet between mapped addresses would pass in the flow of the IPv4 ones.
		k.meta |= 1 << 48
	}
}

// setEcho adds what an echo message has for ports. Who asks is part of the key: with id 0 the ports would not tell, and a request would pass
// as the answer to another.
func (k *key) setEcho(v *packet.View, dir direction) {
	asks := dir
	if kind, _, _ := v.ICMP(); kind != packet.ICMPEchoRequest {
		asks ^= 1
	}
	k.meta |= uint64(1+asks) << 8
	if asks == egress {
		k.meta |= uint64(v.EchoID()) << 32
	} else {
		k.meta |= uint64(v.EchoID()) << 16
	}
}

// is compares without a branch, so that both cache lines of a flow's key are fetched at once.
func (k *key) is(o *key) bool {
	return (k.local.Hi^o.local.Hi)|(k.local.Lo^o.local.Lo)|(k.remote.Hi^o.remote.Hi)|(k.remote.Lo^o.remote.Lo)|(k.meta^o.meta) == 0
}

func (k *key) proto() uint8       { return uint8(k.meta) }
func (k *key) localPort() uint16  { return uint16(k.meta >> 32) }
func (k *key) remotePort() uint16 { return uint16(k.meta >> 16) }

const numShards = 32 // a power of two

// table is the flow table: shards of open-addressed slots.
type table struct {
	share
	tombs  atomic.Int64
	seeds  [5]uint64
	shards [numShards]shard
}

// shard is a part of the flow table. Packets of known flows only read slots; all else belongs to who holds mu.
type shard struct {
	slots atomic.Pointer[slots]
	_     [56]byte // what is written below must not take the line above from other cores

	mu     sync.Mutex
	ticks  uint32
	n      int
	until  int64     // no flow's deadline is before this
	passed [2]uint64 // packets of flows that are in the table no more, and of none
	cuts   []Cut     // made since Swap or Sweep last collected them

	_ [56]byte // to whole lines
}

// slots are read without a lock. A free one is filled, and one under a flow that was replaced gets its successor; for all other changes
// there is a new array, so that who still reads the old one finds what was there, and by its state that it is forgotten.
type slots struct {
	mask uint64
	at   []slot // length a power of two; at most 3/4 in use
}

// slot is free while fl is nil; h is written once, before fl.
type slot struct {
	h  uint64
	fl atomic.Pointer[flow]
}

const minSlots = 16

func (t *table) init(limit int) {
	t.limit = int64(limit)
	var seed [len(t.seeds) * 8]byte
	_, _ = rand.Read(seed[:]) // never fails
	for i := range t.seeds {
		t.seeds[i] = binary.LittleEndian.Uint64(seed[i*8:])
	}
	for i := range t.shards {
		t.shards[i].slots.Store(newSlots(minSlots))
		t.shards[i].until = math.MaxInt64
	}
}

// hash is keyed with secrets, so that nobody can aim many flows at one chain. Multiply and fold both halves, as wyhash does; the addresses of
// IPv4 go into one word. One fold would leave keys that differ by a stride in slots that do; a second one does not.
func (t *table) hash(k *key) uint64 {
	if k.meta>>48 == 0 {
		return t.finish(fold(k.local.Lo<<32^k.remote.Lo&math.MaxUint32^t.seeds[0], k.meta^t.seeds[1]))
	}
	return t.hash6(k)
}

func (t *table) hash6(k *key) uint64 {
	a := fold(k.local.Hi^t.seeds[0], k.local.Lo^t.seeds[1])
	b := fold(k.remote.Hi^t.seeds[2], k.remote.Lo^t.seeds[3])
	return t.finish(fold(a^b^k.meta, t.seeds[4]^bits.RotateLeft64(b, 17)))
}

func (t *table) finish(h uint64) uint64 { return fold(h^t.seeds[2], t.seeds[3]) }

// find is shard.find for a key whose hash, which it returns, is not known. The loop stands here again to spare each packet a call.
func (t *table) find(k *key) (*flow, uint64) {
	h := t.hash(k)
	s := t.shard(h).slots.Load()
	for i := h; ; i++ {
		at := &s.at[i&s.mask]
		fl := at.fl.Load()
		if fl == nil || at.h == h && fl.k.is(k) {
			return fl, h
		}
	}
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// shard picks by the high bits; slots are picked by the low ones.
func (t *table) shard(h uint64) *shard { return &t.shards[h>>(64-5)] }

func newSlots(size int) *slots { return &slots{mask: uint64(size - 1), at: make([]slot, size)} }

// find needs no lock: whether the flow still stands, its state says under its own.
func (s *shard) find(h uint64, k *key) *flow {
	t := s.slots.Load()
	for i := h; ; i++ {
		at := &t.at[i&t.mask]
		fl := at.fl.Load()
		if fl == nil || at.h == h && fl.k.is(k) {
			return fl
		}
	}
}

// all yields the shard's flows. The caller holds mu.
func (s *shard) all(yield func(*flow) bool) {
	for some := range slices.Chunk(s.slots.Load().at, lookAhead) {
		fetchAll(some)
		for i := range some {
			if fl := some[i].fl.Load(); fl != nil && !yield(fl) {
				return
			}
		}
	}
}

// lookAhead is how many slots a walk fetches the flows of at the same time.
const lookAhead = 16

// fetchAll looks at all flows, as fetch does, and at their origins. The caller holds no flow's lock.
//
//go:noinline
func fetchAll(some []slot) (sum uint64) {
	var flows [lookAhead]*flow
	for i := range some {
		if fl := some[i].fl.Load(); fl != nil {
			flows[i] = fl
			sum += fl.k.local.Hi + fl.k.meta
		}
	}
	var origins [lookAhead]*origin
	for i, fl := range flows {
		if fl != nil {
			fl.mu.Lock()
			origins[i] = fl.origin
			fl.mu.Unlock()
		}
	}
	for _, o := range origins {
		if o != nil {
			sum += uint64(o.opened) // never changes
		}
	}
	return sum
}

// locked yields the shard's flows, each while its lock is held.
func (s *shard) locked(yield func(*flow) bool) {
	for fl := range s.all {
		fl.mu.Lock()
		more := yield(fl)
		fl.mu.Unlock()
		if !more {
			return
		}
	}
}

// insert adds a flow whose key is not there yet.
func (s *shard) insert(h uint64, fl *flow) {
	t := s.slots.Load()
	if (s.n+1)*4 > len(t.at)*3 {
		t = s.resize(len(t.at)*2, nil)
	}
	s.n++
	t.place(h, fl)
	s.until = min(s.until, fl.until)
}

func (t *slots) place(h uint64, fl *flow) {
	i := h & t.mask
	for t.at[i].fl.Load() != nil {
		i = (i + 1) & t.mask
	}
	t.at[i].h = h
	t.at[i].fl.Store(fl)
}

// resize moves the flows but those that are gone to slots of another number.
func (s *shard) resize(size int, gone map[*flow]struct{}) *slots {
	from, to := s.slots.Load(), newSlots(size)
	for i := range from.at {
		if fl := from.at[i].fl.Load(); fl != nil {
			if _, drop := gone[fl]; !drop {
				to.place(from.at[i].h, fl)
			}
		}
	}
	s.slots.Store(to)
	return to
}

// replace puts fl in old's place; both have the same key.
func (s *shard) replace(h uint64, old, fl *flow) {
	t := s.slots.Load()
	for i := h; ; i++ {
		if at := &t.at[i&t.mask]; at.fl.Load() == old {
			at.fl.Store(fl)
			s.until = min(s.until, fl.until)
			return
		}
	}
}

// forget drops the flows for which over is true; it is asked while the flow is locked, and leaves it forgotten.
func (s *shard) forget(over func(*flow) bool) {
	gone := map[*flow]struct{}{}
	for fl := range s.locked {
		if over(fl) {
			gone[fl] = struct{}{}
		}
	}
	if len(gone) == 0 {
		return
	}
	s.n -= len(gone)
	size := len(s.slots.Load().at)
	for size > minSlots && s.n*8 < size {
		size /= 2
	}
	s.resize(size, gone)
}
