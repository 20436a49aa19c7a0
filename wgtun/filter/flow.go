package filter

import (
	"net/netip"
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// Flow describes one live flow, for people.
type Flow struct {
	Src, Dst         netip.AddrPort // of the opening packet; ICMP echo has its id as source port and 0 as destination port
	Proto            acl.Proto
	Peer             acl.NodeID
	Out              bool // opened by this node
	Rule             acl.Ref
	Opened, LastSeen time.Time
	Until            time.Time // zero when nothing but the lease ends it
	Packets, Bytes   uint64
}

// state of a flow.
type state uint8

const (
	stateForgotten   state = iota // no longer in the table
	stateCut                      // tombstone: ended by us, its ends may not have noticed
	stateDatagram                 // UDP, ICMP echo, other protocols
	stateSynSent                  // TCP: the opener's SYN seen
	stateSynReceived              // the answering SYN seen
	stateEstablished              // the opener's acknowledgment of it seen
	stateClosing                  // one FIN seen, or both but not both acknowledged
	stateTimeWait                 // both FINs acknowledged
	stateDoubted                  // reset somewhere in the window: its receiver asks back (RFC 5961), or an older one takes it and falls silent
	stateReset                    // reset where its sender stands, or its receiver, but not surely both: nothing but a reset is to come
	stateClosed                   // reset exactly where the receiver expects it
)

// How long a flow may be idle. An established TCP connection must survive more than 2 h 4 min (RFC 5382 section 5); people leave
// terminals open overnight. Resets and tombstones count from when they happened.
var idleTimeout = [...]time.Duration{
	stateCut:         60 * time.Second,
	stateDatagram:    30 * time.Second,
	stateSynSent:     30 * time.Second,
	stateSynReceived: 60 * time.Second,
	stateEstablished: 24 * time.Hour,
	stateClosing:     10 * time.Minute,
	stateTimeWait:    60 * time.Second,
	stateDoubted:     10 * time.Second,
	stateReset:       10 * time.Second,
	stateClosed:      10 * time.Second,
}

const repliedTimeout = 180 * time.Second // datagrams that were answered

// flow is one entry of the flow table: two cache lines, which are all that a packet of it writes. It belongs to who holds mu, but for k,
// which never changes. Whoever holds a shard's lock as well took that first.
type flow struct {
	mu sync.Mutex
	entry
}

// entry is a flow without its lock.
type entry struct {
	last       int64 // when a packet last passed, or when it was reset or cut
	until      int64 // when to judge it again; never when no rule's deadline bears on it
	epoch      uint32
	state      state
	dir        direction // of the packet that opened it
	replied    bool      // datagrams: something came back
	challenged bool      // origin.challenge is there
	// The key lies across both lines: comparing it, before the lock is taken, fetches them at once.
	k       key
	ends    [2]tcpEnd // by direction in which the end sends: egress is the local end
	packets [2]uint32 // by direction; what goes beyond is carried over to the origin
	bytes   uint64
	*origin // nil in tombstones
}

// origin is what only few packets of a flow need.
type origin struct {
	peer    *peer
	rule    *acl.Rule
	opened  int64
	carried [2]uint32 // upper halves of packets
	starts  [2]uint32 // TCP: the sequence numbers of the SYNs
	// challenge is the acknowledgment of a bare ACK that answered the opener's SYN: see followTCP.
	challenge uint32
}

func (fl *flow) idle(now int64) bool {
	limit := idleTimeout[fl.state]
	if fl.replied {
		limit = max(limit, repliedTimeout)
	}
	return now-fl.last >= int64(limit)
}

// standing tells whether there is something to cut: a flow idle for too long is as good as forgotten, and leaves no tombstone.
func (fl *flow) standing(now int64) bool { return fl.state != stateCut && !fl.idle(now) }

// ended tells whether both ends know that the flow is over.
func (fl *entry) ended() bool { return fl.state == stateTimeWait || fl.state == stateClosed }

// connected tells whether both SYNs of a TCP connection were seen, and no reset that ended it.
func (fl *flow) connected() bool { return fl.state > stateSynSent && fl.state != stateClosed }

// count notes a packet that passed, as the segments that it is to be sent in.
func (fl *flow) count(dir direction, v *packet.View, now int64) {
	n := uint32(v.Segments())
	if fl.packets[dir&1] += n; fl.packets[dir&1] < n {
		fl.carried[dir&1]++
	}
	fl.bytes += uint64(v.SegmentsLen())
	if fl.state < stateDoubted {
		fl.last = now
	}
}

// passed is how many packets passed in a direction.
func (fl *entry) passed(dir direction) uint64 {
	return uint64(fl.carried[dir])<<32 | uint64(fl.packets[dir])
}

// follow judges a packet of a flow found in the table without its shard's lock, and so holds up nothing but that flow. known is false when
// it takes that lock to tell: see followLocked.
func (f *Filter) follow(fl *flow, v *packet.View, dir direction) (reason Reason, known bool) {
	fl.mu.Lock()
	now := f.clock.coarse.Load()
	if fl.packets[dir&1]%ticksPerRead+uint32(v.Segments()) >= ticksPerRead {
		now = f.clock.read()
	}
	// Under the flow's lock: see the package comment.
	r := f.rules.Load()
	if fl.epoch == r.epoch && fl.state > stateCut && now < fl.until && now < r.notAfter.Load() && !fl.idle(now) {
		if h := fl.acknowledging(v); h != nil {
			if reason, known = fl.acknowledge(v, h, dir), true; reason == ReasonNone {
				fl.count(dir, v, now)
			}
		} else {
			reason, known = fl.judge(v, dir, now)
		}
	}
	fl.mu.Unlock()
	return reason, known
}

// followLocked judges a packet of a flow whose lock and shard's lock the caller holds. known is false when the packet must be judged like
// one of no flow: the flow is over, and this packet may open it anew. In that case the flow is left as it is until something replaces it.
func (f *Filter) followLocked(s *shard, r *ruling, fl *flow, v *packet.View, dir direction, now int64) (reason Reason, known bool) {
	if fl.idle(now) {
		return ReasonNone, false
	}
	if fl.state == stateCut {
		return ReasonCut, !mayReopen(fl, v, dir)
	}
	if fl.epoch != r.epoch || now >= fl.until {
		if !f.rejudge(s, r, fl, now) {
			return ReasonCut, true
		}
	}
	return fl.judge(v, dir, now)
}

// judge holds a packet against the state of its flow, which lives, and counts it when it passes.
func (fl *flow) judge(v *packet.View, dir direction, now int64) (reason Reason, known bool) {
	h := fl.acknowledging(v)
	switch {
	case h != nil:
		reason, known = fl.acknowledge(v, h, dir), true
	case fl.k.proto() != packet.ProtoTCP:
		fl.replied = fl.replied || dir != fl.dir
		known = true
	default:
		reason, known = fl.followTCP(v, dir, now)
	}
	if known && reason == ReasonNone {
		fl.count(dir, v, now)
	}
	return reason, known
}

// acknowledging returns the header of a segment that acknowledge judges, or nil.
func (fl *flow) acknowledging(v *packet.View) *packet.TCPHeader {
	if fl.k.proto() == packet.ProtoTCP && fl.connected() {
		if h := v.TCPHeader(); h.Flags()&(packet.ACK|packet.SYN|packet.RST) == packet.ACK {
			return h
		}
	}
	return nil
}

// mayReopen tells whether a packet of a cut flow can be one that opens it again, rather than the other end's retransmission, which
// must not open the same tuple the other way round.
func mayReopen(fl *flow, v *packet.View, dir direction) bool {
	if fl.k.proto() == packet.ProtoTCP {
		return isSYN(v.TCP().Flags)
	}
	return dir == fl.dir
}

// question asks about a flow that is opened in direction dir.
func (k *key) question(dir direction) question {
	q := question{local: k.local, remote: k.remote, dir: dir, proto: acl.Proto(k.proto()), port: k.remotePort()}
	if dir == ingress {
		q.port = k.localPort()
	}
	if !q.proto.HasPorts() {
		q.port = 0
	}
	return q
}

// describe makes a flow readable.
func (c *clock) describe(fl *entry) Flow {
	local := netip.AddrPortFrom(fl.k.local.Netip(), fl.k.localPort())
	remote := netip.AddrPortFrom(fl.k.remote.Netip(), fl.k.remotePort())
	d := Flow{
		Src: local, Dst: remote, Proto: acl.Proto(fl.k.proto()), Peer: fl.peer.id, Out: fl.dir == egress, Rule: fl.rule.Ref,
		Opened: c.time(fl.opened), LastSeen: c.time(fl.last), Packets: fl.passed(egress) + fl.passed(ingress), Bytes: fl.bytes,
	}
	if !d.Out {
		d.Src, d.Dst = remote, local
	}
	if fl.until != never {
		d.Until = c.time(fl.until)
	}
	return d
}

// Flows lists the live flows, in no order.
func (f *Filter) Flows() []Flow {
	var out []Flow
	now := f.clock.read()
	for i := range f.table.shards {
		out = f.flowsOf(&f.table.shards[i], out, now)
	}
	return out
}
