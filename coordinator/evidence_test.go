package coordinator

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"picket.internal/acl"
)

// A peer that is at it all the time keeps no other's evidence out of the log, and numbers stay with whom they are of.
func TestEvidenceOfSeveralPeers(t *testing.T) {
	b := &budget{evidence: rate.NewLimiter(0, 1)}
	b.evidence.Allow()
	for range 10 {
		b.countEvidence(unsaid{"loud", 100, "x"})
		b.countEvidence(unsaid{"quiet", 1, "y"})
	}
	b.evidence = rate.NewLimiter(rate.Inf, 0)
	for _, want := range []unsaid{{"loud", 1100, "x"}, {"quiet", 10, "y"}, {"loud", 200, "x"}} {
		if got, ok := b.countEvidence(unsaid{"loud", 100, "x"}); !ok || got != want {
			t.Errorf("recorded %v, want %v", got, want)
		}
	}
	b.evidence = rate.NewLimiter(0, 0)
	var all accused
	for i := range maxAccused + 10 {
		id := acl.NodeID(fmt.Sprint(i))
		b.countEvidence(unsaid{id, 1, ""})
		all.note(id, Accusation{At: time.Unix(int64(i), 0)})
	}
	if len(b.unsaid) > maxUnsaid || len(all.byNode) > maxAccused || all.of("0") != nil || all.of(acl.NodeID(fmt.Sprint(maxAccused+9))) == nil {
		t.Errorf("%d peers wait, %d nodes are accused", len(b.unsaid), len(all.byNode))
	}
}
