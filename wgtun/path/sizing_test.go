package path

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/nettest"
)

func longest(n int) func(*Config) { return func(c *Config) { c.MaxDatagram = n } }

// limit is how long datagrams from a node to another may be.
func (n *node) limit(to *node) int { return int(n.Limit(to.tunnel).Load()) }

// keep sends every so often, so that the way stays in use, for d.
func (n *node) keep(to *node, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		n.send(to, "x")
		to.send(n, "y")
	}
}

func sized(t *testing.T, link nettest.Link, f func(net *nettest.Network, a, b *node)) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		link.Latency = 20 * time.Millisecond
		net.SetDefault(link)
		a, b := start(t, net.Host(addrA), longest(8960)), start(t, net.Host(addrB), longest(8960))
		meet(a, b, []netip.AddrPort{at(addrB)}, at(addrA))
		f(net, a, b)
	})
}

func TestLongestDatagramIsFound(t *testing.T) {
	for _, c := range []struct{ path, want int }{
		{0, 8960}, {8952, 8952}, {1472, 1472}, {1464, 1464}, {1460, 1452}, {1400, 1392}, {1380, BaseDatagram}, {1312, BaseDatagram},
	} {
		sized(t, nettest.Link{Longest: c.path}, func(_ *nettest.Network, a, b *node) {
			a.keep(b, 40*time.Second)
			if got := a.limit(b); got != c.want {
				t.Errorf("a path of %d bytes: datagrams of %d, want %d", c.path, got, c.want)
			}
		})
	}
}

// Before anything is known what Ethernet takes is believed, and not more.
func TestLikelyLengthAtFirst(t *testing.T) {
	if got := new(sizing).limit(ladder(8960), true); got != ethernet6 {
		t.Errorf("in IPv6: %d", got)
	}
	if got := new(sizing).limit(ladder(1400), false); got != 1400 {
		t.Errorf("of at most 1400: %d", got)
	}
	sized(t, nettest.Link{}, func(_ *nettest.Network, a, b *node) {
		if got := a.limit(b); got != ethernet4 {
			t.Errorf("without a way: %d", got)
		}
		a.send(b, "x")
		time.Sleep(50 * time.Millisecond)
		if got := a.limit(b); got != ethernet4 {
			t.Errorf("on a new way: %d", got)
		}
	})
}

// The route changes to one that takes less, and says nothing of it.
func TestShorterPathIsNoticed(t *testing.T) {
	sized(t, nettest.Link{}, func(net *nettest.Network, a, b *node) {
		a.keep(b, 5*time.Second)
		net.SetDefault(nettest.Link{Latency: 20 * time.Millisecond, Longest: 1400})
		a.keep(b, 10*time.Second)
		if got := a.limit(b); got > 1400 {
			t.Errorf("after 10 s datagrams may still be of %d bytes", got)
		}
		a.keep(b, 40*time.Second)
		if got := a.limit(b); got != 1392 {
			t.Errorf("in the end datagrams may be of %d bytes", got)
		}
		net.SetDefault(nettest.Link{Latency: 20 * time.Millisecond})
		a.keep(b, sizeAgain+5*time.Second)
		if got := a.limit(b); got != 8960 {
			t.Errorf("of a better path %d bytes are used", got)
		}
	})
}

// While greater lengths are tried again, what was found out holds.
func TestTryingAgainBelievesNothing(t *testing.T) {
	sized(t, nettest.Link{Longest: 1312}, func(_ *nettest.Network, a, b *node) {
		a.keep(b, 40*time.Second)
		for end := time.Now().Add(sizeAgain + 10*time.Second); time.Now().Before(end); {
			a.keep(b, time.Second)
			if got := a.limit(b); got != BaseDatagram {
				t.Fatalf("datagrams of %d bytes", got)
			}
		}
	})
}

func TestLossDoesNotShorten(t *testing.T) {
	sized(t, nettest.Link{Loss: 0.1}, func(_ *nettest.Network, a, b *node) {
		a.keep(b, 20*time.Second)
		below := 0
		for range 100 {
			a.keep(b, time.Second)
			if a.limit(b) < 8960 {
				below++
			}
		}
		if below > 15 {
			t.Errorf("%d of 100 s with shorter datagrams than the path takes, at a loss of 10 %%", below)
		}
	})
}

// A hostile peer says that it got another length than was sent.
func TestOnlyTheLengthThatWasSentIsProved(t *testing.T) {
	l := ladder(8960)
	for _, lie := range []int{1, probeSize, BaseDatagram, 8959, 8961, 65535} {
		var s sizing
		ping := newTransaction()
		s.depart(ping, s.next(l, time.Hour, time.Second), time.Hour)
		if s.land(ping, lie) {
			t.Errorf("a pong of %d bytes is taken for one of 8960: datagrams of %d", lie, s.limit(l, false))
		}
		if !s.land(ping, 8960) || s.limit(l, false) != 8960 {
			t.Errorf("the truth is refused")
		}
	}
}

// A ping says its length in 16 bits.
func TestNoLengthIsTriedThatUDPCannotHave(t *testing.T) {
	if got := ladder(65535 + messageOverhead)[0]; got != 65507 {
		t.Errorf("%d bytes are tried first", got)
	}
}

// Of a peer that does not tell lengths nothing is proved, nor is the way doubted.
func TestNothingIsMeasuredUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		a, b := start(t, net.Host(addrA)), start(t, net.Host(addrB))
		meet(a, b, []netip.AddrPort{at(addrB)}, at(addrA))
		net.Tap(func(d nettest.Datagram) {
			if looksLikeProbe(d.Payload) && len(d.Payload) != probeSize {
				t.Errorf("a probe of %d bytes", len(d.Payload))
			}
		})
		a.keep(b, 10*time.Second)
		if got := a.limit(b); got != BaseDatagram {
			t.Errorf("datagrams of %d bytes", got)
		}
	})
}

// A padded ping says how long it is, sealed: who cuts or lengthens it on the way proves nothing.
func TestOtherLengthThanSealedIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		a := start(t, net.Host(addrA))
		b := start(t, net.Host(addrB))
		meet(a, b, []netip.AddrPort{at(addrB)}, at(addrA))
		sealer, err := newBox(b.self, a.probe.Public())
		if err != nil {
			t.Fatal(err)
		}
		stranger := net.Host(addrX)
		sequence := uint64(time.Now().UnixNano()) + 1<<40
		for name, c := range map[string]struct{ sealed, sent int }{
			"cut": {1400, 1399}, "lengthened": {1400, 1401}, "padded without word": {0, 1400}, "all padding cut": {1400, probeSize},
		} {
			sequence++
			before := a.Bind.Stats()
			probe := sealer.seal(message{kind: ping, transaction: newTransaction(), sequence: sequence, size: uint16(c.sealed), tunnel: b.tunnel})
			stranger.Inject(at(addrX), at(addrA), append(probe, make([]byte, c.sent-len(probe))...))
			synctest.Wait()
			after := a.Bind.Stats()
			if after.Drops[DropMalformed] != before.Drops[DropMalformed]+1 || after.Pongs != before.Pongs {
				t.Errorf("%s: %v, %d pongs", name, after.Drops, after.Pongs-before.Pongs)
			}
		}
	})
}
