package wgtun

import (
	"net/netip"
	"testing"
	"time"

	"picket.internal/wgtun/nettest"
)

// TestInsiderDivertsNothingByProvingAnothersAddress has a peer answer a probe at the address of another, as a second machine behind one
// NAT, or with the last lease of an address, can. Datagrams from there then come under the insider's endpoint, and WireGuard, which follows
// whatever endpoint it last heard a peer by, sent everything for the other peer to the insider, for as long as it kept up its claim.
func TestInsiderDivertsNothingByProvingAnothersAddress(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		a, b, insider := w.nodes[0], w.nodes[1], w.nodes[2]
		w.apply(append(both(a, b), both(insider, b)...)...)
		honest := udpExchange{addrPort(a, 40000), addrPort(b, 80)}
		hostile := udpExchange{addrPort(insider, 40000), addrPort(b, 80)}
		if err := converse(a, b, honest, 0, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		a.host.SetAddrs()
		insider.host.SetAddrs(a.outer.Addr())
		insider.tunnel.Reprobe()
		if err := converse(insider, b, hostile, 0, 1, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		insider.host.SetAddrs(insider.outer.Addr())
		a.host.SetAddrs(a.outer.Addr())
		insider.tunnel.Reprobe()
		time.Sleep(5 * time.Second)
		for i := range 20 {
			if err := converse(a, b, honest, 2+i, 2+i, 5*time.Second); err != nil {
				t.Fatalf("after %d s: %v", i, err)
			}
			time.Sleep(time.Second)
		}
	})
}

func addrPort(n *node, port uint16) netip.AddrPort { return netip.AddrPortFrom(n.addrs[0], port) }
