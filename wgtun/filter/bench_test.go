package filter

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

func TestKnownFlowAllocatesNothing(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80), udpPort(53), whole4(acl.ICMP)))
	c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
	c6 := dial(t, f, at(self6, 40000), at(alice6, 80), true)
	dgram, ping := udp(at(self4, 5000), at(alice4, 53), 1), echo(self4, alice4, 7, false)
	f.Egress(dgram)
	f.Egress(ping)
	for name, pkt := range map[string][]byte{
		"TCP": c.outward(fACK, 100).bytes(), "TCP over IPv6": c6.outward(fACK, 100).bytes(), "UDP": dgram, "echo": ping,
		"ICMP error": unreachable(self4, alice4, c.inward(fACK, 0).bytes()), "refused": udp(at(self4, 5000), at(alice4, 54), 1),
		"malformed": {0x45},
	} {
		if n := testing.AllocsPerRun(100, func() { f.Egress(pkt) }); n != 0 {
			t.Errorf("%s: %v allocations a packet", name, n)
		}
	}
	buf := make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(100, func() { f.AppendReject(buf, dgram) }); n != 0 {
		t.Errorf("AppendReject: %v allocations", n)
	}
}

// A flow is all that a packet of it writes, and a look at its key fetches the whole of it.
func TestFlowFillsTwoCacheLines(t *testing.T) {
	const line = 64
	var fl flow
	first, last := unsafe.Offsetof(fl.k), unsafe.Offsetof(fl.k)+unsafe.Sizeof(fl.k)-1
	if size := unsafe.Sizeof(fl); size != 2*line || first/line != 0 || last/line != 1 {
		t.Errorf("a flow takes %d bytes, its key is at %d to %d", size, first, last)
	}
	if size := unsafe.Sizeof(shard{}); size%line != 0 || unsafe.Offsetof(shard{}.mu) != line {
		t.Errorf("a shard takes %d bytes, its lock is at %d", size, unsafe.Offsetof(shard{}.mu))
	}
}

// manyFlows returns a filter with n established connections, and a segment of each.
func manyFlows(b testing.TB, n int) (*Filter, [][]byte) {
	f := New()
	any := acl.Rule{Src: roles(roleAny), Dst: roles(roleAny), Ports: []acl.Ports{whole4(acl.TCP)}}
	p := policyOf(any)
	// Several peers, each within its share of the table.
	for i := range 8 {
		p.Rules.Subjects = append(p.Rules.Subjects, acl.Subject{Node: acl.NodeID(fmt.Sprint("n", i)), Roles: []acl.RoleID{roleAny},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 1, byte(i)})}})
	}
	f.Swap(p)
	segments := make([][]byte, n)
	for i := range n {
		local, remote := at(self4, uint16(1024+i/8)), at(netip.AddrFrom4([4]byte{100, 64, 1, byte(i % 8)}), 80)
		for _, s := range []struct {
			in bool
			s  seg
		}{
			{false, seg{from: local, to: remote, seq: 1, flags: fSYN}},
			{true, seg{from: remote, to: local, seq: 1, ack: 2, flags: fSYN | fACK}},
			{false, seg{from: local, to: remote, seq: 2, ack: 2, flags: fACK}},
		} {
			dir := egress
			if s.in {
				dir = ingress
			}
			if got := f.judge(s.s.bytes(), dir); got.Verdict != Pass {
				b.Fatalf("flow %d: %v", i, got)
			}
		}
		segments[i] = seg{from: local, to: remote, seq: 2, ack: 2, flags: fACK, data: 100}.bytes()
	}
	return f, segments
}

// BenchmarkKnownFlow sends packets of known flows in turn, on one core; and on all of them, where each has its own flows, as a busy node's
// queues have. With a single flow all cores write the same two cache lines, which nothing makes fast.
func BenchmarkKnownFlow(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		f, segments := manyFlows(b, n)
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			judgeAll(b.N, f, segments)
		})
		b.Run(fmt.Sprintf("parallel/flows=%d", n), func(b *testing.B) {
			var workers atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				mine := segments
				if procs := runtime.GOMAXPROCS(0); n > procs {
					i := int(workers.Add(1)-1) % procs
					mine = segments[i*n/procs : (i+1)*n/procs]
				}
				for i := 0; pb.Next(); {
					f.Egress(mine[i])
					if i++; i == len(mine) {
						i = 0
					}
				}
			})
		})
	}
}

func judgeAll(n int, f *Filter, segments [][]byte) {
	for i := 0; n > 0; n-- {
		f.Egress(segments[i])
		if i++; i == len(segments) {
			i = 0
		}
	}
}

// manyRules is a policy of n rules, spread over ports, roles and nodes, of which the last allows alice.
func manyRules(n int) *Policy {
	rules := make([]acl.Rule, 0, n)
	for i := range n - 1 {
		r := outRule(tcpPort(uint16(1000 + i%50000)))
		if i%4 != 0 {
			r.Dst = roles(acl.RoleID(1000 + i))
		}
		rules = append(rules, r)
	}
	return policyOf(append(rules, outRule(tcpPort(80)))...)
}

func BenchmarkNewFlow(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		f := New()
		f.Swap(manyRules(n))
		allowed, refused := seg{from: at(self4, 40000), to: at(alice4, 80), seq: 1, flags: fSYN}.bytes(), udp(at(self4, 5000), at(alice4, 53), 1)
		reset := seg{from: at(self4, 40000), to: at(alice4, 80), seq: 2, flags: fRST}.bytes()
		b.Run(fmt.Sprintf("rules=%d/opened", n), func(b *testing.B) {
			for b.Loop() {
				if f.Egress(allowed).Verdict != Pass || f.Egress(reset).Verdict != Pass {
					b.Fatal("refused")
				}
			}
		})
		b.Run(fmt.Sprintf("rules=%d/refused", n), func(b *testing.B) {
			for b.Loop() {
				f.Egress(refused)
			}
		})
	}
}

