package node

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/path"
)

// A reflector that answered a while ago, and does not now, has not answered: UDP may be blocked since.
func TestOldReflectionsAreNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := netip.MustParseAddrPort("203.0.113.1:1")
		o := &fakeOverlay{mirrors: []path.Reflection{
			{Reflector: netip.MustParseAddrPort("192.0.2.1:3478"), Seen: seen, Latency: time.Millisecond, Age: time.Minute},
			{Reflector: netip.MustParseAddrPort("192.0.2.1:3479"), Seen: seen, Latency: time.Millisecond},
		}}
		got := askReflectors(t.Context(), o)
		if got[0].Seen.IsValid() || got[0].Latency != 0 || got[1].Seen != seen {
			t.Errorf("%+v", got)
		}
	})
}
