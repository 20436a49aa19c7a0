package filter

import "picket.internal/wgtun/packet"

// Reason is why a packet was refused. The zero Reason belongs to packets that pass.
type Reason uint8

// The reasons. Those of packets that cannot be read follow after the last one here.
const (
	ReasonNone          Reason = iota
	ReasonNoPolicy             // nothing was ever put in force
	ReasonLease                // the lease has ended
	ReasonMulticast            // multicast or broadcast destination
	ReasonAddress              // loopback, link-local, unspecified, mapped or reserved address
	ReasonNotOurs              // our end of the packet is neither this node's address nor a route of its own
	ReasonUnknownPeer          // the far end belongs to no peer
	ReasonDeparting            // the far end's node is leaving, or its address is changing hands
	ReasonNoRule               // no rule allows the flow
	ReasonDenied               // a deny refuses the flow
	ReasonNoFlow               // belongs to no live flow and cannot open one
	ReasonCut                  // belongs to a flow that was cut
	ReasonFlowsFull            // flow table, or the peer's share of it, is full
	ReasonTCPFlags             // no combination of TCP flags that may stand here
	ReasonTCPWindow            // TCP segment out of window, or acknowledging what was never sent
	ReasonTCPOpen              // TCP simultaneous open
	ReasonTCPClosed            // TCP connection was reset
	ReasonICMPType             // ICMP message of a kind that is never let through
	ReasonICMPQuote            // ICMP error whose quote is of no live flow, or malformed
	ReasonFragment             // fragment without an admitted first fragment
	ReasonFragmentClash        // overlapping fragments, or ones that disagree about the whole
	ReasonFragmentsFull        // fragment table, or the peer's share of it, is full
	numFilterReasons
	numReasons = numFilterReasons + Reason(packet.NumFaults)
)

var reasonNames = [numFilterReasons]string{
	"", "no-policy", "lease", "multicast", "address", "not-ours", "unknown-peer", "departing", "no-rule", "deny", "no-flow", "cut", "flows-full",
	"tcp-flags", "tcp-window", "tcp-open", "tcp-closed", "icmp-type", "icmp-quote", "fragment", "fragment-clash", "fragments-full",
}

func reasonOfFault(f packet.Fault) Reason { return numFilterReasons + Reason(f) }

// String is the short stable name that counters use; empty for the zero Reason.
func (r Reason) String() string {
	if r < numFilterReasons {
		return reasonNames[r]
	}
	return packet.Fault(r - numFilterReasons).String()
}

// reasonWords say the same to people, after "refused: ".
var reasonWords = [numFilterReasons]string{
	ReasonNoPolicy:      "no policy is in force here",
	ReasonLease:         "the lease has ended: the coordinator was not reached in time",
	ReasonMulticast:     "it goes to a multicast or broadcast address",
	ReasonAddress:       "its address is loopback, link-local, unspecified or reserved",
	ReasonNotOurs:       "its address at this end is not this node's, nor in a route of it",
	ReasonUnknownPeer:   "its address at the far end belongs to no peer",
	ReasonDeparting:     "the node at the far end is leaving, or its address changes hands",
	ReasonNoRule:        "no rule allows it",
	ReasonDenied:        "a deny of the policy refuses it",
	ReasonNoFlow:        "it belongs to no live flow and opens none",
	ReasonCut:           "its flow was cut",
	ReasonFlowsFull:     "the flow table, or the peer's share of it, is full",
	ReasonTCPFlags:      "its TCP flags cannot stand together here",
	ReasonTCPWindow:     "it lies outside the TCP window",
	ReasonTCPOpen:       "both ends open the TCP connection at once",
	ReasonTCPClosed:     "its TCP connection was reset",
	ReasonICMPType:      "ICMP messages of its kind are never let through",
	ReasonICMPQuote:     "it is an ICMP error about no live flow",
	ReasonFragment:      "it is a fragment without an admitted first one",
	ReasonFragmentClash: "its fragments overlap or contradict each other",
	ReasonFragmentsFull: "the fragment table, or the peer's share of it, is full",
}

// Words are a clause for people, "no rule allows it"; empty for the zero Reason.
func (r Reason) Words() string {
	if r < numFilterReasons {
		return reasonWords[r]
	}
	return "the packet is malformed (" + r.String() + ")"
}

// answered tells whether a refusal at egress is answered at once: where an honest local program waits for something it will not get.
// Malformed and spoofed packets are not answered.
func (r Reason) answered() bool {
	switch r {
	case ReasonNoPolicy, ReasonLease, ReasonUnknownPeer, ReasonDeparting, ReasonNoRule, ReasonDenied, ReasonNoFlow, ReasonCut, ReasonFlowsFull:
		return true
	}
	return false
}
