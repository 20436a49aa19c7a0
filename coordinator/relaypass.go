package coordinator

import (
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/relay"
)

// passRenew is how long a node holds a pass before it gets the next one: half of its life.
const passRenew = relay.PassLife / 2

// passes is what Session.Next knows of the pass it sent last.
type passes struct {
	of   *nodeMap // whose peers it names; nil: none was sent, or it names nobody
	made time.Time
}

// passDue says when the next pass is, given what the node was sent: now for a map with other peers, later for the same ones, and never for
// a node that may meet nobody, or in a network without relays.
func (s *Session) passDue(w *world, n *NodeRow) (at time.Time, due bool) {
	if !reachable(n) || len(s.c.relays(w.relays)) == 0 {
		s.passes = passes{}
		return time.Time{}, false
	}
	if s.passes.of == nil || !samePeers(s.passes.of, s.sent.current) {
		return time.Time{}, true
	}
	s.passes.of = s.sent.current // an older map is not held on to
	return s.passes.made.Add(passRenew), true
}

// samePeers reports whether two maps name the same devices.
func samePeers(a, b *nodeMap) bool {
	if a == b {
		return true
	}
	if len(a.peers) != len(b.peers) {
		return false
	}
	for i := range a.peers {
		if a.peers[i].Node != b.peers[i].Node || a.peers[i].Device != b.peers[i].Device {
			return false
		}
	}
	return true
}

// pass makes the pass of n, the session's node: for the peers of the map that it was sent, and no others.
func (s *Session) pass(n *NodeRow, now time.Time) protocol.RelayPass {
	m := s.sent.current
	s.c.places.readAll(s.c.world.Load()) // once for all sessions, not again in each
	s.passes = passes{of: m, made: now}
	to := make([]relay.Address, len(m.peers))
	for i, p := range m.peers {
		to[i] = s.c.places.address(p.Device)
	}
	p := relay.NewPass(string(s.c.config.Network), s.device, to, now)
	if n.Expires.Before(p.NotAfter) {
		p.NotAfter = n.Expires.Truncate(time.Second)
	}
	return protocol.RelayPass{Pass: p.Sign(s.c.config.Key)}
}

// places knows which device is at which address of relays.
type places struct {
	network string

	mu       sync.RWMutex
	byDevice map[key.DevicePublic]relay.Address // by mu
	byPlace  map[relay.Address]place            // by mu
	read     uint64                             // by mu: generation whose nodes are all in it
}

// place is who has an address.
type place struct {
	node   acl.NodeID
	device key.DevicePublic
}

func (p *places) init(network protocol.NetworkID) {
	p.network = string(network)
	p.byDevice, p.byPlace = make(map[key.DevicePublic]relay.Address), make(map[relay.Address]place)
}

// address is relay.AddressOf, remembered for the devices of the network.
func (p *places) address(d key.DevicePublic) relay.Address {
	p.mu.RLock()
	a, ok := p.byDevice[d]
	p.mu.RUnlock()
	if ok {
		return a
	}
	return relay.AddressOf(p.network, d)
}

// find returns the node of w that has an address; nil when there is none.
func (p *places) find(w *world, a relay.Address) *NodeRow {
	p.mu.RLock()
	at, ok := p.byPlace[a]
	read := p.read
	p.mu.RUnlock()
	if !ok {
		if read >= w.generation {
			return nil
		}
		p.readAll(w)
		p.mu.RLock()
		at, ok = p.byPlace[a]
		p.mu.RUnlock()
	}
	if n := w.node(at.node); ok && n != nil && n.Device == at.device {
		return n
	}
	return nil
}

// readAll makes p anew of the nodes of w. It happens at most once for a generation, whoever asks for what is not there.
func (p *places) readAll(w *world) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.read >= w.generation {
		return
	}
	byDevice, byPlace := make(map[key.DevicePublic]relay.Address, w.nodes.len()), make(map[relay.Address]place, w.nodes.len())
	for _, n := range w.nodes.all() {
		a, ok := p.byDevice[n.Device]
		if !ok {
			a = relay.AddressOf(p.network, n.Device)
		}
		byDevice[n.Device], byPlace[a] = a, place{n.ID, n.Device}
	}
	p.byDevice, p.byPlace, p.read = byDevice, byPlace, w.generation
}

// Relay is the coordinator's own relay; nil when it has none.
func (c *Coordinator) Relay() *relay.Server { return c.relay }

// startRelay makes the coordinator's own relay, if it is to have one.
func (c *Coordinator) startRelay() {
	c.places.init(c.config.Network)
	if c.config.Relay {
		c.relay = relay.NewServer(relay.ServerConfig{
			Coordinator: c.config.Key.Public(), Network: string(c.config.Network), Name: protocol.OwnRelay,
			Now: c.now, May: c.mayMeet, Logger: c.log,
		})
	}
}

// mayMeet reports whether the world in force lets two addresses meet, so that at the coordinator's own relay what a change takes away is
// taken with it: passes may be minutes older.
func (c *Coordinator) mayMeet(a, b relay.Address) bool {
	w := c.world.Load()
	from, to := c.places.find(w, a), c.places.find(w, b)
	return from != nil && to != nil && reachable(from) && reachable(to) && c.mapOf(w, from.ID).hasPeer(to.ID) && c.mapOf(w, to.ID).hasPeer(from.ID)
}

// dropFromRelay ends, at the coordinator's own relay, the connections of those of the nodes that may not exchange flows any more.
func (c *Coordinator) dropFromRelay(w, old *world, nodes []acl.NodeID) {
	if c.relay == nil || old == nil {
		return
	}
	for _, id := range nodes {
		if was, is := old.node(id), w.node(id); was != nil && (is == nil || !reachable(is) || is.Device != was.Device) {
			c.relay.Drop(c.places.address(was.Device))
		}
	}
}
