// Package filter turns compiled rules and a table of live flows into a verdict for each packet.
package filter

import (
	"net/netip"
	"time"

	"picket.internal/acl"
)

// Verdict is what becomes of a packet. The zero Verdict is a refusal.
type Verdict uint8

// The verdicts.
const (
	Drop   Verdict = iota // refuse silently, counted
	Reject                // refuse, and answer the local sender at once (egress only): see AppendReject
	Pass
)

// Reason is why a packet was refused. The zero Reason belongs to packets that pass.
type Reason uint8

// Policy is what the filter enforces from one Swap to the next. The zero Policy refuses everything.
type Policy struct {
	Generation uint64
	Self       acl.NodeID
	Rules      *acl.Ruleset
	NotAfter   time.Time // end of the lease, carrying a monotonic reading; at and after it nothing passes
}

// Result is a verdict with what explains it.
type Result struct {
	Verdict Verdict
	Reason  Reason
}

// Flow describes one live flow, for people.
type Flow struct {
	Src, Dst         netip.AddrPort // of the opening packet; ICMP echo has its id as source port and 0 as destination port
	Proto            acl.Proto
	Out              bool // opened by this node
	Rule             acl.Ref
	Opened, LastSeen time.Time
	Until            time.Time // zero when nothing but the lease ends it
	Packets, Bytes   uint64
}

// Cut is a flow that was ended by a change of rules, a deadline or the lease.
type Cut struct {
	Flow       Flow
	Generation uint64 // in force when it was cut
	Cause      string // "policy", "deadline", "lease"
	// Reset is a TCP reset (whole IP packet) for the local end, nil for other protocols.
	Reset []byte
}

// Filter holds the rules in force and the flow table. Egress and Ingress are safe for concurrent use with everything else.
type Filter struct{}

// New returns a filter that refuses everything.
func New() *Filter { panic("unimplemented") }

// Swap puts p in force, re-judges every live flow, and returns those that were cut.
func (f *Filter) Swap(p *Policy) []Cut { panic("unimplemented") }

// Egress judges an IP packet that the local host sends into the overlay. It keeps no reference to pkt and does not change it.
func (f *Filter) Egress(pkt []byte) Result { panic("unimplemented") }

// Ingress judges a decrypted IP packet from a peer. It keeps no reference to pkt and does not change it.
func (f *Filter) Ingress(pkt []byte) Result { panic("unimplemented") }

// AppendReject appends to dst the packet that tells the sender of the refused egress packet pkt so at once (TCP reset or
// ICMP administratively prohibited), ready to be handed to the local host; it appends nothing where no answer may be given
// (ICMP errors, fragments but the first, multicast), or the answer budget is spent.
func (f *Filter) AppendReject(dst, pkt []byte) []byte { panic("unimplemented") }

// Sweep forgets idle flows and cuts those whose deadline, or the lease, has passed. Call it at least every 100 ms.
func (f *Filter) Sweep() []Cut { panic("unimplemented") }

// Flows lists the live flows.
func (f *Filter) Flows() []Flow { panic("unimplemented") }

// Stats counts packets since New.
type Stats struct {
	EgressPassed, IngressPassed uint64
	EgressDenied, IngressDenied map[string]uint64 // by reason
	Flows                       int
	FlowTableFull               uint64
}

// Stats returns a snapshot.
func (f *Filter) Stats() Stats { panic("unimplemented") }

// String is the short name the counters use.
func (r Reason) String() string { panic("unimplemented") }
