//go:build linux

package main

import (
	"context"
	"encoding"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/net/proxy"

	"picket.internal/integration/lab"
	"picket.internal/wgtun/key"
)

// socksPort is the rootless client's proxy.
const socksPort = "5403"

// otherWays measures what does not stand beside wireguard-go on equal terms.
type otherWays struct {
	relay *lab.Host
	// as arguments of wayTo, for the client and the server
	byRelay, byProxy [2][]string
}

func newOtherWays(ctx context.Context, w *lab.World, b *bench) (*otherWays, error) {
	o := &otherWays{}
	var err error
	if o.relay, err = w.Host("relay"); err != nil {
		return nil, err
	}
	coordinator, devices := key.NewCoordinator(), [2]key.DevicePrivate{key.NewDevice(), key.NewDevice()}
	for i, d := range devices {
		o.byProxy[i] = []string{"proxy", o.relay.IP.String()}
		o.byRelay[i] = []string{"relay", o.relay.IP.String(), text(coordinator), text(d), text(devices[1-i].Public())}
	}
	p, err := o.relay.Start("carriers", b.self, helperWord, "carriers", text(coordinator.Public()))
	if err != nil {
		return nil, err
	}
	return o, p.WaitFor(ctx, "relay and proxy listening", func(out string) bool { return strings.Contains(out, "listening") })
}

func text(k encoding.TextMarshaler) string {
	b, _ := k.MarshalText() // keys made here always have a text
	return string(b)
}

// measureWays takes all figures once. bare is what wireguard-go showed in this round.
func (b *bench) measureWays(ctx context.Context, bare figures) (beside, ours ways, err error) {
	beside = ways{relayed: bare.tcp1, rootless1: bare.tcp1, rootless4: bare.tcp4}
	if beside.carried, ours.carried, err = b.bothCarried(ctx); err != nil {
		return beside, ours, err
	}
	if ours.relayed, err = b.relayed(ctx); err != nil {
		return beside, ours, fmt.Errorf("TCP by relay: %w", err)
	}
	ours.rootless1, ours.rootless4, err = b.rootless(ctx)
	if err != nil {
		err = fmt.Errorf("rootless: %w", err)
	}
	return beside, ours, err
}

// bothCarried measures the TLS proxy, and then the relay, in Mb/s.
func (b *bench) bothCarried(ctx context.Context) (proxied, relayed float64, err error) {
	if proxied, err = b.carried(ctx, b.ways.byProxy); err != nil {
		return 0, 0, fmt.Errorf("TLS proxy: %w", err)
	}
	if relayed, err = b.carried(ctx, b.ways.byRelay); err != nil {
		return 0, 0, fmt.Errorf("relay: %w", err)
	}
	return proxied, relayed, nil
}

func (b *bench) carried(ctx context.Context, way [2][]string) (mbps float64, err error) {
	far, err := b.server.Start("collect", append([]string{b.self, helperWord, "collect"}, way[1]...)...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = far.Stop(time.Second) }()
	if err := far.WaitFor(ctx, "far end", func(out string) bool { return strings.Contains(out, "collecting") }); err != nil {
		return 0, err
	}
	err = b.helper(ctx, &mbps, append([]string{"carry", b.plan.stream.String()}, way[0]...)...)
	return mbps, err
}

// relayed takes UDP away between the two hosts, so that the coordinator's relay is all there is.
func (b *bench) relayed(ctx context.Context) (mbps float64, err error) {
	if _, err := b.client.Run(ctx, "nft", "add table inet benchblock; add chain inet benchblock out { type filter hook output priority 0; }; "+
		"add rule inet benchblock out oifname eth0 meta l4proto udp drop"); err != nil {
		return 0, err
	}
	defer func() { _, _ = b.client.Run(ctx, "nft", "delete table inet benchblock") }()
	l, err := b.joined.start(ctx)
	if err != nil {
		return 0, err
	}
	defer l.stop()
	if _, err := b.client.Run(ctx, b.self, helperWord, "await", l.target); err != nil {
		return 0, err
	}
	mbps, _, err = b.throughput(ctx, l, 1)
	return mbps, err
}

// rootless runs both nodes without an interface; streams go in by the client's SOCKS5 proxy and come out at the server's loopback.
func (b *bench) rootless(ctx context.Context) (one, four float64, err error) {
	socks := net.JoinHostPort("127.0.0.1", socksPort)
	l, err := b.joined.with("", "--tun", "userspace", "--socks5", socks).start(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer l.stop()
	out := ""
	for range 20 {
		if out, err = b.joined.nodes[0].CLI(ctx, "ping", "-c", "1", "--timeout", "1s", b.server.Name); err == nil {
			break
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, out)
	}
	for streams, rate := range map[int]*float64{1: &one, 4: &four} {
		var t throughput
		if err := b.helper(ctx, &t, "stream", l.at(streamPort), fmt.Sprint(streams), b.plan.stream.String(), socks); err != nil {
			return 0, 0, err
		}
		*rate = t.Bytes * 8 / t.Seconds / 1e6
	}
	return one, four, nil
}

// dialer is for the stream helper: straight, or by a SOCKS5 proxy.
func dialer(socks string) (func(addr string) (net.Conn, error), error) {
	if socks == "" {
		return func(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, 5*time.Second) }, nil
	}
	d, err := proxy.SOCKS5("tcp", socks, nil, nil)
	if err != nil {
		return nil, err
	}
	return func(addr string) (net.Conn, error) { return d.Dial("tcp", addr) }, nil
}
