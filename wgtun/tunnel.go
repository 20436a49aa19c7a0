package wgtun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/acl"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/packet"
	"picket.internal/wgtun/path"
	"picket.internal/wgtun/sockets"
)

// sweepInterval bounds how late a deadline, or the lease's end, cuts a flow.
const sweepInterval = 50 * time.Millisecond

// Tunnel is one WireGuard device, its filter and its paths. All methods are safe for concurrent use.
type Tunnel struct {
	config Config
	logger *slog.Logger
	own    identity
	filter *filter.Filter
	path   *path.Bind
	inject *injector
	tun    *guardedTUN

	out, in *pace // packets inside the device
	ready   chan struct{}

	newEngine func(tun.Device, conn.Bind, *device.Logger) engine // tests put theirs

	applying sync.Mutex     // held through Apply and whatever else must not run beside it
	policy   *filter.Policy // in the filter; guarded by applying
	roster   *roster
	notices  *notices // of the paths

	mu         sync.Mutex // guards what follows
	generation uint64
	state      runState
}

type runState uint8

const (
	stateNew runState = iota
	stateRunning
	stateEnded
)

// New makes the tunnel, down and without peers; it refuses everything until Apply, and starts nothing.
func New(c Config) (*Tunnel, error) {
	switch {
	case c.TUN == nil:
		return nil, errors.New("new tunnel: no TUN device")
	case c.Tunnel.IsZero() || c.Probe.IsZero():
		return nil, errors.New("new tunnel: a key is missing")
	}
	if c.Bind == nil {
		c.Bind = sockets.New()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	mtu, err := c.TUN.MTU()
	if err != nil {
		return nil, fmt.Errorf("new tunnel: ask the MTU: %w", err)
	}
	r, n := newRoster(c.Logger), newNotices()
	t := &Tunnel{
		config: c,
		logger: c.Logger,
		own:    identity{tunnel: c.Tunnel.Public(), probe: c.Probe.Public()},
		filter: filter.New(),
		path: path.New(path.Config{
			Inner:         c.Bind,
			Tunnel:        c.Tunnel.Public(),
			Probe:         c.Probe,
			Logger:        c.Logger,
			Overlay:       c.Overlay,
			AllowLoopback: c.AllowLoopback,
			Relay:         c.Relay,
			Wake:          r.bell.ring,
			Seek:          n.seek.ring,
			Reflected:     n.reflect,
			MaxDatagram:   mtu + device.MessageTransportSize,
		}),
		inject:    newInjector(),
		out:       newPace(),
		in:        newPace(),
		ready:     make(chan struct{}),
		newEngine: newWireguard,
		roster:    r,
		notices:   n,
	}
	r.path, r.probe = t.path, t.own.probe
	t.tun = newGuardedTUN(c.TUN, t.filter, t.inject, t.out, t.in)
	t.tun.outgoing = &outward{filter: t.filter, roster: r, mtu: mtu}
	return t, nil
}

// Run brings the device up and keeps it until ctx ends, then closes everything the Config gave and waits for its goroutines.
// It returns nil on cancellation, and an error when the device cannot come up or fails. A Tunnel runs once.
func (t *Tunnel) Run(ctx context.Context) error {
	if !t.start() {
		return errors.New("run tunnel: it has run before")
	}
	if !filtered {
		t.logger.Error("this build refuses nothing: it was made with the tag picket_unfiltered, for tests against it, and must not be used")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var tasks sync.WaitGroup
	tasks.Go(t.tun.forwardEvents)
	tasks.Go(func() { t.inject.run(ctx, t.config.TUN) })
	tasks.Go(func() { t.sweep(ctx) })
	tasks.Go(func() { t.runReach(ctx) })
	tasks.Go(func() {
		if err := t.path.Run(ctx); err != nil {
			cancel(fmt.Errorf("run paths: %w", err))
		}
	})
	dev := t.newEngine(t.tun, watchedBind{t.path, t.roster.sessions, t.roster.over, &t.roster.rekeying, t.out, t.in}, deviceLogger(t.logger))
	tasks.Go(func() { t.roster.sessions.run(ctx, t.roster.greet) })
	tasks.Go(func() { t.roster.run(ctx) })
	if err := t.bringUp(dev); err != nil {
		cancel(err)
	}
	select {
	case <-ctx.Done():
	case <-dev.Wait():
		cancel(errors.New("the TUN device has failed or was removed"))
	}
	err := context.Cause(ctx)
	t.shutDown(dev)
	cancel(nil)
	tasks.Wait()
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("run tunnel: %w", err)
}

func (t *Tunnel) start() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != stateNew {
		return false
	}
	t.state = stateRunning
	return true
}

func (t *Tunnel) ended() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state == stateEnded
}

// bringUp configures the device and opens its sockets. Peers that were applied before come when they are woken.
func (t *Tunnel) bringUp(dev engine) error {
	t.applying.Lock()
	defer t.applying.Unlock()
	if err := dev.IpcSet(configDevice(t.config.Tunnel, t.config.Port, t.config.Mark)); err != nil {
		return fmt.Errorf("configure the device: %w", err)
	}
	if err := dev.Up(); err != nil {
		return fmt.Errorf("open UDP port %d: %w", t.config.Port, err)
	}
	t.roster.open(dev)
	close(t.ready)
	return nil
}

