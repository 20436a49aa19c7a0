package coordinator

import (
	"encoding/binary"
	"time"

	"picket.internal/acl"
)

// roster is who is in the network: the users, and the living nodes, also expired and quarantined ones. The next world's is a copy with what
// changed put in, so that it costs what changed.
type roster struct {
	users    *table[acl.UserID, UserRow]
	nodes    *table[acl.NodeID, *NodeRow] // a row is never written: a node that changes gets a new one
	names    *table[string, acl.NodeID]
	expiries *table[string, acl.NodeID] // those still to be carried out, by expiryKey
}

func newRoster() *roster {
	return &roster{
		users: newTable[acl.UserID, UserRow](), nodes: newTable[acl.NodeID, *NodeRow](),
		names: newTable[string, acl.NodeID](), expiries: newTable[string, acl.NodeID](),
	}
}

// copied is table.copied of all.
func (r *roster) copied() *roster {
	return &roster{users: r.users.copied(), nodes: r.nodes.copied(), names: r.names.copied(), expiries: r.expiries.copied()}
}

// expiryKey orders nodes by when their admission ends.
func expiryKey(n *NodeRow) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(n.Expires.UnixMilli())^1<<63)) + string(n.ID) // times before 1970 come first
}

// take puts in what s says. It returns the nodes of which maps may have something else to say now, and whether rules may see a user
// otherwise.
func (r *roster) take(s snapshot) (nodes []acl.NodeID, users bool) {
	for _, id := range s.usersGone {
		if _, ok := r.users.get(id); ok {
			r.users.remove(id)
			users = true
		}
	}
	for _, u := range s.users {
		u.Password, u.TOTP = "", nil // no secret is kept in memory longer than it is needed
		was, ok := r.users.get(u.ID)
		users = users || !ok || !sameUser(was, u)
		r.users.set(u.ID, u)
	}
	was := make([]*NodeRow, len(s.nodes))
	for i := range s.nodes { // all of the old first: one node's new name may be what another was called
		was[i], _ = r.nodes.get(s.nodes[i].ID)
		r.removeNode(was[i])
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		lives := n.Removed.IsZero()
		if lives {
			r.putNode(n)
		}
		if lives && (was[i] == nil || !sameNode(was[i], n)) || !lives && was[i] != nil {
			nodes = append(nodes, n.ID)
		}
	}
	return nodes, users
}

func (r *roster) putNode(n *NodeRow) {
	r.nodes.set(n.ID, n)
	r.names.set(n.Name, n.ID)
	if !n.Expired {
		r.expiries.set(expiryKey(n), n.ID)
	}
}

// removeNode takes out a row that is in r; nil is none.
func (r *roster) removeNode(n *NodeRow) {
	if n == nil {
		return
	}
	r.nodes.remove(n.ID)
	r.names.remove(n.Name)
	r.expiries.remove(expiryKey(n))
}

// differences is what take would return for what made r out of old.
func (r *roster) differences(old *roster) (nodes []acl.NodeID, users bool) {
	for id, n := range r.nodes.all() {
		if was, ok := old.nodes.get(id); !ok || !sameNode(was, n) {
			nodes = append(nodes, id)
		}
	}
	for id := range old.nodes.all() {
		if _, ok := r.nodes.get(id); !ok {
			nodes = append(nodes, id)
		}
	}
	if users = r.users.len() != old.users.len(); users {
		return nodes, users
	}
	for id, u := range r.users.all() {
		was, ok := old.users.get(id)
		users = users || !ok || !sameUser(was, u)
	}
	return nodes, users
}

// node returns a row that must not be written; nil when there is none such.
func (r *roster) node(id acl.NodeID) *NodeRow {
	n, _ := r.nodes.get(id)
	return n
}

// login names a node's owner; empty for a tagged one.
func (r *roster) login(n *NodeRow) string {
	u, _ := r.users.get(n.Owner)
	return u.Login
}

// nextExpiry is the earliest expiry still to be carried out; zero when there is none.
func (r *roster) nextExpiry() time.Time {
	for _, id := range r.expiries.all() {
		return r.node(id).Expires
	}
	return time.Time{}
}

// due lists the nodes whose expiry is to be carried out at now.
func (r *roster) due(now time.Time) (ids []acl.NodeID) {
	for _, id := range r.expiries.all() {
		if now.Before(r.node(id).Expires) {
			break
		}
		ids = append(ids, id)
	}
	return ids
}
