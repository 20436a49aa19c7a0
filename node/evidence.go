package node

import (
	"fmt"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/filter"
)

// warnBypass is how long a peer that was caught is named in the status.
const warnBypass = 10 * time.Minute

// bypass is what one peer was caught at: it sent what its own filter must refuse (DESIGN.md section 6, rule 8).
type bypass struct {
	count   uint64
	example string
	last    time.Time // by this host's clock
}

// tellEvidence tells the coordinator what peers were caught at since it was last called. Without a session it stays in the filter.
func (n *Node) tellEvidence() {
	for node, b := range n.map_.caught {
		if time.Since(b.last) > warnBypass {
			delete(n.map_.caught, node)
		}
	}
	if n.overlay == nil || n.session == nil {
		return
	}
	for _, e := range n.overlay.overlay.TakeEvidence() {
		if n.map_.caught == nil {
			n.map_.caught = make(map[acl.NodeID]bypass)
		}
		b := bypass{count: n.map_.caught[e.Node].count + e.Count, example: exampleOf(e), last: time.Now()}
		n.map_.caught[e.Node] = b
		n.log.Warn("a peer sends what its own filter must refuse", "peer", e.Node, "count", e.Count, "example", b.example)
		n.session.session.Evidence(protocol.Evidence{Kind: "egress-bypass", Peer: e.Node, Count: e.Count, Flow: b.example})
	}
}

func exampleOf(e filter.Evidence) string {
	text := fmt.Sprintf("%s -> %s %s", e.Example.Src, e.Example.Dst, e.Example.Proto)
	if e.Example.Proto.HasPorts() {
		text += fmt.Sprintf("/%d", e.Example.Port)
	}
	return text
}

// sentence is for the status.
func (b bypass) sentence(name string) string {
	return fmt.Sprintf("the peer %s sends what its own filter must refuse (egress-bypass), %d packets so far, e.g. %s: none has passed; tell the coordinator's operator",
		name, b.count, b.example)
}