// shutDown closes the TUN first: the device's Close would wait for a removal that waits for a blocked write, and so would the roster's.
func (t *Tunnel) shutDown(dev engine) {
	t.mu.Lock()
	t.state = stateEnded
	t.mu.Unlock()
	if err := t.tun.Close(); err != nil {
		t.logger.Warn("close the TUN device", "error", err)
	}
	t.roster.close()
	dev.Close()
	<-dev.Wait()
}

// Ready is closed when the device is up and its UDP port is bound.
func (t *Tunnel) Ready() <-chan struct{} { return t.ready }

// sweep ends what time has ended, until ctx ends.
func (t *Tunnel) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			t.tellCuts(t.filter.Sweep())
		}
	}
}

// tellCuts resets the local ends of cut flows and tells OnCut. Every cut passes here once.
func (t *Tunnel) tellCuts(cuts []filter.Cut) {
	if len(cuts) == 0 {
		return
	}
	var resets [][]byte
	var place []byte
	for i := range cuts {
		if place == nil {
			place = make([]byte, injectOffset, injectOffset+packet.MaxReset)
		}
		if reset := cuts[i].AppendReset(place); len(reset) > injectOffset {
			resets, place = append(resets, reset), nil
		}
	}
	t.inject.must(resets)
	if t.config.OnCut != nil {
		t.config.OnCut(cuts)
	}
}

// Hint replaces a peer's candidate addresses and home outside a State, until a State brings other ones; unknown peers are ignored.
func (t *Tunnel) Hint(node acl.NodeID, candidates []netip.AddrPort, home path.Home) {
	t.applying.Lock()
	defer t.applying.Unlock()
	if in, ok := t.roster.of(node); ok && !in.broken {
		p := in.path()
		p.Candidates, p.Home = candidates, home
		t.path.SetPeer(p)
	}
}

// Relayed takes a datagram that came through a relay: see path.Bind.Relayed.
func (t *Tunnel) Relayed(from path.Home, datagram []byte) { t.path.Relayed(from, datagram) }

// Extend moves the lease of the State in force; it never shortens what Apply set. Flows that the lease's end has cut stay cut,
// new ones may open. A State without a lease is not given one. It waits for an Apply under way, so that it extends what is in force.
func (t *Tunnel) Extend(notAfter time.Time) {
	t.applying.Lock()
	defer t.applying.Unlock()
	if t.policy != nil && !t.policy.NotAfter.IsZero() {
		t.filter.Extend(notAfter)
	}
}

// Flows lists the live flows.
func (t *Tunnel) Flows() []filter.Flow { return t.filter.Flows() }

// Recent lists the live flows used last for which want is true, at most limit; it waits for nothing that Apply does.
func (t *Tunnel) Recent(limit int, want func(*filter.Flow) bool) filter.Recent {
	return t.filter.Recent(limit, want)
}

// NodeAt is the peer whose an address is by the rules that the filter has in force, its own or by a route.
func (t *Tunnel) NodeAt(a netip.Addr) (acl.NodeID, bool) { return t.filter.NodeAt(a) }

// Denials returns the records of refused packets added to since the one numbered after; 0 asks for all.
func (t *Tunnel) Denials(after uint64) filter.Denials { return t.filter.Denials(after) }

// Watch shows packets to a tap as they are judged, until stop is called.
func (t *Tunnel) Watch(tap *filter.Tap) (stop func()) { return t.filter.Watch(tap) }

// Census sums the live flows up, with at most limit entries; it waits for nothing that Apply does.
func (t *Tunnel) Census(limit int) filter.Census { return t.filter.Census(limit) }

// Save returns the live flows, for Restore in a tunnel of the same host; also after Run has returned.
func (t *Tunnel) Save() []byte { return t.filter.Save() }

// AwaitRestore says that Restore is to come, within the time given: until then local programs are not told of packets that are refused.
func (t *Tunnel) AwaitRestore(within time.Duration) { t.filter.AwaitRestore(within) }

// Restore takes over the flows that another tunnel of this host saved so long ago, time asleep included, as far as the State in force allows them: how
// many it does not, which are cut. The error wraps filter.ErrHandover.
func (t *Tunnel) Restore(saved []byte, ago time.Duration) (cut int, err error) {
	t.applying.Lock()
	defer t.applying.Unlock()
	cuts, err := t.filter.Restore(saved, ago)
	t.tellCuts(cuts)
	return len(cuts), err
}

// TakeEvidence returns what peers sent that they would not have sent by the rules, one entry a peer, and forgets it.
func (t *Tunnel) TakeEvidence() []filter.Evidence { return t.filter.TakeEvidence() }

// Port is the UDP port in use; 0 while none is.
func (t *Tunnel) Port() uint16 { return t.path.LocalPort() }

// Ping probes the path to a peer until ctx ends: the round-trip time and the address it was answered from. The error wraps
// path.ErrNoPeer when the State in force does not name the node.
func (t *Tunnel) Ping(ctx context.Context, node acl.NodeID) (time.Duration, netip.AddrPort, error) {
	in, ok := t.roster.of(node)
	if !ok {
		return 0, netip.AddrPort{}, fmt.Errorf("ping node %s: %w", node, path.ErrNoPeer)
	}
	return t.path.Ping(ctx, in.peer.Tunnel)
}
