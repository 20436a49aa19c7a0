package path

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/key"
)

func TestSetPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		seen := record(n)
		hostB := n.Host(addrB)
		a, b := start(t, n.Host(addrA)), start(t, hostB)
		meet(a, b, at2(addrB))
		chat(a, b, time.Second)
		since := a.status(b).Since
		before := len(seen.matching(to(addrB)))
		for range 100 {
			a.SetPeer(Peer{Tunnel: b.tunnel, Probe: b.probe.Public(), Candidates: at2(addrB)})
		}
		time.Sleep(100 * time.Millisecond)
		if got := len(seen.matching(to(addrB))) - before; got > 1 {
			t.Errorf("setting what is so already sent %d datagrams", got)
		}
		a.SetPeer(Peer{Tunnel: b.tunnel, Probe: b.probe.Public()})
		chat(a, b, 20*time.Second)
		if s := a.status(b); s.Addr != at(addrB) || s.Since != since {
			t.Errorf("a path that answers was left when its address was no longer told: %+v", s)
		}
		hostB.SetAddrs(addrC)
		a.SetPeer(Peer{Tunnel: b.tunnel, Probe: b.probe.Public(), Candidates: at2(addrC)})
		chat(a, b, 3*time.Second)
		if s := a.status(b); s.Addr != at(addrC) {
			t.Errorf("new candidate not taken: %+v", s)
		}
		a.SetPeer(Peer{Tunnel: a.tunnel, Probe: a.probe.Public(), Candidates: at2(addrA)})
		if _, ok := a.Status(a.tunnel); ok {
			t.Error("we are our own peer")
		}
	})
}

func TestRestartedPeerMissesOnlyWhatOvertakesTheFirstPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrB), at(addrA))
		chat(a, b, 5*time.Second)
		reborn := restart(t, b)
		reborn.SetPeer(Peer{Tunnel: a.tunnel, Probe: a.probe.Public(), Candidates: at2(addrA)})
		a.SetPeer(Peer{Tunnel: b.tunnel, Probe: reborn.probe.Public(), Candidates: at2(addrB)})
		for range 50 {
			a.send(reborn, "x")
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(latency)
		if got := len(reborn.take()); got < 49 {
			t.Errorf("%d of 50 arrived", got)
		}
	})
}

// restart ends b's Bind and starts one of the same tunnel key under a new probe key on the same host.
func restart(t *testing.T, b *node) *node {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return start(t, b.host, func(c *Config) { c.Tunnel = b.tunnel })
}

func TestNewProbeKeyThatNeverAnswersEndsThePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrB))
		chat(a, b, 5*time.Second)
		a.SetPeer(Peer{Tunnel: b.tunnel, Probe: key.NewProbe().Public(), Candidates: at2(addrB)})
		synctest.Wait()
		if a.status(b).Kind == "" {
			t.Error("no grace")
		}
		time.Sleep(grace + tick)
		if s := a.status(b); s.Kind != "" {
			t.Errorf("still on the path of the old key: %+v", s)
		}
		a.take()
		b.host.Inject(at(addrB), at(addrA), datagram("from the old key's address"))
		time.Sleep(latency)
		if got := a.texts(); got != nil {
			t.Errorf("handed up from an address that only the old key proved: %q", got)
		}
	})
}

func TestTwoTunnelKeysOfOneDeviceShareAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrB), at(addrA))
		chat(a, b, 5*time.Second)
		// a's device rotates: its second key speaks from the same address.
		second := &node{tunnel: key.NewTunnel().Public(), probe: key.NewProbe()}
		second.Bind = New(Config{Inner: endpointsOnly{}, Tunnel: second.tunnel, Probe: second.probe})
		b.SetPeer(Peer{Tunnel: second.tunnel, Probe: second.probe.Public(), Candidates: at2(addrA)})
		probe := boxTo(t, second, b).seal(message{kind: ping, sequence: 1, tunnel: second.tunnel})
		a.host.Inject(at(addrA), at(addrB), probe)
		time.Sleep(latency)
		b.RemovePeer(a.tunnel)
		b.take()
		a.host.Inject(at(addrA), at(addrB), datagram("under the second key"))
		time.Sleep(latency)
		if got := b.take(); len(got) != 1 || got[0].Peer != second.tunnel {
			t.Errorf("with the first key removed, got %+v", got)
		}
	})
}

func boxTo(t *testing.T, from, to *node) *box {
	t.Helper()
	return mustBox(t, from.self, to.self)
}

func TestRemovedPeerGetsAndGivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		seen := record(n)
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrB), at(addrA))
		chat(a, b, 5*time.Second)
		waiting := make(chan error, 1)
		p := a.table.peer(b.tunnel)
		w := p.way.Load()
		a.RemovePeer(b.tunnel)
		a.RemovePeer(b.tunnel)
		a.take()
		sent := len(seen.matching(to(addrB)))
		if err := a.through(p, w, [][]byte{datagram("looked up before the removal")}); err != nil {
			t.Error(err)
		}
		for range 20 {
			a.send(b, "x")
			b.send(a, "x")
			time.Sleep(time.Second)
		}
		if got := len(seen.matching(to(addrB))) - sent; got != 0 {
			t.Errorf("%d datagrams sent to it", got)
		}
		if got := a.take(); len(got) != 0 {
			t.Errorf("%d datagrams handed up from it", len(got))
		}
		if _, ok := a.Status(b.tunnel); ok || a.dropped(DropStranger) == 0 || a.dropped(DropUnknown) == 0 || a.dropped(DropNoPeer) != 21 {
			t.Errorf("known %v, drops %v", ok, a.Stats().Drops)
		}
		// A ping that waits learns of it.
		a.SetPeer(Peer{Tunnel: key.TunnelPublic{9}, Probe: key.NewProbe().Public(), Candidates: at2(addrX)})
		go func() {
			_, _, err := a.Ping(t.Context(), key.TunnelPublic{9})
			waiting <- err
		}()
		time.Sleep(time.Second)
		a.RemovePeer(key.TunnelPublic{9})
		if err := <-waiting; !errors.Is(err, ErrNoPeer) {
			t.Errorf("Ping of a peer removed: %v", err)
		}
		if a.sizes() != (sizes{}) || a.Stats().Live != 0 {
			t.Errorf("left over: %+v, %d live", a.sizes(), a.Stats().Live)
		}
	})
}
