package coordinator

import (
	"bytes"
	"slices"

	"picket.internal/acl"
)

// A world mostly is the one before it with a node or two changed. Then only these are read and compiled anew, and only they and their peers get
// new maps: what a change costs does not grow with the network.

// follow makes w's compiled form and maps out of old's, which may be nil, where nothing but the nodes in changed did, and time passed. It
// reports whether it did; users must be as they were.
func (w *world) follow(old *world, changed []acl.NodeID) bool {
	if old == nil || old.policy != w.policy || old.current.Generation != w.current.Generation || !slices.Equal(old.relays, w.relays) {
		return false
	}
	var put []acl.Node
	var gone []acl.NodeID
	for _, id := range changed {
		if n := w.node(id); n != nil && reachable(n) {
			put = append(put, w.serving(w.policy, n))
		} else {
			gone = append(gone, id)
		}
	}
	slices.SortFunc(put, func(a, b acl.Node) int { return compareIDs(a.ID, b.ID) })
	compiled, touched := old.compiled.Update(put, gone)
	compiled, ended := compiled.At(w.at)
	w.compiled = compiled
	old.mu.Lock()
	defer old.mu.Unlock()
	w.maps, w.prior = old.maps.copied(), old.prior.copied()
	if w.dns != old.dns {
		for id := range w.nodes.all() {
			w.outdate(id)
		}
	}
	for _, id := range slices.Concat(touched, ended) {
		w.outdate(id)
	}
	return true
}

// outdate makes the map of a node one to take entries over from. Only a world that is being made is outdated.
func (w *world) outdate(id acl.NodeID) {
	if m, ok := w.maps.get(id); ok && m.err == nil {
		w.prior.set(id, m)
	}
	w.maps.remove(id)
	if w.node(id) == nil {
		w.prior.remove(id)
	}
}

// startAnew outdates all maps of old, which may be nil.
func (w *world) startAnew(old *world) {
	w.maps, w.prior = newTable[acl.NodeID, *nodeMap](), newTable[acl.NodeID, *nodeMap]()
	if old == nil {
		return
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	for id := range w.nodes.all() {
		if m, ok := old.maps.get(id); ok && m.err == nil {
			w.prior.set(id, m)
		} else if m, ok := old.prior.get(id); ok {
			w.prior.set(id, m)
		}
	}
}

// sameUser compares what rules and maps say of users.
func sameUser(a, b UserRow) bool { return a.Login == b.Login && a.Role == b.Role }

// sameNode compares what maps, its own and its peers', say of a node; a test fails when a field is added that it does not know.
func sameNode(a, b *NodeRow) bool {
	return a.ID == b.ID && a.Device == b.Device && a.Name == b.Name && a.Owner == b.Owner && slices.Equal(a.Tags, b.Tags) &&
		slices.Equal(a.Addresses, b.Addresses) && a.Facts == b.Facts && bytes.Equal(a.Certificate, b.Certificate) && bytes.Equal(a.Next, b.Next) &&
		a.Expires.Equal(b.Expires) && a.Expired == b.Expired && a.Quarantined == b.Quarantined && a.Routing.equal(b.Routing)
}
