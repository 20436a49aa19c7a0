package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"picket.internal/node/hostnet"
	"picket.internal/wgtun"
	"picket.internal/wgtun/filter"
)

// tunOverlay joins the tunnel to the host by a network interface.
type tunOverlay struct {
	*wgtun.Tunnel
	name    string
	mtu     int
	host    *hostnet.Host
	checked bool // nothing else holds the overlay's ranges
	logger  *slog.Logger

	forgetter *hostnet.Forgetter
	own       atomic.Pointer[[]netip.Addr] // of this node; nil before the first Fit
	blocks    atomic.Bool                  // Run leaves the host as it is when an exit node is in use
	exit      atomic.Bool                  // an exit node is in use
}

func openTUN(c overlayConfig) (overlay, error) {
	host, err := hostnet.New(c.logger)
	if err != nil {
		return nil, err
	}
	device, err := wgtun.OpenTUN(c.name, c.mtu)
	if err != nil {
		host.Close()
		return nil, explainTUN(c.name, err)
	}
	name, err := device.Name()
	if err != nil {
		device.Close()
		host.Close()
		return nil, fmt.Errorf("ask the interface's name: %w", err)
	}
	o := &tunOverlay{name: name, mtu: c.mtu, host: host, logger: c.logger, forgetter: hostnet.NewForgetter(c.logger)}
	o.Tunnel, err = wgtun.New(wgtun.Config{
		TUN: device, Port: c.port, Tunnel: c.tunnel, Probe: c.probe, Logger: c.logger, Mark: hostnet.Mark,
		OnCut:  func(cuts []filter.Cut) { o.forget(cuts); c.onCut(cuts) },
		OnSeek: c.onSeek, OnReflected: c.onReflected, OnHeir: c.onHeir, Overlay: c.ranges, AllowLoopback: c.loopback, Relay: c.relay,
	})
	if err != nil {
		device.Close()
		host.Close()
		return nil, fmt.Errorf("make the tunnel: %w", err)
	}
	return o, nil
}

// forget has the kernel forget what it forwarded of cut flows. Flows of this host's own end with their reset.
func (o *tunOverlay) forget(cuts []filter.Cut) {
	own := o.own.Load()
	if own == nil {
		return
	}
	var routed []hostnet.Flow
	for i := range cuts {
		was := cuts[i].Flow()
		local := was.Dst.Addr()
		if was.Out {
			local = was.Src.Addr()
		}
		if !slices.Contains(*own, local) {
			routed = append(routed, hostnet.Flow{Src: was.Src, Dst: was.Dst, Proto: uint8(was.Proto)})
		}
	}
	o.forgetter.Forget(routed)
}

func explainTUN(name string, err error) error {
	switch {
	case errors.Is(err, wgtun.ErrNoTUN):
		return errors.New("this host has no /dev/net/tun: load the kernel module tun (in a container, give it the device), or run with --tun=userspace")
	case errors.Is(err, wgtun.ErrTUNPrivilege):
		return errors.New("making a network interface needs root (CAP_NET_ADMIN): run picket as root, or with --tun=userspace")
	case errors.Is(err, wgtun.ErrTUNBusy):
		return fmt.Errorf("the interface %q is in use by another program: stop that one, or name another with --tun", name)
	}
	return fmt.Errorf("make the interface %q: %v; another name may do (--tun), or none (--tun=userspace)", name, err)
}

// Run serves the UAPI socket beside the tunnel; that it cannot be opened costs only `wg show`.
func (o *tunOverlay) Run(ctx context.Context) error {
	defer o.host.Close()
	err := o.run(ctx)
	if o.exit.Load() && (o.blocks.Load() || err != nil) {
		o.logger.Warn("the tunnel is closed: nothing but the host's own networks is reached until it is open again")
		return err
	}
	if err := o.host.Remove(); err != nil {
		o.logger.Warn("something was left on the host", "reason", err)
	}
	return err
}

func (o *tunOverlay) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.Tunnel.Run(ctx) })
	g.Go(func() error { return o.forgetter.Run(ctx) })
	if l, err := wgtun.ListenUAPI(o.name); err != nil {
		o.logger.Info("wg show will not see the interface", "reason", err)
	} else {
		g.Go(func() error { return o.ServeUAPI(ctx, l) })
	}
	return g.Wait()
}

func (o *tunOverlay) Block() { o.blocks.Store(true) }

func (o *tunOverlay) Fit(c hostnet.Config) error {
	if !o.checked {
		if err := o.host.Check(c.Overlay, o.name); err != nil {
			return err
		}
		o.checked = true
	}
	c.Interface, c.MTU = o.name, o.mtu
	o.own.Store(&c.Addresses)
	o.exit.Store(c.Exit != hostnet.NoExit)
	return o.host.Configure(c)
}

func (o *tunOverlay) Echo(ctx context.Context, from, to netip.Addr) (time.Duration, error) {
	return echo(ctx, from, to)
}

func (o *tunOverlay) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}

func (o *tunOverlay) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "udp", to.String())
}

func (o *tunOverlay) Interface() string { return o.name }