func BenchmarkSwap100kFlows(b *testing.B) {
	f, _ := manyFlows(b, 100_000)
	old := f.rules.Load()
	keep := &Policy{Generation: 1, Self: "self", Rules: old.sets[0].source, NotAfter: time.Now().Add(time.Hour)}
	b.Run("keep", func(b *testing.B) {
		for b.Loop() {
			if cuts := f.Swap(keep); len(cuts) != 0 {
				b.Fatal("cut")
			}
		}
	})
	b.Run("sweep", func(b *testing.B) {
		for b.Loop() {
			f.Sweep()
		}
	})
	b.Run("cut", func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			f, _ := manyFlows(b, 100_000)
			b.StartTimer()
			if cuts := f.Swap(policyOf()); len(cuts) != 100_000 {
				b.Fatalf("cut %d", len(cuts))
			}
		}
	})
	b.Run("cut half", func(b *testing.B) {
		var took []time.Duration
		for range b.N {
			b.StopTimer()
			f, _ := manyFlows(b, 100_000)
			p := halfOf(f)
			b.StartTimer()
			start := time.Now()
			cuts := f.Swap(p)
			took = append(took, time.Since(start))
			if len(cuts) != 50_000 {
				b.Fatalf("cut %d", len(cuts))
			}
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[0].Microseconds())/1000, "least-ms")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	})
}

// halfOf is the policy of manyFlows without every other peer.
func halfOf(f *Filter) *Policy {
	rs := *f.rules.Load().sets[0].source
	rs.Subjects = slices.Clone(rs.Subjects)
	rs.Subjects = slices.DeleteFunc(rs.Subjects, func(s acl.Subject) bool { return s.Node[0] == 'n' && s.Node[1]%2 == 1 })
	return &Policy{Generation: 2, Self: "self", Rules: &rs, NotAfter: time.Now().Add(time.Hour)}
}

// Policy change with 100,000 live flows of which half must go: all of them are cut, and the others lose nothing, also while it goes on.
func TestSwapOf100kFlows(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	f, segments := manyFlows(t, 100_000)
	p := halfOf(f)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i = (i + 2) % len(segments) {
			select {
			case <-stop:
				return
			default:
			}
			if got := f.Egress(segments[i]); got.Verdict != Pass {
				t.Errorf("flow %d, during the change: %v", i, got)
				return
			}
		}
	})
	start := time.Now()
	cuts := f.Swap(p)
	t.Logf("re-judged 100,000 flows and cut %d in %v", len(cuts), time.Since(start))
	for i := 1; i < len(segments); i += 2 {
		if got := f.Egress(segments[i]); got.Verdict == Pass {
			t.Fatalf("flow %d passes after the change", i)
		}
	}
	close(stop)
	wg.Wait()
	if len(cuts) != 50_000 {
		t.Errorf("cut %d flows, want half", len(cuts))
	}
	for i, pkt := range segments {
		want := Result{Verdict: Pass}
		if i%2 == 1 {
			want = Result{Verdict: Reject, Reason: ReasonCut}
		}
		if got := f.Egress(pkt); got != want {
			t.Fatalf("flow %d: %v, want %v", i, got, want)
		}
	}
}

// A full table, tombstones included, takes no more than DefaultLimits says.
func TestFullTableTakesWhatItSays(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	f := New()
	allow := policyOf(outRule(whole4(acl.UDP)), acl.Rule{Src: roles(roleSelf), Dst: roles(roleBob), Ports: []acl.Ports{whole4(acl.UDP)}})
	open := func(block uint16) {
		for i := range 2 * DefaultLimits.Flows {
			to := []netip.Addr{alice4, bob4}[i%2]
			f.Egress(udp(at(self4, uint16(1024+i/2%50000)), at(to, 1+block+uint16(i/100_000)), 1))
		}
	}
	f.Swap(allow)
	open(0)
	f.Swap(policyOf())
	f.Swap(allow)
	open(100)
	tombs, used := f.table.tombs.Load(), f.table.used.Load()
	if size := heap() - before; size > 48<<20 || tombs+used < int64(DefaultLimits.Flows) {
		t.Errorf("%d flows and %d tombstones in %d MiB", used, tombs, size>>20)
	} else {
		t.Logf("%d flows and %d tombstones in %d MiB", used, tombs, size>>20)
	}
	runtime.KeepAlive(f)
}

func BenchmarkCompile(b *testing.B) {
	p := manyRules(10_000)
	for i := range 10_000 {
		p.Rules.Subjects = append(p.Rules.Subjects, acl.Subject{Node: acl.NodeID(fmt.Sprint("n", i)), Roles: []acl.RoleID{acl.RoleID(1000 + i), roleAny},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 65, byte(i >> 8), byte(i)})}})
	}
	f := New()
	for b.Loop() {
		f.clock.compile(p.Rules, "self", 0, f.registry)
	}
}

func BenchmarkHash(b *testing.B) {
	f := New()
	var v packet.View
	v.Parse(udp(at(self4, 5000), at(alice4, 53), 1))
	var k key
	k.set(&v, egress)
	for b.Loop() {
		f.table.hash(&k)
	}
}
