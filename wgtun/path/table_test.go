package path

import (
	"testing"
	"time"

	"picket.internal/wgtun/key"
)

// Whoever has not proved an address displaces nobody there, however many have; who proves it comes in.
func TestUnprovedClaimDisplacesNobody(t *testing.T) {
	table := newTable()
	claim := func(name byte, proved bool) bool {
		p := &peer{tunnel: key.TunnelPublic{name}}
		_, ok := table.bind(at(addrX), p, &Endpoint{tunnel: p.tunnel, from: at(addrX)}, proved, time.Hour)
		return ok
	}
	for name := range byte(maxClaims) {
		if !claim(name+1, true) {
			t.Fatalf("claim %d is refused", name+1)
		}
	}
	if claim(100, false) {
		t.Error("one more claim without proof is taken")
	}
	if n := len(table.bindings[at(addrX)].claims); n != maxClaims || table.bindings[at(addrX)].claims[n-1].peer.tunnel[0] != 1 {
		t.Errorf("%d claims, the first one is not there any more", n)
	}
	if !claim(101, true) {
		t.Error("a proved claim is refused")
	}
	if _, first := table.claimant(at(addrX), 0); first.peer.tunnel[0] != 101 {
		t.Error("a claim just proved is not the first")
	}
}
