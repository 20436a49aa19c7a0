// Package path is the tunnel's conn.Bind: it finds, proves and picks the network path to each peer.
package path

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
)

// Peer is what the path layer must know of a peer.
type Peer struct {
	Tunnel     key.TunnelPublic
	Probe      key.ProbePublic
	Candidates []netip.AddrPort // where it may be found; at most MaxCandidates are used
}

// MaxCandidates bounds the candidate addresses of one peer.
const MaxCandidates = 32

// Config of a Bind.
type Config struct {
	Inner  conn.Bind // the UDP sockets, e.g. conn.NewDefaultBind(); a Bind owns it
	Tunnel key.TunnelPublic
	Probe  key.ProbePrivate
	Logger *slog.Logger
}

// Status is what is known of the path to a peer.
type Status struct {
	Kind    string         // "direct", or "" when no path is proved
	Addr    netip.AddrPort // of the proved path
	Latency time.Duration  // newest round trip of a probe; 0 when none
	Since   time.Time      // when this path was taken up
	Heard   time.Time      // last authenticated probe or pong
}

// Bind implements conn.Bind. A WireGuard endpoint is a peer, never an address: see Endpoint.
type Bind struct{ conn.Bind }

// New returns a Bind without peers; it starts nothing.
func New(Config) *Bind { panic("unimplemented") }

// Run probes until ctx ends.
func (b *Bind) Run(ctx context.Context) error { panic("unimplemented") }

// SetPeer adds a peer, or changes its probe key or candidates. A path already proved stays while its probes are answered.
func (b *Bind) SetPeer(p Peer) { panic("unimplemented") }

// RemovePeer forgets a peer: from then on nothing is sent to it, and nothing from its addresses is handed up.
func (b *Bind) RemovePeer(t key.TunnelPublic) { panic("unimplemented") }

// Status reports the path to a peer; false when there is no such peer.
func (b *Bind) Status(t key.TunnelPublic) (Status, bool) { panic("unimplemented") }

// Ping sends a probe at once and waits for the answer: its round-trip time and the address it came from.
func (b *Bind) Ping(ctx context.Context, t key.TunnelPublic) (time.Duration, netip.AddrPort, error) {
	panic("unimplemented")
}

// EndpointText is the form to hand to wireguard-go's "endpoint=" for a peer.
func EndpointText(t key.TunnelPublic) string { panic("unimplemented") }
