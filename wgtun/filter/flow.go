package filter

import (
	"net/netip"
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
	stateReset                    // reset in window, but perhaps not accepted: RFC 5961 lets the receiver ask back
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
	stateReset:       10 * time.Second,
	stateClosed:      10 * time.Second,
}

const repliedTimeout = 180 * time.Second // datagrams that were answered

// flow is one entry of the flow table; it belongs to who holds its shard's lock, but for k, peer, dir and opened, which never change.
type flow struct {
	// What each packet touches fills the first two cache lines.
	k       key
	last    int64 // when a packet last passed, or when it was reset or cut
	until   int64 // when to judge it again; never when no rule's deadline bears on it
	epoch   uint64
	packets uint64
	bytes   uint64
	state   state
	dir     direction // of the packet that opened it
	replied bool      // datagrams: something came back
	ends    [2]tcpEnd // by direction in which the end sends: egress is the local end

	peer   *peer
	rule   *acl.Rule
	opened int64
	// challenge is the acknowledgment of a bare ACK that answered the opener's SYN: see followTCP.
	challenge  uint32
	challenged bool

	_ [32]byte // to whole cache lines, so that the allocator aligns them
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
func (fl *flow) ended() bool { return fl.state == stateTimeWait || fl.state == stateClosed }

// count notes a packet that passed.
func (fl *flow) count(v *packet.View, now int64) {
	fl.packets++
	fl.bytes += uint64(v.Len())
	if fl.state != stateReset && fl.state != stateClosed {
		fl.last = now
	}
}

// follow judges a packet of a flow in the table. known is false when the packet must be judged like one of no flow: the flow is over,
// and this packet may open it anew. In that case the flow is left as it is until something replaces it.
func (f *Filter) follow(s *shard, r *ruling, fl *flow, v *packet.View, dir direction, now int64) (reason Reason, known bool) {
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
	if fl.k.proto() == packet.ProtoTCP {
		return fl.followTCP(v, dir, now)
	}
	if dir != fl.dir {
		fl.replied = true
	}
	return ReasonNone, true
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

// describe makes the flow readable.
func (f *Filter) describe(fl *flow) Flow {
	local := netip.AddrPortFrom(fl.k.local.Netip(), fl.k.localPort())
	remote := netip.AddrPortFrom(fl.k.remote.Netip(), fl.k.remotePort())
	d := Flow{
		Src: local, Dst: remote, Proto: acl.Proto(fl.k.proto()), Peer: fl.peer.id, Out: fl.dir == egress, Rule: fl.rule.Ref,
		Opened: f.clock.time(fl.opened), LastSeen: f.clock.time(fl.last), Packets: fl.packets, Bytes: fl.bytes,
	}
	if !d.Out {
		d.Src, d.Dst = remote, local
	}
	if fl.until != never {
		d.Until = f.clock.time(fl.until)
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
