package filter

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// FuzzBatch gives one filter packets by the batch and another one by one: opened and known flows, refused and broken packets, fragments and
// errors, in any order. The verdicts and what is counted must be the same.
func FuzzBatch(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		m := maker{rand.New(rand.NewPCG(seed, 5))}
		rules := []acl.Rule{inRule(udpPort(53), tcpPort(80), whole4(acl.ICMP)), outRule(udpPort(53))}
		batched, single := newFilter(t, rules...), newFilter(t, rules...)
		for range 20 {
			pkts := make([][]byte, 1+m.IntN(BatchSize))
			for i := range pkts {
				pkts[i] = m.anyInbound()
			}
			before := fmt.Sprint(pkts)
			var verdicts [BatchSize]Verdict
			batched.IngressBatch(pkts, 3, verdicts[:])
			for i, b := range pkts {
				if want := single.Ingress(b[min(3, len(b)):]); verdicts[i] != want.Verdict {
					t.Fatalf("packet %d of %d, % x: %d in a batch, alone %v", i, len(pkts), b, verdicts[i], want)
				}
			}
			if fmt.Sprint(pkts) != before {
				t.Fatal("a packet was changed")
			}
		}
		if got, want := fmt.Sprint(batched.Stats()), fmt.Sprint(single.Stats()); got != want {
			t.Errorf("%s in batches, one by one %s", got, want)
		}
	})
}

// anyInbound is a packet from alice behind three bytes, seldom whole.
func (m maker) anyInbound() []byte {
	port := uint16(5000 + m.IntN(3))
	syn := seg{from: at(alice4, port), to: at(self4, 80), seq: 1, flags: fSYN}
	data := seg{from: at(alice4, port), to: at(self4, 80), seq: 2, ack: 1, flags: fACK, data: m.IntN(9)}
	b := pick(m, [][]byte{
		syn.bytes(), data.bytes(), udp(at(alice4, port), at(self4, 53), 8), udp(at(alice6, port), at(self6, 53), 8), udp(at(alice4, port), at(self4, 54), 8),
		echo(alice4, self4, port, false), unreachable(alice4, self4, udp(at(self4, 5000), at(alice4, 53), 9)),
		newDatagram(alice4, self4, port, 100).piece(0, 32), newDatagram(alice4, self4, port, 100).piece(32, 64), {},
	})
	if m.IntN(8) == 0 && len(b) > 0 {
		b = b[:m.IntN(len(b))]
	}
	if m.IntN(16) == 0 {
		return make([]byte, m.IntN(3)) // shorter than what is in front of a packet
	}
	return append([]byte{9, 9, 9}, b...)
}

func TestBatchAllocatesNothing(t *testing.T) {
	f := newFilter(t, inRule(udpPort(53)))
	pkts := slices.Repeat([][]byte{udp(at(alice4, 5000), at(self4, 53), 1)}, BatchSize)
	var verdicts [BatchSize]Verdict
	f.IngressBatch(pkts, 0, verdicts[:])
	if n := testing.AllocsPerRun(100, func() { f.IngressBatch(pkts, 0, verdicts[:]) }); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

// What the kernel hands over as one is counted as the packets that it is cut into, each with headers of its own.
func TestSegmentsAreCounted(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80), udpPort(53)))
	c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
	flow := func() Flow { return f.Flows()[0] }
	before, passed := flow(), f.Stats().EgressPassed
	for range 3 {
		passes(t, "32 segments", f.EgressCut(c.outward(fACK, 3200).bytes(), 32))
		c.snd += 3200
	}
	after := flow()
	if packets, bytes := after.Packets-before.Packets, after.Bytes-before.Bytes; packets != 96 || bytes != 96*(100+40) {
		t.Errorf("%d packets of %d bytes were counted", packets, bytes)
	}
	if got := f.Stats().EgressPassed - passed; got != 96 {
		t.Errorf("%d packets passed", got)
	}
	refused(t, "more at once", f.EgressCut(udp(at(self4, 5000), at(alice4, 54), 100), 4), ReasonNoRule)
	if got := f.Stats().EgressDenied[ReasonNoRule.String()]; got != 1 {
		t.Errorf("%d packets refused, of one that was never cut", got)
	}
	var v packet.View
	v.Parse(udp(at(self6, 5000), at(alice6, 53), 300))
	v.CutInto(3)
	if got := v.SegmentsLen(); got != 300+3*48 {
		t.Errorf("three datagrams over IPv6 have %d bytes", got)
	}
}

// A flow that is only ever sent by the batch must see its deadline, too.
func TestSegmentsReadTheClock(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80)))
	c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
	const past = -int64(time.Second)
	f.clock.coarse.Store(past)
	for range 2 {
		passes(t, "32 segments", f.EgressCut(c.outward(fACK, 32).bytes(), ticksPerRead))
	}
	if f.clock.coarse.Load() == past {
		t.Error("the clock was not read in 64 segments")
	}
}

// BenchmarkBatch is BenchmarkKnownFlow by the batch.
func BenchmarkBatch(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		f, segments := manyFlows(b, n)
		segments = segments[:n/BatchSize*BatchSize]
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var verdicts [BatchSize]Verdict
			for i, left := 0, b.N; left > 0; left -= BatchSize {
				f.judgeBatch(segments[i:i+BatchSize], 0, egress, verdicts[:])
				if i += BatchSize; i == len(segments) {
					i = 0
				}
			}
		})
	}
}

// BenchmarkSwapStall swaps policies with 100,000 live flows while their packets go on, and tells the longest that one of them took.
func BenchmarkSwapStall(b *testing.B) {
	f, segments := manyFlows(b, 100_000)
	keep := &Policy{Generation: 1, Self: "self", Rules: f.rules.Load().sets[0].source, NotAfter: time.Now().Add(time.Hour)}
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for i := 0; ; i++ {
			select {
			case <-stop:
				longest <- most
				return
			default:
			}
			start := time.Now()
			f.Egress(segments[i%len(segments)])
			most = max(most, time.Since(start))
		}
	}()
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		f.Swap(keep)
		took = append(took, time.Since(start))
	}
	close(stop)
	slices.Sort(took)
	b.ReportMetric(float64((<-longest).Microseconds())/1000, "stall-ms")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
