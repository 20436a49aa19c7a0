package localapi

import (
	"net/netip"
	"time"

	"picket.internal/acl"
)

// Bounds of one answer, and of one captured packet, in bytes. What is more is left out, and said.
const (
	MaxListed  = 10_000
	MaxSnaplen = 65_535
)

// Endpoint is one end of a flow or packet. Without Node, Address is no peer's; without Address, the packet cannot be read.
type Endpoint struct {
	Node    acl.NodeID `json:"node,omitempty"`
	Name    string     `json:"name,omitempty"`
	Owner   string     `json:"owner,omitempty"`
	Tags    []string   `json:"tags,omitempty"`
	Address netip.Addr `json:"address,omitzero"`
	Port    uint16     `json:"port,omitempty"`   // 0 where there is none, or where packets to many are counted as one
	Routed  bool       `json:"routed,omitempty"` // Address lies behind the node
}

// AskFlows asks for the live flows that were used last.
type AskFlows struct {
	Selection Selection `json:"selection,omitzero"`
	Limit     int       `json:"limit"` // 1 to MaxListed
}

// Flow is a line of `picket flows`.
type Flow struct {
	Src      Endpoint  `json:"src"` // who opened it
	Dst      Endpoint  `json:"dst"`
	Proto    string    `json:"proto"`
	Out      bool      `json:"out"`             // opened by this node
	Rule     string    `json:"rule"`            // that allows it: "grants[0], line 4"
	Opened   time.Time `json:"opened"`          // by this host's clock, as all times here
	LastSeen time.Time `json:"lastSeen"`        // when a packet last passed
	Until    time.Time `json:"until,omitzero"`  // when it is judged again; zero when nothing but the lease ends it
	Packets  uint64    `json:"packets"`         // both ways
	Bytes    uint64    `json:"bytes,omitempty"` // of IP, both ways
}

// FlowTotals say how many there are.
type FlowTotals struct {
	Matched int `json:"matched"` // of those asked for, also those left out
	Total   int `json:"total"`
}

// Flows are most recent first.
type Flows struct {
	FlowTotals
	List []Flow `json:"flows"`
}

// AskDenials asks for refused packets.
type AskDenials struct {
	Selection Selection `json:"selection,omitzero"`
	After     uint64    `json:"after,omitempty"` // only what was added to since an answer with this Seq
	Limit     int       `json:"limit"`           // 1 to MaxListed
}

// Denial is a line of `picket denials`: packets that were refused alike.
type Denial struct {
	Src    Endpoint  `json:"src"`
	Dst    Endpoint  `json:"dst"`
	Proto  string    `json:"proto,omitempty"`
	Out    bool      `json:"out"`              // sent by this node
	Reason string    `json:"reason"`           // a word, as in Status.Denied
	Words  string    `json:"words"`            // a clause: "no rule allows it"
	Rule   string    `json:"rule,omitempty"`   // the deny that refuses: "denies[0], line 12"
	Bypass bool      `json:"bypass,omitempty"` // by the same rules the peer would have refused it itself
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Count  uint64    `json:"count"` // packets
}

// DenialTotals say how many there are.
type DenialTotals struct {
	Matched  int    `json:"matched"`            // records asked for, also those left out
	Packets  uint64 `json:"packets"`            // refused in all since the tunnel was opened
	Unlisted uint64 `json:"unlisted,omitempty"` // of these, packets whose records made room for later ones
	Seq      uint64 `json:"seq"`                // for AskDenials.After
}

// Denials are most recent first.
type Denials struct {
	DenialTotals
	List []Denial `json:"denials"`
}

// AskCapture asks for packets as the filter judges them.
type AskCapture struct {
	Selection Selection     `json:"selection,omitzero"`
	Allowed   bool          `json:"allowed"` // packets that pass
	Denied    bool          `json:"denied"`  // packets that are refused; one of both must be set
	Snaplen   int           `json:"snaplen"` // bytes of each packet, 1 to MaxSnaplen
	Count     uint64        `json:"count,omitempty"`
	Duration  time.Duration `json:"duration,omitempty"` // 0, as in Count, sets no end
}

// CaptureEvent is one line of the answer to AskCapture: exactly one field is set. The first has Start, and the last End.
type CaptureEvent struct {
	Start  *CaptureStart `json:"start,omitempty"`
	Packet *Packet       `json:"packet,omitempty"`
	End    *CaptureEnd   `json:"end,omitempty"`
}

// CaptureStart says that packets are watched from now on.
type CaptureStart struct {
	Interface string    `json:"interface,omitempty"` // of this host; empty when there is none
	Version   string    `json:"version"`             // of the agent
	At        time.Time `json:"at"`
}

// Packet is one packet.
type Packet struct {
	At      time.Time `json:"at"`
	Out     bool      `json:"out"`
	Allow   bool      `json:"allow"`
	Reason  string    `json:"reason,omitempty"`
	Words   string    `json:"words,omitempty"`
	Rule    string    `json:"rule,omitempty"` // the rule that admitted its flow, or the deny that refuses it
	Src     Endpoint  `json:"src"`
	Dst     Endpoint  `json:"dst"`
	Proto   string    `json:"proto,omitempty"`
	Length  int       `json:"length"`            // of the whole packet
	Data    []byte    `json:"data"`              // its beginning, from the IP header on
	Dropped uint64    `json:"dropped,omitempty"` // packets dropped from the capture until right after this one
}

// CaptureEnd sums up.
type CaptureEnd struct {
	At      time.Time `json:"at"`
	Matched uint64    `json:"matched"`       // packets that were asked for
	Dropped uint64    `json:"dropped"`       // of these, not handed over because they were not read fast enough
	Why     string    `json:"why,omitempty"` // one sentence when it was not the asker who ended it
}
