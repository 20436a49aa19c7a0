// Package wgtun is the tunnel: one WireGuard device behind a filter, over paths.
//
// A packet passes through these stages, each on goroutines of its own; nothing calls back upward:
//
//	out:  TUN -> guardedTUN.Read (filter.Egress) -> wireguard-go (peer by address, encrypt) -> path.Bind.Send
//	in:   path.Bind receive -> wireguard-go (decrypt, source belongs to key) -> guardedTUN.Write (filter.Ingress) -> TUN
//
// WireGuard holds only the peers in use: the reader of the TUN wakes the peer of each packet that passes, the paths that of each authenticated
// ping, and who is silent for minutes is taken out again (roster).
//
// What the filter wants told to the local side (a reject, the reset of a cut flow) goes through the injector, a goroutine that
// writes to the TUN, so that neither Read nor Apply ever waits for the local side to take a packet.
package wgtun

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/acl"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

// DefaultMTU of the TUN is small enough for any path that carries IPv6.
const DefaultMTU = 1280

// Config of a Tunnel. Run owns TUN and Bind and closes them; until Run is called they stay the caller's.
type Config struct {
	TUN    tun.Device // with an MTU over DefaultMTU, the path to each peer is measured, and packets too long for it are answered
	Bind   conn.Bind  // UDP sockets; nil: the system's
	Port   uint16     // UDP port to listen on; 0 picks one
	Tunnel key.TunnelPrivate
	Probe  key.ProbePrivate
	Logger *slog.Logger // nil logs nothing
	// Mark is put on every datagram that the tunnel sends (SO_MARK, Linux; needs CAP_NET_ADMIN), for routing rules; 0 puts none.
	Mark uint32
	// Overlay is the networks of the overlay: no path to a peer leads through them.
	Overlay []netip.Prefix
	// AllowLoopback lets paths lead over loopback addresses: for nodes of one host, and tests.
	AllowLoopback bool
	// Relay carries datagrams to peers that have a home; Relayed takes what comes that way. Nil: paths are direct only.
	Relay path.Carrier
	// OnCut is told of every flow cut, once, by whoever caused it, without blocking the tunnel for long; it may be called
	// concurrently and must not call Apply, Hint or Extend. May be nil.
	OnCut func([]filter.Cut)
	// OnSeek is told of a peer in use to which there is no direct path, at once and then less and less often; OnReflected that Reflexive has
	// something new to say. They may take their time until ctx, which ends with the tunnel. Either may be nil.
	OnSeek      func(ctx context.Context, node acl.NodeID)
	OnReflected func(ctx context.Context)
	// OnHeir is told of a peer that has taken its next key up, once the former one is given up. As OnSeek; it may be nil.
	OnHeir func(ctx context.Context, node acl.NodeID, next key.TunnelPublic)
}

// Peer is a node this one may exchange flows with, its certificate already verified by the caller.
type Peer struct {
	Node       acl.NodeID
	Device     key.DevicePublic
	Tunnel     key.TunnelPublic
	Next       *key.TunnelPublic // that the device has certified to follow Tunnel; nil for none, as most of the time
	Probe      key.ProbePublic
	Addresses  []netip.Addr
	Routes     []netip.Prefix
	Candidates []netip.AddrPort
	Home       path.Home // where it is found through relays

	carved []netip.Prefix // of Routes, what the device is told; nil: all of them
}

// next is Next, zero for none.
func (p *Peer) next() key.TunnelPublic {
	if p.Next == nil {
		return key.TunnelPublic{}
	}
	return *p.Next
}

// State is everything the tunnel is to be. What a State omits is gone. The zero State refuses everything and has no peers.
// Apply keeps what a State refers to: it must not change any more.
type State struct {
	Generation uint64
	Self       acl.NodeID
	Peers      []Peer
	Rules      *acl.Ruleset
	NotAfter   time.Time // lease end with a monotonic reading; zero means already over
	// ClockOffset is added to this host's clock to get the time in which rules state their deadlines.
	ClockOffset time.Duration
	// Overlay is further networks of the overlay, beside Config.Overlay: a node that has just joined learns them with its first State.
	Overlay []netip.Prefix
}

// Applied says what Apply did.
type Applied struct {
	Added, Removed, Changed int // peers; a rotated tunnel key is a change
	Cut                     []filter.Cut
}

// PeerStats is what is known of one peer.
type PeerStats struct {
	Node             acl.NodeID
	Awake            bool // WireGuard has it; else the next packet either way wakes it
	Path             path.Status
	LastHandshake    time.Time // zero when none yet
	RxBytes, TxBytes uint64    // since the node became a peer, or New
}

// Stats is a snapshot.
type Stats struct {
	Generation uint64
	Port       uint16 // 0 before Ready
	Peers      []PeerStats
	Filter     filter.Stats
}
