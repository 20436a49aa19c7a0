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

// TestNoPathLeadsThroughTheTunnel has a peer probe from its overlay address, through the tunnel, a node that knew no overlay when it was
// opened, as one that just joined does not. A path found there would wrap each packet in another, without end.
func TestNoPathLeadsThroughTheTunnel(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorld(t, 0)
		a, b := w.newNode("a"), w.newNode("b")
		a.start(nil)
		b.start(func(t *Tunnel) {
			t.config.Overlay = nil
			t.path.SetOverlay(nil)
		})
		inside := netip.AddrPortFrom(a.addrs[0], testPort)
		a.host.SetAddrs(a.addrs[0]) // all that it sends bears its overlay address
		w.gen++
		states := map[*node]State{a: w.state(a, testLease, both(a, b)...), b: w.state(b, testLease, both(a, b)...)}
		for n, s := range states {
			s.Overlay = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}
			for i := range s.Peers {
				if s.Peers[i].Node == a.id {
					s.Peers[i].Candidates = []netip.AddrPort{inside}
				}
			}
			if _, err := n.tunnel.Apply(s); err != nil {
				t.Fatal(err)
			}
		}
		a.tun.Send(udpExchange{addrPort(a, 40000), addrPort(b, 80)}.request(0)...)
		time.Sleep(10 * time.Second)
		if at := b.tunnel.Stats().Peers[0].Path.Addr; at.IsValid() {
			t.Errorf("the path to a leads over %s", at)
		}
	})
}
