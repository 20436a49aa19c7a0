package acl

import (
	"fmt"
	"net/netip"
	"time"
)

// RoleID stands for one selector of a policy ("group:eng", "tag:db", "alice@example.com", "*", a host): the set of nodes it names.
// It is derived from the selector's text and a salt of the network, so that it is the same after a restart and tells a reader nothing.
type RoleID uint64

// Proto is an IP protocol number.
type Proto uint8

// Protocols with meaning here.
const (
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
)

// Ref says which rule of the policy file something came from.
type Ref struct {
	Section string `json:"section"` // "acls" or "grants"
	Index   int    `json:"index"`   // from 0
	Line    int    `json:"line"`    // from 1
	Column  int    `json:"column"`  // from 1
}

// String is "grants[3], line 17".
func (r Ref) String() string { return fmt.Sprintf("%s[%d], line %d", r.Section, r.Index, r.Line) }

// Ports is one protocol and a range of destination ports, both ends included.
// For protocols without ports First and Last are 0 and 65535.
type Ports struct {
	Proto Proto  `json:"proto"`
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Set is what may stand at one end of a rule. The zero Set matches nothing.
// Roles match nodes by membership; Prefixes match only addresses that are no node's own (behind a subnet router).
type Set struct {
	Roles    []RoleID       `json:"roles,omitempty"`
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
}

// Rule allows flows from Src to Dst on Ports. The zero Rule allows nothing.
type Rule struct {
	Ref   Ref     `json:"ref"`
	Src   Set     `json:"src"`
	Dst   Set     `json:"dst"`
	Ports []Ports `json:"ports"`
	// SameOwner additionally demands that both ends are untagged nodes of one owner (autogroup:self).
	SameOwner bool `json:"sameOwner,omitempty"`
	// Until is when the rule ends, in Unix milliseconds; 0 never ends.
	Until int64 `json:"until,omitempty"`
	// Restrictions must all hold. A kind this build does not know never holds, so a newer policy is never read too widely.
	Restrictions []Restriction `json:"restrictions,omitempty"`
}

// Restriction is one further condition on a rule. No kind is defined yet: every one present makes its rule allow nothing.
type Restriction struct {
	Kind  string `json:"kind"`
	Value string `json:"value,omitempty"`
}

// Subject is a node as rules see it.
type Subject struct {
	Node      NodeID         `json:"node"`
	Owner     UserID         `json:"owner,omitempty"` // empty when tagged
	Addresses []netip.Addr   `json:"addresses"`
	Routes    []netip.Prefix `json:"routes,omitempty"`
	Roles     []RoleID       `json:"roles,omitempty"`
}

// Ruleset is the compiled form: it goes over the wire, into the filter and into explanations. The zero Ruleset allows nothing.
// It is read-only once made and then safe for concurrent use.
type Ruleset struct {
	Rules    []Rule
	Subjects []Subject
}

// Flow is a question: may Src open a flow to Dst?
type Flow struct {
	Src, Dst netip.Addr // 4-byte or 16-byte, never IPv4-mapped, no zone
	Proto    Proto
	Port     uint16 // destination port; 0 for protocols without ports
}

// Decision answers a Flow. The zero Decision is a refusal.
type Decision struct {
	Allow  bool
	Rule   *Rule     // the first rule in file order that allows; nil on refusal
	Until  time.Time // when the last of the allowing rules ends; zero when one of them never does
	Reason string    // on refusal: what is missing, in words
}
