// Package wgtun is the tunnel: one WireGuard device behind a filter, over paths.
package wgtun

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/acl"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

// DefaultMTU is small enough for any path that carries IPv6.
const DefaultMTU = 1280

// Config of a Tunnel. The Tunnel owns TUN and Bind and closes them.
type Config struct {
	TUN    tun.Device
	Bind   conn.Bind // UDP sockets; conn.NewDefaultBind() outside tests
	Port   uint16    // UDP port to listen on; 0 picks one
	Tunnel key.TunnelPrivate
	Probe  key.ProbePrivate
	Logger *slog.Logger
	// OnCut is told of every flow cut, without blocking the tunnel for long; may be nil.
	OnCut func([]filter.Cut)
}

// Peer is a node this one may exchange flows with, its certificate already verified by the caller.
type Peer struct {
	Node       acl.NodeID
	Device     key.DevicePublic
	Tunnel     key.TunnelPublic
	Probe      key.ProbePublic
	Addresses  []netip.Addr
	Routes     []netip.Prefix
	Candidates []netip.AddrPort
}

// State is everything the tunnel is to be. What a State omits is gone. The zero State refuses everything and has no peers.
type State struct {
	Generation uint64
	Self       acl.NodeID
	Peers      []Peer
	Rules      *acl.Ruleset
	NotAfter   time.Time // lease end with a monotonic reading; zero means already over
}

// Applied says what Apply did.
type Applied struct {
	Added, Removed, Changed int // peers
	Cut                     []filter.Cut
}

// PeerStats is what is known of one peer.
type PeerStats struct {
	Node             acl.NodeID
	Path             path.Status
	LastHandshake    time.Time // zero when none yet
	RxBytes, TxBytes uint64
}

// Stats is a snapshot.
type Stats struct {
	Generation uint64
	Port       uint16
	Peers      []PeerStats
	Filter     filter.Stats
}

// Tunnel is one WireGuard device, its filter and its paths.
type Tunnel struct{}

// New makes the device, down and without peers; it refuses everything until Apply.
func New(Config) (*Tunnel, error) { panic("unimplemented") }

// Run brings the device up and keeps it until ctx ends, then closes everything it owns. It returns nil on cancellation.
func (t *Tunnel) Run(ctx context.Context) error { panic("unimplemented") }

// Ready is closed when the device is up and its UDP port is bound.
func (t *Tunnel) Ready() <-chan struct{} { panic("unimplemented") }

// Apply narrows, then widens (DESIGN.md section 6, rule 6). A State in which two peers claim one address or one key, or a peer
// claims one of ours, is refused whole and the old one stays.
func (t *Tunnel) Apply(s State) (Applied, error) { panic("unimplemented") }

// Hint replaces a peer's candidate addresses outside a State; unknown peers are ignored.
func (t *Tunnel) Hint(node acl.NodeID, candidates []netip.AddrPort) { panic("unimplemented") }

// Extend moves the lease of the State in force; it never shortens what Apply set.
func (t *Tunnel) Extend(notAfter time.Time) { panic("unimplemented") }

// Stats returns a snapshot.
func (t *Tunnel) Stats() Stats { panic("unimplemented") }

// Flows lists the live flows.
func (t *Tunnel) Flows() []filter.Flow { panic("unimplemented") }

// Ping probes the path to a peer.
func (t *Tunnel) Ping(ctx context.Context, node acl.NodeID) (time.Duration, netip.AddrPort, error) {
	panic("unimplemented")
}

// ServeUAPI answers WireGuard's cross-platform configuration protocol on l until ctx ends: "get" only; "set" is refused,
// because peers come from signed maps alone.
func (t *Tunnel) ServeUAPI(ctx context.Context, l net.Listener) error { panic("unimplemented") }

// OpenTUN makes an operating-system TUN device; it needs privilege. name may be a pattern the system understands ("picket%d" on Linux).
func OpenTUN(name string, mtu int) (tun.Device, error) { return tun.CreateTUN(name, mtu) }

// ListenUAPI opens the UAPI socket that `wg` looks for: /var/run/wireguard/NAME.sock.
func ListenUAPI(name string) (net.Listener, error) { panic("unimplemented") }
