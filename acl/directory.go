package acl

import "net/netip"

// NodeID names a node for good; it is never given out twice. 1 to 64 bytes of [a-z0-9].
type NodeID string

// UserID names a person for good ((issuer, subject) to the coordinator); the login is only a label.
type UserID string

// User is a person the policy may name by login.
type User struct {
	ID    UserID
	Login string // e-mail form, lower case. Where two users have one login, no rule names either by it
	Role  string // what autogroup:ROLE names ("admin", "owner", …); empty for none
}

// Node is a machine in the directory. It has an owner or tags, never both: with both the owner does not count.
type Node struct {
	ID         NodeID
	Name       string // DNS label
	Owner      UserID // empty when tagged
	Tags       []string
	Addresses  []netip.Addr      // overlay addresses, IPv4 and IPv6
	Routes     []netip.Prefix    // approved subnet routes the node serves; masked
	Attributes map[string]string // posture and facts, by "namespace:name"
}

// Directory is who and what exists at one moment. Compile keeps no reference to it.
type Directory struct {
	Users []User
	Nodes []Node
	// Overlay are the ranges that nodes' addresses are given out from: no exit node is a way to them.
	Overlay []netip.Prefix
}
