package node

import (
	"net/netip"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// who puts names to nodes and addresses, by the map that a view holds.
type who struct {
	v     *view
	peers map[acl.NodeID]*protocol.Peer
	now   time.Time
}

func (v *view) who() *who {
	w := &who{v: v, peers: make(map[acl.NodeID]*protocol.Peer, len(v.held.content.Peers)), now: time.Now()}
	for i := range v.held.content.Peers {
		p := &v.held.content.Peers[i]
		w.peers[p.Node] = p
	}
	return w
}

// remote is the far end. A peer that the map no longer names keeps its node id alone.
func (w *who) remote(node acl.NodeID, a netip.Addr) localapi.Endpoint {
	e := localapi.Endpoint{Node: node, Address: a}
	if p := w.peers[node]; p != nil {
		e.Name, e.Owner, e.Tags = p.Name, p.Login, p.Tags
		e.Routed = a.IsValid() && !slices.Contains(p.Addresses, a)
	}
	return e
}

// local is this node, or what lies behind it, or an address that is neither.
func (w *who) local(a netip.Addr) localapi.Endpoint {
	self := &w.v.held.content.Self
	own := slices.Contains(self.Addresses, a)
	routed := !own && slices.ContainsFunc(self.Routes, func(p netip.Prefix) bool { return p.Contains(a) })
	if !own && !routed && a.IsValid() {
		return localapi.Endpoint{Address: a}
	}
	return localapi.Endpoint{Node: self.Node, Name: self.Name, Owner: self.Login, Tags: self.Tags, Address: a, Routed: routed}
}

// between puts both ends in the order of travel.
func (w *who) between(out bool, node acl.NodeID, local, remote netip.AddrPort) (src, dst localapi.Endpoint) {
	src, dst = w.local(local.Addr()), w.remote(node, remote.Addr())
	src.Port, dst.Port = local.Port(), remote.Port()
	if !out {
		return dst, src
	}
	return src, dst
}

// wall is t by this host's clock as it runs now. The filter counts time from when it was made, sleep included, so its own reading of the wall
// is off by how much that was set or slept since; how long ago something was is right.
func (w *who) wall(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return w.now.Add(-w.now.Sub(t)).Round(0)
}

// chosen is a selection whose peer was looked up.
type chosen struct {
	localapi.Selection
	node acl.NodeID
}

func (v *view) choose(s localapi.Selection) (c chosen, err error) {
	c.Selection = s
	if err := s.Check(); err != nil {
		return c, err
	}
	if s.Peer == "" {
		return c, nil
	}
	p, err := v.find(s.Peer)
	c.node = p.Node
	return c, err
}

func (c *chosen) fits(node acl.NodeID, t localapi.Traits) bool {
	return (c.node == "" || c.node == node) && c.Fits(&t)
}
