package coordinator

import (
	"bytes"
	"maps"
	"path"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// nodeMap is one node's map of one world.
type nodeMap struct {
	entries protocol.Entries
	digest  []byte
	peers   []protocol.Peer // by node id
	err     error           // it could not be made, not even an empty one
}

// hasPeer reports whether the map names id (R30: nothing is told of others). A nil map names nobody.
func (m *nodeMap) hasPeer(id acl.NodeID) bool {
	if m == nil {
		return false
	}
	_, ok := slices.BinarySearchFunc(m.peers, id, func(p protocol.Peer, id acl.NodeID) int { return compareIDs(p.Node, id) })
	return ok
}

// before calls fn with each peer of m, and with the same node's in old, which may be nil; nil when it is not there.
func (m *nodeMap) before(old *nodeMap, fn func(peer, was *protocol.Peer)) {
	var rest []protocol.Peer
	if old != nil {
		rest = old.peers
	}
	for i := range m.peers {
		p := &m.peers[i]
		for len(rest) > 0 && rest[0].Node < p.Node {
			rest = rest[1:]
		}
		if len(rest) > 0 && rest[0].Node == p.Node {
			fn(p, &rest[0])
		} else {
			fn(p, nil)
		}
	}
}

// mapOf returns the map of a living node, computed once a world.
func (c *Coordinator) mapOf(w *world, id acl.NodeID) *nodeMap {
	w.mu.Lock()
	m, ok := w.maps.get(id)
	prior, _ := w.prior.get(id)
	w.mu.Unlock()
	if ok {
		return m
	}
	m = c.makeMap(w, w.node(id), prior) // two may compute it at once: the result is the same
	w.mu.Lock()
	defer w.mu.Unlock()
	if was, ok := w.maps.get(id); ok {
		return was
	}
	w.maps.set(id, m)
	w.prior.remove(id)
	return m
}

// makeMap computes and encodes a map; prior, which may be nil, is an earlier one. Content that cannot be encoded is replaced by a map without
// peers: the node must not keep an older one, which may allow more (R1, R6).
func (c *Coordinator) makeMap(w *world, n *NodeRow, prior *nodeMap) *nodeMap {
	content := c.contentOf(w, n)
	m := &nodeMap{peers: content.Peers}
	if m.err = m.encode(content, prior); m.err != nil {
		c.log.Error("a node's map cannot be made: it gets an empty one", "node", n.ID, "generation", w.generation, "err", m.err)
		content.Peers, content.Rules, content.Denies, content.Relays, content.DNS, m.peers = nil, nil, nil, nil, protocol.DNS{}, nil
		m.entries, m.err = content.Encode()
	}
	m.digest = protocol.Digest(m.entries)
	return m
}

// encode is content.Encode, but takes over from prior, which may be nil, the entries of peers that are as they were: one node's change
// then costs its peers one entry each, instead of all of theirs.
func (m *nodeMap) encode(content protocol.Content, prior *nodeMap) error {
	kept := make(protocol.Entries, len(content.Peers)+len(content.Rules)+3)
	var changed []protocol.Peer
	m.before(prior, func(p, was *protocol.Peer) {
		if was != nil && samePeer(was, p) {
			id := protocol.EntryID("peer/" + p.Node)
			kept[id] = prior.entries[id]
		} else {
			changed = append(changed, *p)
		}
	})
	content.Peers = changed
	entries, err := content.Encode()
	if err != nil {
		return err
	}
	maps.Copy(kept, entries)
	m.entries = kept
	return nil
}

// samePeer compares every field; a test fails when one is added that it does not know.
func samePeer(a, b *protocol.Peer) bool {
	return a.Node == b.Node && a.Owner == b.Owner && a.Name == b.Name && a.Login == b.Login && a.OS == b.OS && a.Device == b.Device &&
		a.Expires.Equal(b.Expires) && bytes.Equal(a.Certificate, b.Certificate) && bytes.Equal(a.Next, b.Next) && slices.Equal(a.Addresses, b.Addresses) &&
		slices.Equal(a.Routes, b.Routes) && slices.Equal(a.Roles, b.Roles) && slices.Equal(a.Tags, b.Tags) && slices.Equal(a.Postures, b.Postures)
}

// contentOf is what n may know: itself, and, unless it is cut off, its permitted peers and the rules between them.
func (c *Coordinator) contentOf(w *world, n *NodeRow) protocol.Content {
	content := protocol.Content{
		Self: protocol.Self{
			Subject: acl.Subject{Node: n.ID, Owner: n.Owner, Addresses: n.Addresses},
			Name:    n.Name, Login: w.login(n), Tags: n.Tags, Expires: n.Expires, Quarantined: n.Quarantined,
		},
		Network: c.config.network(),
	}
	content.Network.Policy, content.Network.Domain = w.current.info(), w.dns.Domain
	if !reachable(n) {
		return content
	}
	view, ok := w.compiled.View(n.ID)
	if !ok {
		return content
	}
	w.settle(&view)
	content.Self.Subject, content.Rules, content.Denies = view.Self, view.Rules, view.Denies
	content.Relays = c.relays(w.relays)
	content.Peers = make([]protocol.Peer, len(view.Peers))
	for i, s := range view.Peers {
		content.Peers[i] = w.peer(s, view.Postures[s.Node])
	}
	slices.SortFunc(content.Peers, func(a, b protocol.Peer) int { return compareIDs(a.Node, b.Node) })
	content.DNS = w.dnsFor(&content, content.Network.Overlay)
	return content
}

// info names the policy for nodes: by its commit, or by its file's bare name. Where either lies is not theirs to know.
func (p PolicyRow) info() protocol.PolicyInfo {
	if p.Commit != "" {
		return protocol.PolicyInfo{Commit: p.Commit}
	}
	return protocol.PolicyInfo{File: path.Base(p.Source)}
}

func (w *world) peer(s acl.Subject, postures []string) protocol.Peer {
	n := w.node(s.Node)
	return protocol.Peer{
		Subject: s, Name: n.Name, Login: w.login(n), Tags: n.Tags, OS: n.Facts.OS,
		Device: n.Device, Certificate: n.Certificate, Next: n.Next, Expires: n.Expires, Postures: postures,
	}
}

// signed heads entries of the world's generation with a lease that starts now and ends at most with the node's own admission.
func (c *Coordinator) signed(m *protocol.Map, w *world, n *NodeRow, digest []byte, now time.Time) (time.Time, error) {
	end := now.Add(c.config.Lease)
	if n.Expires.Before(end) {
		end = n.Expires
	}
	return end, protocol.SignHeader(m, protocol.Header{
		Network: c.config.Network, Node: n.ID, Generation: w.generation, Digest: digest, Issued: now, NotAfter: end,
	}, c.config.Key)
}
