package filter

import (
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
)

// advance lets time pass as the tunnel would.
func advance(f *Filter, d time.Duration) (cuts []Cut) {
	for ; d > 0; d -= 100 * time.Millisecond {
		time.Sleep(min(d, 100*time.Millisecond))
		cuts = append(cuts, f.Sweep()...)
	}
	return cuts
}

func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf(outRule(tcpPort(80), udpPort(53)))
		p.NotAfter = time.Now().Add(time.Minute)
		f := New()
		f.Swap(p)
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		if cuts := advance(f, 59*time.Second); len(cuts) != 0 {
			t.Fatalf("cut early: %v", cuts)
		}
		passes(t, "before the end", c.send(fACK, 1))
		cuts := advance(f, time.Second)
		if len(cuts) != 1 || cuts[0].Cause != "lease" {
			t.Fatalf("cut %v", cuts)
		}
		resets(t, cuts[0].AppendReset(nil), c)
		refused(t, "segment", c.send(fACK, 1), ReasonLease)
		refused(t, "segment", c.recv(fACK, 1), ReasonLease)
		refused(t, "new flow", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), ReasonLease)
		refused(t, "ICMP error", f.Ingress(unreachable(alice4, self4, udp(at(self4, 5000), at(alice4, 53), 1))), ReasonLease)
		if n := len(f.Flows()); n != 0 {
			t.Errorf("%d flows live after the lease", n)
		}
		f.Extend(time.Now().Add(time.Minute))
		passes(t, "new flow after Extend", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
		refused(t, "cut flow after Extend", c.send(fACK, 1), ReasonCut)
		f.Extend(time.Now())
		passes(t, "Extend does not shorten", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	})
}

func TestExtendKeepsFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf(outRule(tcpPort(80)))
		p.NotAfter = time.Now().Add(time.Minute)
		f := New()
		f.Swap(p)
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		advance(f, 59*time.Second)
		f.Extend(time.Now().Add(time.Minute))
		if cuts := advance(f, 30*time.Second); len(cuts) != 0 {
			t.Errorf("cut %v", cuts)
		}
		passes(t, "segment", c.send(fACK, 1))
		// What is put in force with its lease already over refuses at once, and says why.
		late := policyOf(outRule(tcpPort(80)))
		late.NotAfter = time.Now()
		if cuts := f.Swap(late); len(cuts) != 1 || cuts[0].Cause != "lease" {
			t.Errorf("cut %v", cuts)
		}
	})
}

// The lease holds also where nobody sweeps: a busy flow reads the clock itself.
func TestLeaseWithoutSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policyOf(outRule(udpPort(53)))
		for name, before := range map[string]int{"a new flow": 0, "a known flow": 1} {
			f := New()
			p.NotAfter = time.Now().Add(10 * time.Second)
			f.Swap(p)
			for range before {
				passes(t, name, f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
			}
			time.Sleep(10 * time.Second)
			for range ticksPerRead {
				f.Egress(udp(at(self4, 5000), at(alice4, 53), 1))
			}
			refused(t, name+", after some packets", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), ReasonLease)
		}
	})
}

func TestRuleDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		first, longer := outRule(tcpPort(80)), outRule(acl.Ports{Proto: acl.TCP, First: 80, Last: 81})
		first.Until = start.Add(10 * time.Second).UnixMilli()
		longer.Until = start.Add(20 * time.Second).UnixMilli()
		f := newFilter(t, first, longer, outRule(tcpPort(22)))
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		kept := dial(t, f, at(self4, 40001), at(alice4, 22), true)
		for _, fl := range f.Flows() {
			want := time.Time{}
			if fl.Dst.Port() == 80 {
				want = time.UnixMilli(longer.Until)
			}
			if !fl.Until.Equal(want) {
				t.Errorf("flow to %v ends %v, want %v", fl.Dst, fl.Until, want)
			}
		}
		if cuts := advance(f, 15*time.Second); len(cuts) != 0 {
			t.Fatalf("cut while another rule allows: %v", cuts)
		}
		passes(t, "segment", c.send(fACK, 1))
		passes(t, "SYN under the longer rule", f.Egress(seg{from: at(self4, 40002), to: at(alice4, 80), flags: fSYN}.bytes()))
		for _, fl := range f.Flows() {
			if fl.Src.Port() == 40002 && fl.Rule.Index != 1 {
				t.Errorf("new flow is under rule %d", fl.Rule.Index)
			}
		}
		cuts := advance(f, 5*time.Second)
		if len(cuts) != 2 || cuts[0].Cause != "deadline" {
			t.Fatalf("at the deadline cut %v", cuts)
		}
		refused(t, "segment", c.send(fACK, 1), ReasonCut)
		refused(t, "SYN", f.Egress(seg{from: at(self4, 40003), to: at(alice4, 80), flags: fSYN}.bytes()), ReasonNoRule)
		passes(t, "flow without deadline", kept.send(fACK, 1))
	})
}

// A packet that comes between the deadline and the next Sweep is judged by the deadline, and the cut is reported by that Sweep.
func TestRuleDeadlineOnPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := outRule(tcpPort(80))
		rule.Until = time.Now().Add(10 * time.Second).UnixMilli()
		f := newFilter(t, rule)
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		time.Sleep(10 * time.Second)
		f.clock.read()
		refused(t, "segment", c.recv(fACK, 1), ReasonCut)
		if cuts := f.Sweep(); len(cuts) != 1 || cuts[0].Cause != "deadline" {
			t.Errorf("cut %v", cuts)
		}
	})
}

// An ICMP error is the first to come after the deadline.
func TestRuleDeadlineOnICMPError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := outRule(udpPort(53))
		rule.Until = time.Now().Add(10 * time.Second).UnixMilli()
		f := newFilter(t, rule)
		question := udp(at(self4, 5000), at(alice4, 53), 30)
		passes(t, "question", f.Egress(question))
		passes(t, "error before the deadline", f.Ingress(unreachable(alice4, self4, question)))
		time.Sleep(10 * time.Second)
		f.clock.read()
		refused(t, "error after it", f.Ingress(unreachable(alice4, self4, question)), ReasonCut)
	})
}

// Deadlines are wall time at the coordinator; the node's own clock may be off by a known amount.
func TestClockOffset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rule := outRule(udpPort(53))
		rule.Until = time.Now().Add(time.Hour).UnixMilli()
		p := policyOf(rule)
		p.ClockOffset = time.Hour - 10*time.Second
		f := New()
		f.Swap(p)
		pkt := udp(at(self4, 5000), at(alice4, 53), 1)
		advance(f, 9*time.Second)
		passes(t, "before", f.Egress(pkt))
		advance(f, time.Second)
		refused(t, "after", f.Egress(pkt), ReasonNoRule)
	})
}

func TestDeadlineConversion(t *testing.T) {
	wall := time.UnixMilli(1_700_000_000_000)
	for _, tt := range []struct {
		until int64
		want  int64
	}{
		{0, never},
		{1_700_000_000_000, 77},
		{1_700_000_001_000, 77 + int64(time.Second)},
		{1_699_999_999_000, 77 - int64(time.Second)},
	} {
		if got := deadline(tt.until, wall, 77); got != tt.want {
			t.Errorf("deadline(%d) = %d, want %d", tt.until, got, tt.want)
		}
	}
	if got := deadline(1<<62, wall, 77); got < 1<<60 || got == never {
		t.Errorf("a deadline in the far future became %d", got)
	}
	if got := deadline(-1<<63, wall, 77); got > 0 {
		t.Errorf("a deadline in the far past became %d", got)
	}
	if got := deadline(1_700_000_000_001, wall.Add(900*time.Microsecond), 0); got != int64(100*time.Microsecond) {
		t.Errorf("part of a millisecond: %d", got)
	}
}

func TestIdleTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(tcpPort(80), udpPort(53)))
		unreplied, replied := udp(at(self4, 5000), at(alice4, 53), 1), udp(at(self4, 5001), at(alice4, 53), 1)
		answer := func(port uint16) Result { return f.Ingress(udp(at(alice4, 53), at(self4, port), 1)) }
		passes(t, "UDP", f.Egress(unreplied))
		passes(t, "UDP", f.Egress(replied))
		passes(t, "answer", answer(5001))
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		passes(t, "SYN", f.Egress(seg{from: at(self4, 40001), to: at(alice4, 80), flags: fSYN}.bytes()))
		advance(f, 29*time.Second)
		passes(t, "late answer", f.Ingress(udp(at(alice4, 53), at(self4, 5000), 1)))
		advance(f, 150*time.Second)
		passes(t, "answer after 179 s", answer(5001))
		advance(f, 31*time.Second)
		refused(t, "answer after 181 s", answer(5000), ReasonNoRule)
		advance(f, 200*time.Second)
		refused(t, "answer after 231 s", answer(5001), ReasonNoRule)
		if n := len(f.Flows()); n != 1 {
			t.Errorf("%d flows live, want the connection only", n)
		}
		if n := f.Stats().Flows; n != 1 {
			t.Errorf("%d flows in the table", n)
		}
		time.Sleep(3 * time.Hour)
		f.Sweep()
		passes(t, "established after three idle hours", c.recv(fACK, 1))
		c.send(fFIN|fACK, 0)
		time.Sleep(11 * time.Minute)
		f.Sweep()
		refused(t, "half closed after 11 min", c.recv(fACK, 1), ReasonNoFlow)
	})
}

func TestSweepForgetsTombstones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(udpPort(53)))
		for i := range 1000 {
			f.Egress(udp(at(self4, uint16(5000+i)), at(alice4, 53), 1))
		}
		f.Swap(policyOf())
		if st := f.Stats(); st.Flows != 0 || f.table.tombs.Load() != 1000 {
			t.Errorf("%d flows, %d tombstones", st.Flows, f.table.tombs.Load())
		}
		advance(f, 65*time.Second)
		if n := f.table.tombs.Load(); n != 0 {
			t.Errorf("%d tombstones after 65 s", n)
		}
		for i := range f.table.shards {
			if s := &f.table.shards[i]; s.n != 0 || len(s.slots.Load().at) != minSlots {
				t.Fatalf("shard %d keeps %d flows in %d slots", i, s.n, len(s.slots.Load().at))
			}
		}
	})
}

// A laptop that sleeps in the evening must not wake to what was granted until midnight.
func TestDeadlinesGoOnWhileTheHostSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timed, open := outRule(udpPort(53)), outRule(udpPort(54))
		timed.Until = time.Now().Add(time.Hour).UnixMilli()
		p := policyOf(timed, open)
		p.NotAfter = time.Now().Add(12 * time.Hour)
		f := New()
		var slept time.Duration
		f.clock.suspended = func() time.Duration { return f.clock.awake + slept }
		f.Swap(p)
		short, long := udp(at(self4, 5000), at(alice4, 53), 1), udp(at(self4, 5000), at(alice4, 54), 1)
		passes(t, "before", f.Egress(short))
		passes(t, "before", f.Egress(long))
		slept = time.Hour
		f.Sweep()
		refused(t, "after its deadline", f.Egress(short), ReasonNoRule)
		passes(t, "without deadline", f.Egress(long))
		p.NotAfter = time.Now().Add(11 * time.Hour)
		f.Swap(p)
		refused(t, "after its deadline, by new rules", f.Egress(short), ReasonNoRule)
		slept += 11*time.Hour - time.Second
		f.Sweep()
		passes(t, "before the lease's end", f.Egress(long))
		slept += time.Second
		f.Sweep()
		refused(t, "after the lease's end", f.Egress(long), ReasonLease)
		f.Extend(time.Now().Add(time.Minute))
		passes(t, "lease extended", f.Egress(long))
		advance(f, time.Minute)
		refused(t, "after that", f.Egress(long), ReasonLease)
	})
}
