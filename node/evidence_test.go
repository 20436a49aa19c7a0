package node

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/filter"
)

// TestEvidenceIsToldOnce has the tunnel catch a peer: the coordinator hears of it within a few seconds, and the status names the peer for a while.
func TestEvidenceIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		mallory := newPeer("mallory", "100.64.0.2")
		w.send(w.signed(1, content(mallory.entry())))
		caught := filter.Evidence{Node: "mallory", Count: 3, Example: acl.Flow{Src: addrs("100.64.0.2")[0], Dst: addrs("100.64.0.1")[0], Proto: acl.TCP, Port: 23}}
		w.overlay().mu.Lock()
		w.overlay().caught = []filter.Evidence{caught}
		w.overlay().mu.Unlock()
		time.Sleep(2 * retryEvery)
		synctest.Wait()
		want := []protocol.Evidence{{Kind: "egress-bypass", Peer: "mallory", Count: 3, Flow: "100.64.0.2 -> 100.64.0.1 tcp/23"}}
		if got := w.session().evidence; !slices.Equal(got, want) {
			t.Errorf("told %+v, want %+v", got, want)
		}
		named := func() bool {
			return slices.ContainsFunc(w.status().Warnings, func(s string) bool {
				return strings.Contains(s, "mallory") && strings.Contains(s, "egress-bypass") && strings.Contains(s, "3 packets")
			})
		}
		if !named() {
			t.Errorf("the status warns of %q only", w.status().Warnings)
		}
		time.Sleep(warnBypass + 2*retryEvery)
		if named() {
			t.Error("the status warns of it for ever")
		}
	})
}
