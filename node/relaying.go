package node

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync/atomic"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/localapi"
	"picket.internal/node/relays"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
	"picket.internal/wgtun/relay"
)

// relaying is the node's way through relays. Run tells it what maps and passes say; the links read that on goroutines of their own.
type relaying struct {
	set  *relays.Set
	told atomic.Pointer[relayTold] // never nil
}

// relayTold is immutable.
type relayTold struct {
	network     protocol.NetworkID
	device      key.DevicePrivate
	coordinator key.CoordinatorPublic
	url         string // of the coordinator
	relays      []protocol.Relay
	pass        []byte // signed; nil while there is none
}

func (n *Node) newRelaying() *relaying {
	r := new(relaying)
	r.told.Store(&relayTold{})
	r.set = relays.New(relays.Config{Open: n.openRelay, Homed: n.onHomed, Logger: n.log})
	return r
}

// useRelays has the relays be those that the map names, as long as there are peers to meet there.
func (n *Node) useRelays() {
	t := *n.relaying.told.Load()
	id, c := n.id.node, n.map_.held.content
	if id.Network != t.network || !n.wanted() {
		t.pass = nil
	}
	t.network, t.device, t.coordinator, t.url, t.relays = id.Network, id.Device, id.Coordinator, id.URL, nil
	if n.wanted() && n.overlay != nil && n.map_.inForce && len(n.map_.judged.peers) > 0 {
		t.relays = c.Relays
	}
	n.relaying.told.Store(&t)
	names := make([]string, len(t.relays))
	for i, r := range t.relays {
		names[i] = r.Name
	}
	n.relaying.set.Use(names)
}

// OnRelayPass takes a pass. The relays judge it: one that is not the coordinator's can only be useless.
func (h *handler) OnRelayPass(p protocol.RelayPass) {
	h.do(func() {
		t := *h.n.relaying.told.Load()
		t.pass = p.Pass
		h.n.relaying.told.Store(&t)
		h.n.relaying.set.Renew()
	})
}

// onHomed tells the coordinator, and so the peers, where this node is found. Peers are looked for there too from now on.
func (n *Node) onHomed(ctx context.Context, name string) {
	_ = n.do(ctx, func() {
		n.log.Info("home relay", "relay", name)
		n.report(true)
		hints := make([]protocol.Hint, 0, len(n.map_.hints))
		for _, h := range n.map_.hints {
			if h.Relay != "" {
				hints = append(hints, h)
			}
		}
		n.takeHints(protocol.Hints{Hints: hints})
	})
}

// homeOf is where a hint says that a peer is found through relays. Where its home and ours die together with the coordinator, no hint says where it went: then
// it may have gone where we went.
func (n *Node) homeOf(h protocol.Hint) path.Home {
	i := slices.IndexFunc(n.map_.held.content.Peers, func(p protocol.Peer) bool { return p.Node == h.Node })
	if h.Relay == "" || i < 0 {
		return path.Home{}
	}
	home := path.Home{Relay: h.Relay, Address: relay.AddressOf(string(n.id.node.Network), n.map_.held.content.Peers[i].Device)}
	if own := n.relaying.set.Home(); own != h.Relay {
		home.Spare = own
	}
	return home
}

// home is homeOf the newest hint of a peer.
func (n *Node) home(node acl.NodeID) path.Home {
	h, ok := n.map_.hints[node]
	if !ok {
		return path.Home{}
	}
	return n.homeOf(h)
}

// openRelay makes a link to a relay. It runs on a goroutine of the set's.
func (n *Node) openRelay(name string) relays.Link {
	told := &n.relaying.told
	t := told.Load()
	return relayLink{relay.NewClient(relay.ClientConfig{
		Name: name, Network: string(t.network), Device: t.device, Logger: n.log,
		Dial: func(ctx context.Context) (net.Conn, error) { return n.dialRelay(ctx, told.Load(), name) },
		Pass: func() []byte { return told.Load().pass },
		Receive: func(from relay.Address, datagram []byte) {
			if o := n.view.Load().overlay; o != nil {
				o.Relayed(path.Home{Relay: name, Address: from}, datagram)
			}
		},
	})}
}

// errNoRelay says that the map no longer names a relay.
var errNoRelay = errors.New("the map names no such relay")

func (n *Node) dialRelay(ctx context.Context, t *relayTold, name string) (net.Conn, error) {
	i := slices.IndexFunc(t.relays, func(r protocol.Relay) bool { return r.Name == name })
	if i < 0 {
		return nil, errNoRelay
	}
	r, c := t.relays[i], control.Config{}
	join := protocol.Join{URL: r.URL}
	if r.Name == protocol.OwnRelay {
		join.URL, c.Pinned = t.url, t.coordinator
	} else if r.Fingerprint != "" {
		var err error
		if join.Fingerprint, err = key.ParseFingerprint(r.Fingerprint); err != nil {
			return nil, err
		}
	}
	return n.reach.relay(ctx, join, c)
}

// list tells of each link, by name.
func (r *relaying) list() []localapi.NetcheckRelay {
	links, home := r.set.List(), r.set.Home()
	out := make([]localapi.NetcheckRelay, 0, len(links))
	for _, name := range slices.Sorted(maps.Keys(links)) {
		l := links[name]
		out = append(out, localapi.NetcheckRelay{Name: name, Home: name == home, Connected: l.Connected, Latency: l.Latency, Problem: l.Err})
	}
	return out
}

// relayLink makes a relay.Client a relays.Link.
type relayLink struct{ *relay.Client }

func (l relayLink) Send(to [32]byte, datagram []byte) bool { return l.Client.Send(to, datagram) }

func (l relayLink) Status() relays.Status {
	s := l.Client.Status()
	return relays.Status{Connected: s.Connected, Latency: s.Latency, Asked: s.Asked, Err: s.Err}
}
