//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// LAN is a network beside the lab's internet, of which only hosts that are plugged in know: 10.N.0.0/24 and fd00:N::/64.
type LAN struct {
	world *World
	sw    *Switch
	n     int

	routed bool // place 1 is a router
}

// LAN makes the network of that number, 1 to 99. Privileged worlds only.
func (w *World) LAN(n int) (*LAN, error) {
	sw, err := newSwitch(fmt.Sprintf("lan%d", n))
	if err != nil {
		return nil, err
	}
	w.cleanup.add(func() { _ = sw.Close() })
	return &LAN{world: w, sw: sw, n: n}, nil
}

// Address is the IPv4 address of place i, Address6 the IPv6 one.
func (l *LAN) Address(i int) string { return fmt.Sprintf("10.%d.0.%d", l.n, i) }

// Address6 is the IPv6 address of place i.
func (l *LAN) Address6(i int) string { return fmt.Sprintf("fd00:%d::%d", l.n, i) }

// Plug gives a host a further interface, "lan", with the addresses of place i.
func (l *LAN) Plug(h *Host, i int) error { return l.PlugAs(h, "lan", i) }

// PlugAs is Plug with another name for the interface.
func (l *LAN) PlugAs(h *Host, link string, i int) error {
	if err := l.sw.plug(h.ns, link, i); err != nil {
		return err
	}
	return h.ns.Do(func() error { return addressUp(link, l.Address(i)+"/24", l.Address6(i)+"/64") })
}

// Host makes a machine that is on this network alone, at place i, and knows no router.
func (l *LAN) Host(name string, i int) (*Host, error) {
	h, err := l.bare(name, i)
	if err != nil {
		return nil, err
	}
	return h, l.Plug(h, i)
}

// bare makes a machine that is to be plugged in at place i.
func (l *LAN) bare(name string, i int) (*Host, error) {
	ns, err := newNamespace(name)
	if err != nil {
		return nil, err
	}
	l.world.cleanup.add(func() { _ = ns.Close() })
	h := &Host{Name: name, Dir: filepath.Join(l.world.config.Dir, name), IP: net.ParseIP(l.Address(i)), ns: ns, at: ns.thread, world: l.world}
	return h, os.MkdirAll(h.Dir, 0o700)
}

// SetCable takes the cable of place i out of the network's switch (in false), or puts it back. The host there keeps its addresses and routes.
func (l *LAN) SetCable(i int, in bool) error {
	return l.sw.Do(func() error {
		port, err := netlink.LinkByName(fmt.Sprintf("p%d", i))
		if err != nil {
			return err
		}
		if in {
			return netlink.LinkSetUp(port)
		}
		return netlink.LinkSetDown(port)
	})
}

// Connect opens a flow from the host by its own routes, as Node.Dial does into the overlay.
func (h *Host) Connect(ctx context.Context, proto, addr string) (*Flow, error) {
	return (&Node{Host: h}).Dial(ctx, proto, addr)
}
