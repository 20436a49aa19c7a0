package coordinator

import (
	"testing"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/relay"
)

// A pass is renewed at half of its life, and at once when the peers are others; a map that is new in other ways needs none.
func TestWhenPassesAreDue(t *testing.T) {
	mapWith := func(devices ...key.DevicePublic) *nodeMap {
		m := &nodeMap{}
		for _, d := range devices {
			p := protocol.Peer{Device: d}
			p.Node = "n2"
			m.peers = append(m.peers, p)
		}
		return m
	}
	c := &Coordinator{config: Config{Relay: true, Network: "net", Key: key.NewCoordinator()}}
	c.places.init("net")
	w := &world{roster: newRoster()}
	c.world.Store(w)
	peer, now := key.NewDevice().Public(), time.Now()
	n := &NodeRow{ID: "n1", Certificate: []byte{1}, Expires: now.Add(time.Hour)}
	s := &Session{c: c, node: "n1", device: key.NewDevice().Public()}

	s.sent.current = mapWith(peer)
	if at, due := s.passDue(w, n); !due || now.Before(at) {
		t.Errorf("the first is due %v, %s", due, at)
	}
	s.pass(n, now)
	s.sent.current = mapWith(peer)
	if at, due := s.passDue(w, n); !due || !at.Equal(now.Add(relay.PassLife/2)) {
		t.Errorf("the next is due %v, %s", due, at.Sub(now))
	}
	for name, m := range map[string]*nodeMap{"nobody": mapWith(), "another device": mapWith(key.NewDevice().Public())} {
		s.sent.current = m
		if at, due := s.passDue(w, n); !due || now.Before(at) {
			t.Errorf("with %s as a peer one is due %v, %s", name, due, at)
		}
	}
	n.Quarantined = true
	if _, due := s.passDue(w, n); due {
		t.Error("one is due in quarantine")
	}
	n.Quarantined, s.sent.current = false, mapWith(peer)
	if at, due := s.passDue(w, n); !due || now.Before(at) {
		t.Errorf("after it one is due %v, %s", due, at)
	}
}

// Who asks for addresses that nobody has costs one look at the nodes for each generation.
func TestPlacesAreReadOnceAGeneration(t *testing.T) {
	var p places
	p.init("net")
	w := &world{generation: 5, roster: newRoster()}
	device := key.NewDevice().Public()
	at := relay.AddressOf("net", device)
	w.putNode(&NodeRow{ID: "n1", Device: device})
	if n := p.find(w, at); n == nil || n.ID != "n1" {
		t.Errorf("found %v", n)
	}
	other := key.NewDevice().Public()
	w.putNode(&NodeRow{ID: "n2", Device: other})
	if p.find(w, relay.AddressOf("net", other)) != nil {
		t.Error("the nodes of one generation are read twice")
	}
	w = &world{generation: 6, roster: w.roster.copied()}
	w.removeNode(w.node("n1"))
	if n := p.find(w, relay.AddressOf("net", other)); n == nil || p.find(w, at) != nil {
		t.Errorf("found %v and %v in the next generation", n, p.find(w, at))
	}
	w = &world{generation: 7, roster: w.roster.copied()}
	w.removeNode(w.node("n2"))
	w.putNode(&NodeRow{ID: "n2", Device: key.NewDevice().Public()})
	if n := p.find(w, relay.AddressOf("net", other)); n != nil {
		t.Errorf("found %v at the address of its earlier device", n)
	}
}
