package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"picket.internal/node/hostnet"
	"picket.internal/wgtun"
	"picket.internal/wgtun/userspace"
)

// userspaceOverlay joins the tunnel to a network stack in this process: flows come out at ports of 127.0.0.1 and go in by the proxies. Inside
// a program they come out at its listeners and nowhere else.
type userspaceOverlay struct {
	*wgtun.Tunnel
	stack     *userspace.Stack
	inbound   *inbound
	listeners *userspace.Listeners // nil: inbound
}

func openUserspace(c overlayConfig) (overlay, error) {
	stack, err := userspace.New(wgtun.DefaultMTU, c.logger)
	if err != nil {
		return nil, fmt.Errorf("make the network stack: %w", err)
	}
	tunnel, err := wgtun.New(wgtun.Config{
		TUN: stack.Device(), Port: c.port, Tunnel: c.tunnel, Probe: c.probe, Logger: c.logger, OnCut: c.onCut,
		OnSeek: c.onSeek, OnReflected: c.onReflected, OnHeir: c.onHeir, Overlay: c.ranges, AllowLoopback: c.loopback, Relay: c.relay,
	})
	if err != nil {
		stack.Device().Close()
		return nil, fmt.Errorf("make the tunnel: %w", err)
	}
	return &userspaceOverlay{tunnel, stack, c.inbound, c.listeners}, nil
}

func (o *userspaceOverlay) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.Tunnel.Run(ctx) })
	g.Go(func() error {
		if o.listeners != nil {
			return o.stack.Serve(ctx, o.listeners, func(a netip.Addr) string {
				node, _ := o.NodeAt(a)
				return string(node)
			})
		}
		return o.stack.ForwardInbound(ctx, o.inbound.dial)
	})
	return g.Wait()
}

func (o *userspaceOverlay) Fit(c hostnet.Config) error { return o.stack.SetAddresses(c.Addresses) }

// Block does nothing: only the proxies, and the program, lead into the tunnel.
func (o *userspaceOverlay) Block() {}

func (o *userspaceOverlay) Echo(ctx context.Context, _, to netip.Addr) (time.Duration, error) {
	return o.stack.Ping(ctx, to)
}

func (o *userspaceOverlay) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return o.stack.Dial(ctx, "tcp", to)
}

func (o *userspaceOverlay) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return o.stack.Dial(ctx, "udp", to)
}

func (o *userspaceOverlay) Interface() string { return "" }
