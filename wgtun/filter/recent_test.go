package filter

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRecentListsTheLatestOfWhatIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(udpPort(53), udpPort(54)))
		for i := range uint16(300) {
			f.Egress(udp(at(self4, 1000+i), at(alice4, 53+i%2), 1))
			advance(f, time.Millisecond)
		}
		r := f.Recent(10, func(fl *Flow) bool { return fl.Dst.Port() == 53 })
		if len(r.Flows) != 10 || r.Matched != 150 || r.Total != 300 {
			t.Fatalf("%d flows of %d of %d", len(r.Flows), r.Matched, r.Total)
		}
		for i, fl := range r.Flows {
			if want := 1298 - 2*uint16(i); fl.Src.Port() != want || fl.Peer != "alice" {
				t.Errorf("flow %d: %+v, want that from port %d", i, fl, want)
			}
		}
		f.Swap(policyOf())
		if r := f.Recent(10, func(*Flow) bool { return true }); r.Total != 0 || len(r.Flows) != 0 {
			t.Errorf("cut flows are listed: %+v", r)
		}
	})
}

func BenchmarkRecent(b *testing.B) {
	f, _ := manyFlows(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		if r := f.Recent(1000, func(*Flow) bool { return true }); r.Total < 90_000 {
			b.Fatal(r.Total)
		}
	}
}
