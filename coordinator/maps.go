package coordinator

import (
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// nodeMap is one node's map of one world.
type nodeMap struct {
	entries protocol.Entries
	digest  []byte
	peers   []acl.NodeID // sorted
	err     error        // it could not be made, not even an empty one
}

// hasPeer reports whether the map names id (R30: nothing is told of others).
func (m *nodeMap) hasPeer(id acl.NodeID) bool {
	_, ok := slices.BinarySearch(m.peers, id)
	return ok
}

// mapOf returns the map of a living node, computed once a world.
func (c *Coordinator) mapOf(w *world, id acl.NodeID) *nodeMap {
	w.mu.Lock()
	m, ok := w.maps[id]
	w.mu.Unlock()
	if ok {
		return m
	}
	m = c.makeMap(w, w.nodes[id]) // two may compute it at once: the result is the same
	w.mu.Lock()
	defer w.mu.Unlock()
	if was, ok := w.maps[id]; ok {
		return was
	}
	w.maps[id] = m
	return m
}

// makeMap computes and encodes a map. Content that cannot be encoded is replaced by a map without peers: the node must not keep an
// older one, which may allow more (R1, R6).
func (c *Coordinator) makeMap(w *world, n *NodeRow) *nodeMap {
	content := c.contentOf(w, n)
	entries, err := content.Encode()
	if err != nil {
		c.log.Error("a node's map cannot be made: it gets an empty one", "node", n.ID, "generation", w.generation, "err", err)
		content.Peers, content.Rules = nil, nil
		entries, err = content.Encode()
	}
	m := &nodeMap{entries: entries, digest: protocol.Digest(entries), err: err}
	for _, p := range content.Peers {
		m.peers = append(m.peers, p.Node)
	}
	return m
}

// contentOf is what n may know: itself, and, unless it is cut off, its permitted peers and the rules between them.
func (c *Coordinator) contentOf(w *world, n *NodeRow) protocol.Content {
	content := protocol.Content{
		Self: protocol.Self{
			Subject: acl.Subject{Node: n.ID, Owner: n.Owner, Addresses: n.Addresses},
			Name:    n.Name, Login: w.login(n), Tags: n.Tags, Expires: n.Expires, Quarantined: n.Quarantined,
		},
		Network: protocol.Network{
			Overlay: overlays(c.config),
			Policy:  w.current.info(),
		},
	}
	if !reachable(n) {
		return content
	}
	view, ok := w.compiled.View(n.ID)
	if !ok {
		return content
	}
	content.Self.Subject, content.Rules = view.Self, view.Rules
	for _, s := range view.Peers {
		content.Peers = append(content.Peers, w.peer(s))
	}
	slices.SortFunc(content.Peers, func(a, b protocol.Peer) int { return compareIDs(a.Node, b.Node) })
	return content
}

// info names the policy for nodes: by its commit, or by its file, but never both: where the repository is, is not theirs to know.
func (p PolicyRow) info() protocol.PolicyInfo {
	if p.Commit != "" {
		return protocol.PolicyInfo{Commit: p.Commit}
	}
	return protocol.PolicyInfo{File: p.Source}
}

func (w *world) peer(s acl.Subject) protocol.Peer {
	n := w.nodes[s.Node]
	return protocol.Peer{
		Subject: s, Name: n.Name, Login: w.login(n), Tags: n.Tags, OS: n.Facts.OS,
		Device: n.Device, Certificate: n.Certificate, Expires: n.Expires,
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
