package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"picket.internal/acl"
)

const (
	// maxUnsaid bounds the peers whom one node's evidence waits to be recorded of.
	maxUnsaid = 64
	// maxAccused bounds the nodes that evidence is shown of; the one accused longest ago is forgotten first.
	maxAccused = 4096
)

// Accusation is the newest evidence against a node: another says that it sends what its own filter must refuse. It is one node's word. The audit
// log has every accusation; this one is forgotten when the coordinator ends.
type Accusation struct {
	By   string    `json:"by"`   // name of the node that says so
	Flow string    `json:"flow"` // one example
	At   time.Time `json:"at"`
}

// accused is the newest accusation of each node.
type accused struct {
	mu     sync.Mutex
	byNode map[acl.NodeID]Accusation
}

func (a *accused) note(id acl.NodeID, said Accusation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byNode == nil {
		a.byNode = make(map[acl.NodeID]Accusation)
	}
	a.byNode[id] = said
	if len(a.byNode) <= maxAccused {
		return
	}
	oldest := id
	for other, s := range a.byNode {
		if s.At.Before(a.byNode[oldest].At) {
			oldest = other
		}
	}
	delete(a.byNode, oldest)
}

// of is the newest accusation of a node, nil when there is none.
func (a *accused) of(id acl.NodeID) *Accusation {
	a.mu.Lock()
	defer a.mu.Unlock()
	if said, ok := a.byNode[id]; ok {
		return &said
	}
	return nil
}

// unsaid is evidence that is counted but not recorded yet.
type unsaid struct {
	peer  acl.NodeID
	count uint64
	flow  string
}

// countEvidence adds to what is unsaid of a peer. When something may be recorded now, it is what has waited longest: a peer that is at it all
// the time must not keep another's evidence out of the log.
func (b *budget) countEvidence(e unsaid) (unsaid, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.unsaid, func(u unsaid) bool { return u.peer == e.peer })
	switch {
	case i >= 0:
		b.unsaid[i].count += e.count
	case len(b.unsaid) < maxUnsaid:
		b.unsaid = append(b.unsaid, e)
	}
	if !b.evidence.Allow() {
		return unsaid{}, false
	}
	first := b.unsaid[0]
	b.unsaid = slices.Delete(b.unsaid, 0, 1)
	return first, true
}

// describeEvidence is the audit log's sentence. A node without a session may follow older rules in good faith, within its lease.
func (c *Coordinator) describeEvidence(n *NodeRow, kind string, e unsaid) string {
	name := "a node that is gone"
	aside := ""
	if n != nil {
		name = n.Name
		if _, online := c.presenceOf(n); !online {
			aside = "; it has no session and may hold older rules"
		}
	}
	return fmt.Sprintf("%s by %s, %d packets, e.g. %s%s", kind, name, e.count, cmp.Or(oneLine(e.flow, 200), "-"), aside)
}
