package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"picket.internal/acl"
	"picket.internal/node/hostnet"
	"picket.internal/wgtun"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
	"picket.internal/wgtun/userspace"
)

// overlay is the node's foot in the overlay: a tunnel, and what joins it to this host.
type overlay interface {
	// Run keeps it until ctx ends (nil), then closes everything it owns and takes back what Fit did.
	Run(ctx context.Context) error
	// Ready is closed when the UDP port is bound.
	Ready() <-chan struct{}
	// Fit gives the host what c says, but for interface and MTU, which are the overlay's own; calling it again mends what others took away.
	Fit(c hostnet.Config) error
	// Block makes Run leave behind what keeps packets that were meant for an exit node from leaving another way.
	Block()
	Apply(wgtun.State) (wgtun.Applied, error)
	Hint(acl.NodeID, []netip.AddrPort, path.Home)
	// Relayed takes a datagram that came through a relay, without waiting.
	Relayed(from path.Home, datagram []byte)
	Stats() wgtun.Stats
	// Census sums the live flows up; it waits for nothing.
	Census(limit int) filter.Census
	// Save returns the live flows, for Restore in the agent that is started next; it tells how many of those it cut.
	Save() []byte
	Restore(saved []byte, ago time.Duration) (cut int, err error)
	// AwaitRestore says that Restore is to come, within the time given: until then local programs are not told that what they send is refused.
	AwaitRestore(within time.Duration)
	// TakeEvidence returns what peers were caught at, and forgets it.
	TakeEvidence() []filter.Evidence
	// Ping probes the path to a peer.
	Ping(context.Context, acl.NodeID) (time.Duration, netip.AddrPort, error)
	// Echo sends an ICMP echo from the own address through the tunnel and waits for its answer.
	Echo(ctx context.Context, from, to netip.Addr) (time.Duration, error)
	// Dial opens a TCP connection to an overlay address.
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Unready lists the peers in use that do not know the next tunnel key, Rekey takes it up.
	Unready(next key.TunnelPublic) []acl.NodeID
	Rekey(key.TunnelPrivate) (*wgtun.Rekeying, error)
	// DialUDP is Dial for datagrams.
	DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Interface is the name of the host's network interface, "" when there is none.
	Interface() string
	traffic
	reachability
}

// traffic shows what crosses the filter; it waits for nothing.
type traffic interface {
	// NodeAt is the peer whose an address is by the rules that the filter has in force.
	NodeAt(netip.Addr) (acl.NodeID, bool)
	Recent(limit int, want func(*filter.Flow) bool) filter.Recent
	Denials(after uint64) filter.Denials
	Watch(*filter.Tap) (stop func())
}

// overlayConfig is what opening an overlay takes.
type overlayConfig struct {
	name   string // of the TUN, or Userspace
	mtu    int    // of the interface, in bytes
	port   uint16
	tunnel key.TunnelPrivate
	probe  key.ProbePrivate
	// ranges of the overlay, as far as they are known when it is opened: no path leads through them.
	ranges   []netip.Prefix
	loopback bool // paths may lead over loopback addresses
	// inbound joins peers to services of this host.
	inbound *inbound
	// listeners take all inbound flows; nil has inbound take them. Userspace alone.
	listeners *userspace.Listeners
	relay     path.Carrier
	onCut     func([]filter.Cut)
	// onSeek, onReflected and onHeir are wgtun.Config's.
	onSeek      func(context.Context, acl.NodeID)
	onReflected func(context.Context)
	onHeir      func(context.Context, acl.NodeID, key.TunnelPublic)
	logger      *slog.Logger
}

// Userspace, as Config.TUN, takes a network stack inside the process in place of an interface.
const Userspace = "userspace"

func openOverlay(ctx context.Context, c overlayConfig) (overlay, error) {
	if err := CheckPort(ctx, c.port); err != nil {
		return nil, err
	}
	if c.name == Userspace {
		return openUserspace(c)
	}
	return openTUN(c)
}

// CheckPort looks whether the UDP port is free, for the sake of a clear sentence; the tunnel binds it later. 0 is always free.
func CheckPort(ctx context.Context, port uint16) error {
	if port == 0 {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(netip.IPv6Unspecified(), port).String())
	if err != nil {
		if l, err = lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()); err != nil {
			return &portError{port}
		}
	}
	return l.Close()
}

type portError struct{ port uint16 }

func (e *portError) Error() string {
	return fmt.Sprintf("the UDP port %d is taken by another program: stop that one, or name another with --port (0 lets the system choose)", e.port)
}

// AutoMTU, as Config.MTU, takes an interface as large as this host's links carry.
const AutoMTU = -1

// The interface's MTU, in bytes: IPv6 wants the least (RFC 8200 section 5); more than the most is of use on no common link.
const (
	LeastMTU = wgtun.DefaultMTU
	MostMTU  = 8928
)

func (n *Node) mtu() int {
	switch n.config.MTU {
	case 0:
		return wgtun.DefaultMTU
	case AutoMTU:
		return min(max(wgtun.PacketIn(hostnet.LongestDatagram(n.config.TUN)), LeastMTU), MostMTU)
	}
	return n.config.MTU
}

// errNoOverlay says that nothing can pass because the tunnel is not up.
var errNoOverlay = errors.New("the tunnel is not up")
