package filter

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"math/bits"
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

// DefaultLimits cost at most about 64 MiB, tombstones included.
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

// set makes k the key of the flow that a packet belongs to; mayOpen is false for echo replies, which never open one. Of ICMP only echo
// messages have a key. Keys are passed by pointer: copying one that was just written stalls the processor.
func (k *key) set(v *packet.View, dir direction) (mayOpen bool) {
	src, dst, asks, mayOpen := v.SrcPort(), v.DstPort(), uint64(0), true
	if v.IsICMP() {
		// Who asks is part of the key: with id 0 the ports would not tell, and a request would pass as the answer to another.
		if kind, _, _ := v.ICMP(); kind == packet.ICMPEchoRequest {
			src, asks = v.EchoID(), uint64(1+dir)
		} else {
			dst, asks, mayOpen = v.EchoID(), uint64(1+(dir^1)), false
		}
	}
	if dir == egress {
		k.local, k.remote = v.Src(), v.Dst()
	} else {
		k.local, k.remote = v.Dst(), v.Src()
		src, dst = dst, src
	}
	k.meta = uint64(src)<<32 | uint64(dst)<<16 | asks<<8 | uint64(v.Proto())
	if v.IsIPv6() {
		// Or an IPv6 packet between mapped addresses would pass in the flow of the IPv4 ones.
		k.meta |= 1 << 48
	}
	return mayOpen
}

func (k *key) proto() uint8       { return uint8(k.meta) }
func (k *key) localPort() uint16  { return uint16(k.meta >> 32) }
func (k *key) remotePort() uint16 { return uint16(k.meta >> 16) }

const numShards = 64 // a power of two

// table is the flow table: shards of open-addressed slots.
type table struct {
	share
	tombs  atomic.Int64
	seeds  [5]uint64
	shards [numShards]shard
}

// shard is a part of the flow table. Everything in it belongs to who holds mu.
type shard struct {
	mu     sync.Mutex
	ticks  uint32
	slots  []slot // length a power of two; at most 3/4 in use
	n      int
	until  int64 // no flow's deadline is before this
	passed [2]uint64
	cuts   []Cut // made since Swap or Sweep last collected them

	_ [32]byte // shards share no cache line, so that two cores do not slow each other down
}

type slot struct {
	h  uint64
	fl *flow
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
		t.shards[i].slots = make([]slot, minSlots)
		t.shards[i].until = math.MaxInt64
	}
}

// hash is keyed with secrets, so that nobody can aim many flows at one chain. Multiply and fold both halves, as wyhash does.
func (t *table) hash(k *key) uint64 {
	a := fold(k.local.Hi^t.seeds[0], k.local.Lo^t.seeds[1])
	b := fold(k.remote.Hi^t.seeds[2], k.remote.Lo^t.seeds[3])
	return fold(a^b^k.meta, t.seeds[4]^bits.RotateLeft64(b, 17))
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// shard picks by the high bits; slots are picked by the low ones.
func (t *table) shard(h uint64) *shard { return &t.shards[h>>(64-6)] }

func (s *shard) find(h uint64, k *key) *flow {
	mask := uint64(len(s.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		at := &s.slots[i]
		if at.fl == nil {
			return nil
		}
		if at.h == h && at.fl.k == *k {
			return at.fl
		}
	}
}

// insert adds a flow whose key is not there yet.
func (s *shard) insert(h uint64, fl *flow) {
	if (s.n+1)*4 > len(s.slots)*3 {
		s.resize(len(s.slots) * 2)
	}
	s.n++
	s.place(h, fl)
	s.until = min(s.until, fl.until)
}

func (s *shard) place(h uint64, fl *flow) {
	mask := uint64(len(s.slots) - 1)
	i := h & mask
	for s.slots[i].fl != nil {
		i = (i + 1) & mask
	}
	s.slots[i] = slot{h, fl}
}

func (s *shard) resize(size int) {
	old := s.slots
	s.slots = make([]slot, size)
	for _, at := range old {
		if at.fl != nil {
			s.place(at.h, at.fl)
		}
	}
}

// replace puts fl in old's place; both have the same key.
func (s *shard) replace(h uint64, old, fl *flow) {
	mask := uint64(len(s.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		if s.slots[i].fl == old {
			s.slots[i].fl = fl
			s.until = min(s.until, fl.until)
			return
		}
	}
}

// filter keeps the flows for which keep is true. It rebuilds the slots only when some go.
func (s *shard) filter(keep func(*flow) bool) {
	gone := 0
	for i := range s.slots {
		if fl := s.slots[i].fl; fl != nil && !keep(fl) {
			// The flow stays reachable by its chain until resize below drops it.
			fl.state = stateForgotten
			gone++
		}
	}
	if gone == 0 {
		return
	}
	for i := range s.slots {
		if fl := s.slots[i].fl; fl != nil && fl.state == stateForgotten {
			s.slots[i].fl = nil
		}
	}
	s.n -= gone
	size := len(s.slots)
	for size > minSlots && s.n*8 < size {
		size /= 2
	}
	s.resize(size)
}
