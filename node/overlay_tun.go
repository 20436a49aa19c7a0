package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"picket.internal/node/hostnet"
	"picket.internal/wgtun"
)

// tunOverlay joins the tunnel to the host by a network interface.
type tunOverlay struct {
	*wgtun.Tunnel
	name    string
	mtu     int
	host    *hostnet.Host
	checked bool // nothing else holds the overlay's ranges
	logger  *slog.Logger
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
	tunnel, err := wgtun.New(wgtun.Config{
		TUN: device, Port: c.port, Tunnel: c.tunnel, Probe: c.probe, Logger: c.logger, OnCut: c.onCut,
		Overlay: c.ranges, AllowLoopback: c.loopback,
	})
	if err != nil {
		device.Close()
		host.Close()
		return nil, fmt.Errorf("make the tunnel: %w", err)
	}
	return &tunOverlay{Tunnel: tunnel, name: name, mtu: c.mtu, host: host, logger: c.logger}, nil
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
	defer func() {
		if err := o.host.Remove(); err != nil {
			o.logger.Warn("something was left on the host", "reason", err)
		}
	}()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.Tunnel.Run(ctx) })
	if l, err := wgtun.ListenUAPI(o.name); err != nil {
		o.logger.Info("wg show will not see the interface", "reason", err)
	} else {
		g.Go(func() error { return o.ServeUAPI(ctx, l) })
	}
	return g.Wait()
}

func (o *tunOverlay) Fit(addresses []netip.Addr, ranges []netip.Prefix) error {
	if !o.checked {
		if err := o.host.Check(ranges, o.name); err != nil {
			return err
		}
		o.checked = true
	}
	return o.host.Configure(hostnet.Config{Interface: o.name, MTU: o.mtu, Addresses: addresses, Overlay: ranges})
}

func (o *tunOverlay) Echo(ctx context.Context, from, to netip.Addr) (time.Duration, error) {
	return echo(ctx, from, to)
}

func (o *tunOverlay) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}

func (o *tunOverlay) Interface() string { return o.name }
