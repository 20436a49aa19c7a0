package filter

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestEvidenceIsProof has alice send what a correct peer may well send: while a change of rules reaches her, around a deadline, and answers
// that come late.
func TestEvidenceIsProof(t *testing.T) {
	scan := udp(at(alice4, 5000), at(self4, 53), 1)
	caught := func(f *Filter) (n uint64) {
		for _, e := range f.TakeEvidence() {
			n += e.Count
		}
		return n
	}
	for _, tt := range []struct {
		name string
		run  func(f *Filter)
		want uint64
	}{
		{"always refused", func(f *Filter) { advance(f, settling) }, 1},
		{"this filter is new", func(f *Filter) {}, 0},
		{"allowed until now", func(f *Filter) {
			f.Swap(policyOf(inRule(udpPort(53))))
			advance(f, settling)
			f.Swap(policyOf())
		}, 0},
		{"allowed until some changes ago", func(f *Filter) {
			f.Swap(policyOf(inRule(udpPort(53))))
			advance(f, settling)
			for range maxRulings - 1 {
				f.Swap(policyOf())
				advance(f, 100*time.Millisecond)
			}
		}, 0},
		{"too many changes to tell", func(f *Filter) {
			advance(f, settling)
			for range maxRulings {
				f.Swap(policyOf())
			}
		}, 0},
		{"some changes that did not touch it", func(f *Filter) {
			advance(f, settling)
			for range maxRulings - 1 {
				f.Swap(policyOf(inRule(tcpPort(22))))
			}
		}, 1},
		{"allowed until 5 s ago", func(f *Filter) {
			f.Swap(policyOf(inRule(udpPort(53))))
			f.Swap(policyOf())
			advance(f, settling)
		}, 1},
		{"after its deadline", func(f *Filter) {
			rule := inRule(udpPort(53))
			rule.Until = time.Now().Add(10 * time.Second).UnixMilli()
			f.Swap(policyOf(rule))
			advance(f, 11*time.Second)
		}, 0},
		{"long after its deadline", func(f *Filter) {
			rule := inRule(udpPort(53))
			rule.Until = time.Now().Add(10 * time.Second).UnixMilli()
			f.Swap(policyOf(rule))
			advance(f, 16*time.Second)
		}, 1},
		{"a late answer", func(f *Filter) {
			f.Swap(policyOf(outRule(udpPort(5000))))
			advance(f, settling)
		}, 0},
		{"an answer from a port that is not asked", func(f *Filter) {
			f.Swap(policyOf(outRule(udpPort(5001), tcpPort(5000))))
			advance(f, settling)
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFilter(t)
				tt.run(f)
				refused(t, "the packet", f.Ingress(scan), ReasonNoRule)
				if got := caught(f); got != tt.want {
					t.Errorf("%d packets are evidence, want %d", got, tt.want)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(tcpPort(5000)))
		advance(f, settling)
		refused(t, "a SYN", f.Ingress(seg{from: at(alice4, 5000), to: at(self4, 53), flags: fSYN}.bytes()), ReasonNoRule)
		if caught(f) != 1 {
			t.Error("a SYN, which answers nothing, is no evidence")
		}
		for range 3 * maxRulings {
			f.Swap(policyOf())
		}
		kept := func() (n int) {
			for r := f.rules.Load(); r != nil; r = r.before.Load() {
				n++
			}
			return n
		}
		if n := kept(); n > maxRulings {
			t.Errorf("%d rulings are kept", n)
		}
		advance(f, settling)
		if n := kept(); n != 1 {
			t.Errorf("%d rulings are kept once the rules have settled", n)
		}
	})
}
