package path

import (
	"testing"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
)

// sink is an inner bind that takes everything.
type sink struct{ endpointsOnly }

func (sink) Send([][]byte, conn.Endpoint) error { return nil }

func TestPacketPathAllocatesNothing(t *testing.T) {
	b := New(Config{Inner: sink{}, Probe: key.NewProbe()})
	peer := key.TunnelPublic{1}
	b.SetPeer(Peer{Tunnel: peer, Probe: key.NewProbe().Public(), Candidates: at2(addrB)})
	p := b.table.peer(peer)
	b.mu.Lock()
	l := b.rouseLocked(p)
	b.takeLocked(p, l.candidates[0], b.now())
	b.bindLocked(p, at(addrB), true, b.now())
	b.mu.Unlock()

	ep, _ := b.ParseEndpoint(EndpointText(peer))
	batch := [][]byte{datagram("one"), datagram("two")}
	if n := testing.AllocsPerRun(100, func() { _ = b.Send(batch, ep) }); n != 0 {
		t.Errorf("Send allocates %v times", n)
	}
	from, _ := b.inner.ParseEndpoint(at(addrB).String())
	sizes, eps := make([]int, 2), make([]conn.Endpoint, 2)
	if n := testing.AllocsPerRun(100, func() {
		sizes[0], sizes[1], eps[0], eps[1] = len(batch[0]), len(batch[1]), from, from
		b.sift(batch, sizes, eps)
	}); n != 0 {
		t.Errorf("receiving allocates %v times", n)
	}
	if sizes[1] == 0 || eps[1].(*Endpoint).Peer() != peer {
		t.Error("datagrams of a bound address were not handed up")
	}
}
