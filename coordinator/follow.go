package coordinator

import (
	"bytes"
	"slices"

	"picket.internal/acl"
)

// A world mostly is the one before it with a node or two changed. Then only these are compiled anew, and only they and their peers get new
// maps: what a change costs does not grow with the network.

// follow makes w's compiled form out of old's where nothing but nodes changed. It reports whether it did.
func (w *world) follow(old *world) bool {
	if old == nil || old.policy != w.policy || old.current.Generation != w.current.Generation || !sameUsers(old.users, w.users) {
		return false
	}
	var put []acl.Node
	var gone []acl.NodeID
	for id, n := range w.nodes {
		was := old.nodes[id]
		switch {
		case was != nil && sameNode(was, n):
		case reachable(n):
			put = append(put, w.node(w.policy, n))
		default:
			gone = append(gone, id)
		}
	}
	for id := range old.nodes {
		if w.nodes[id] == nil {
			gone = append(gone, id)
		}
	}
	slices.SortFunc(put, func(a, b acl.Node) int { return compareIDs(a.ID, b.ID) })
	compiled, touched := old.compiled.Update(put, gone)
	w.compiled = compiled
	old.mu.Lock()
	defer old.mu.Unlock()
	for id, m := range old.maps {
		if _, changed := slices.BinarySearch(touched, id); !changed && w.nodes[id] != nil && m.err == nil {
			w.maps[id] = m
		}
	}
	return true
}

// sameUsers compares what maps say of users.
func sameUsers(a, b map[acl.UserID]UserRow) bool {
	if len(a) != len(b) {
		return false
	}
	for id, u := range a {
		if o, ok := b[id]; !ok || o.Login != u.Login || o.Role != u.Role {
			return false
		}
	}
	return true
}

// sameNode compares what maps, its own and its peers', say of a node; a test fails when a field is added that it does not know.
func sameNode(a, b *NodeRow) bool {
	return a.ID == b.ID && a.Device == b.Device && a.Name == b.Name && a.Owner == b.Owner && slices.Equal(a.Tags, b.Tags) &&
		slices.Equal(a.Addresses, b.Addresses) && a.Facts == b.Facts && bytes.Equal(a.Certificate, b.Certificate) &&
		a.Expires.Equal(b.Expires) && a.Expired == b.Expired && a.Quarantined == b.Quarantined && a.Routing.equal(b.Routing)
}
