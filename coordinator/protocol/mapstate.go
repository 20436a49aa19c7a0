package protocol

import (
	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

// Entries is a map's entries by id.
type Entries map[EntryID][]byte

// Digest is the SHA-256 over the entries sorted by id, each as: id length (2 bytes, big-endian), id, SHA-256 of the data.
func Digest(e Entries) []byte { panic("unimplemented") }

// Diff returns what turns old into new.
func Diff(old, new Entries) (remove []EntryID, put []Entry) { panic("unimplemented") }

// SignHeader fills Header and Signature of m.
func SignHeader(m *Map, h Header, k key.CoordinatorPrivate) error { panic("unimplemented") }

// OpenHeader verifies a map's signature and that it is for this network and node, and returns the header.
func OpenHeader(m *Map, k key.CoordinatorPublic, network NetworkID, node acl.NodeID) (Header, error) {
	panic("unimplemented")
}

// Merge applies m to the entries of generation base and checks the digest. ErrResync when the base or the digest differs. It does not change old.
func Merge(old Entries, base uint64, m *Map, h Header) (Entries, error) { panic("unimplemented") }

// Content is a map's entries, decoded.
type Content struct {
	Self    Self
	Network Network
	Peers   []Peer     // sorted by node id
	Rules   []acl.Rule // in policy file order
}

// Encode turns content into entries.
func (c Content) Encode() (Entries, error) { panic("unimplemented") }

// Decode reads entries; an entry of an unknown kind is ignored, a malformed one is an error.
func Decode(e Entries) (Content, error) { panic("unimplemented") }

// Ruleset is the rules with self and peers as subjects.
func (c Content) Ruleset() *acl.Ruleset { panic("unimplemented") }
