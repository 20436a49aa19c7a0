package node

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/statefile"
	"picket.internal/wgtun/key"
)

// Serials of key certificates only rise. What was seen is kept on disk, so that neither a restart of the agent nor a coordinator that was set
// back, by a backup or by a thief of its key, brings a former tunnel key of a peer's back: somebody else may have that.

// maxFormer bounds what is kept of peers that the map does not name; those go first whose certificates end first.
const maxFormer = 4096

// bearer is a device under the node id that the coordinator gave it. A peer that was set up anew has another device key, and begins anew.
type bearer struct {
	node   acl.NodeID
	device statefile.Fingerprint
}

func bearerOf(p protocol.Peer) bearer { return bearer{p.Node, statefile.FingerprintOf(p.Device)} }

// seen is the newest certificate of a bearer.
type seen struct {
	serial uint64
	until  int64 // its end, by the coordinator's clock; Unix seconds
}

func seenIn(c key.Certificate) seen { return seen{c.Serial, c.NotAfter.Unix()} }

// newest is what was seen of each peer.
type newest struct {
	seen    map[bearer]seen
	unsaved bool
}

// acquaintance is what a map's peers are held against. The zero one knows nobody.
type acquaintance struct {
	known  map[acl.NodeID]key.DevicePublic
	newest map[bearer]seen
}

func (id *identity) acquaintance() acquaintance {
	return acquaintance{known: id.peers.Known, newest: id.newest.seen}
}

// loadNewest reads what was seen. A file that cannot be read costs only what it knew.
func loadNewest(dir *statefile.Dir, log *slog.Logger) newest {
	n := newest{seen: make(map[bearer]seen)}
	s, err := dir.Serials()
	if err != nil {
		log.Error("the newest certificates of peers cannot be read from disk: what is not known of them any more is taken from the next map", "reason", err, "known", len(s.Seen))
		n.unsaved = true
	}
	for _, r := range s.Seen {
		n.take(map[bearer]seen{{r.Node, r.Device}: {r.Serial, r.Until}})
	}
	return n
}

// take raises what was seen; nothing lowers it.
func (n *newest) take(risen map[bearer]seen) {
	for b, s := range risen {
		if s.serial > n.seen[b].serial {
			n.seen[b] = s
			n.unsaved = true
		}
	}
}

// prune forgets former peers: whose newest certificate has ended, since those before it have ended too, and those above maxFormer.
func (n *newest) prune(peers []protocol.Peer, now time.Time) {
	current := make(map[bearer]bool, len(peers))
	for _, p := range peers {
		current[bearerOf(p)] = true
	}
	var former []bearer
	for b, s := range n.seen {
		switch {
		case current[b]:
		case now.Unix() < s.until:
			former = append(former, b)
		default:
			delete(n.seen, b)
		}
	}
	if len(former) <= maxFormer {
		return
	}
	slices.SortFunc(former, func(a, b bearer) int { return cmp.Compare(n.seen[a].until, n.seen[b].until) })
	for _, b := range former[:len(former)-maxFormer] {
		delete(n.seen, b)
	}
}

// saveNewest writes down what was seen since the last time.
func (n *Node) saveNewest() {
	known := &n.id.newest
	if !known.unsaved {
		return
	}
	known.prune(n.map_.held.content.Peers, n.clock.now())
	list := make([]statefile.Seen, 0, len(known.seen))
	for b, s := range known.seen {
		list = append(list, statefile.Seen{Node: b.node, Device: b.device, Serial: s.serial, Until: s.until})
	}
	err := n.id.dir.SaveSerials(statefile.Serials{Seen: list})
	n.noteSave(err)
	known.unsaved = err != nil
}

// onHeir notes that a peer has given its former key up. It runs on a goroutine of the tunnel's.
func (n *Node) onHeir(ctx context.Context, node acl.NodeID, next key.TunnelPublic) {
	_ = n.do(ctx, func() {
		for _, p := range n.map_.held.content.Peers {
			if p.Node != node {
				continue
			}
			cert, err := key.OpenCertificate(p.Next, string(p.Node), p.Device, n.clock.now())
			if err == nil && cert.Tunnel == next {
				n.id.newest.take(map[bearer]seen{bearerOf(p): seenIn(cert)})
			}
		}
	})
}
