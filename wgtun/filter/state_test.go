package filter

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// stateRun plays random packets to both filters.
type stateRun struct {
	maker
	t    *testing.T
	fast *Filter
	slow *slowFilter
	last []slowPacket // some that were sent, to be sent again or complained about
	pass map[string]int
}

var (
	slowRules = [][]acl.Rule{
		{outRule(tcpPort(80), udpPort(53), whole4(acl.ICMP)), inRule(tcpPort(22), udpPort(7), whole4(acl.ICMP))},
		{outRule(tcpPort(80), udpPort(53)), inRule(tcpPort(22), tcpPort(1000), udpPort(1000))},
		{outRule(udpPort(53), whole4(acl.ICMP)), inRule(tcpPort(22))},
	}
	slowFlags = []uint8{fACK, fACK, fACK, fACK | fPSH, fACK, fSYN, fSYN | fACK, fFIN | fACK, fRST, fRST | fACK}
	slowSteps = []int64{0, 0, 0, 0, 1, -1, 100, -100, 1400, 64000, 65535, 1 << 16, 1<<16 + 1, 1 << 17, -1 << 17, -1<<17 - 1, 1 << 20, 1 << 30, 1 << 31, 1<<31 - 2000, -1 << 30}
)

// Whatever packets come, in whatever order, with policies and time between them: the filter does what the slow one does.
func FuzzFlowState(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { runState(t, maker{rand.New(rand.NewPCG(seed, 4))}) })
	})
}

func runState(t *testing.T, m maker) map[string]int {
	r := &stateRun{maker: m, t: t, fast: New(), pass: map[string]int{},
		slow: &slowFilter{flows: map[slowKey]*slowFlow{}, wholes: map[int]*slowWhole{}}}
	r.swap(0)
	for range 300 {
		switch n := m.IntN(40); {
		case n == 0:
			r.swap(m.IntN(len(slowRules)))
		case n == 1:
			time.Sleep(pick(m, []time.Duration{time.Second, 5 * time.Second, 9 * time.Second, 30 * time.Second, 59 * time.Second, 10 * time.Minute}))
			r.fast.Sweep()
		case n < 6:
			r.complain()
		case n < 12:
			r.fragment()
		default:
			r.packet()
		}
	}
	return r.pass
}

func (r *stateRun) swap(i int) {
	rules := slices.Clone(slowRules[i])
	r.slow.swap(rules)
	r.fast.Swap(policyOf(rules...))
}

// check holds the two verdicts against each other.
func (r *stateRun) check(what string, pkt []byte, out, want bool, about any) {
	r.t.Helper()
	dir := ingress
	if out {
		dir = egress
	}
	got := r.fast.judge(pkt, dir)
	if (got.Verdict == Pass) != want {
		r.t.Fatalf("%s %+v: the filter says %d (%q), the slow one %v", what, about, got.Verdict, got.Reason, want)
	}
	if want {
		r.pass[what]++
	}
	for _, fl := range r.slow.flows {
		r.pass[fl.phase]++
	}
}

// The seeds of FuzzFlowState come through everything: what passes nowhere, or no connection gets to, is not compared.
func TestFlowStateSeedsComeThroughEverything(t *testing.T) {
	sum := map[string]int{}
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			for what, n := range runState(t, maker{rand.New(rand.NewPCG(seed, 4))}) {
				sum[what] += n
			}
		})
	}
	want := []string{"tcp", "udp", "icmp", "fragment", "error"}
	for phase := range slowTimeouts {
		want = append(want, phase)
	}
	for _, what := range want {
		if sum[what] < 50 {
			t.Errorf("%s: %d times", what, sum[what])
		}
	}
	t.Log(sum)
}

// some makes a packet that mostly fits what is under way.
func (r *stateRun) some() slowPacket {
	p := slowPacket{slowKey: pick(r.maker, []slowKey{
		{proto: acl.TCP, self: 1000, alice: 80}, {proto: acl.TCP, self: 1000, alice: 80}, {proto: acl.TCP, self: 22, alice: 1000},
		{proto: acl.UDP, self: 1000, alice: 53}, {proto: acl.UDP, self: 7, alice: 1000}, {proto: acl.UDP, self: 9, alice: 9},
		{proto: acl.ICMP, self: 5, asked: 1}, {proto: acl.ICMP, alice: 5, asked: 2}, {proto: acl.ICMP, asked: 1},
	}), out: r.IntN(2) == 0, opens: true}
	switch p.proto {
	case acl.ICMP:
		p.opens = p.out == (p.asked == 1)
	case acl.TCP:
		p.seg = r.segment(p)
	}
	p.seg.from, p.seg.to = at(alice4, p.alice), at(self4, p.self)
	if p.out {
		p.seg.from, p.seg.to = p.seg.to, p.seg.from
	}
	return p
}

func (r *stateRun) segment(p slowPacket) seg {
	s := seg{flags: pick(r.maker, slowFlags), window: pick(r.maker, []uint16{1, 1000, 64000, 65535}), data: pick(r.maker, []int{0, 0, 0, 1, 100, 1400})}
	if r.IntN(50) == 0 {
		s.flags = uint8(r.IntN(64))
	}
	fl := r.slow.flows[p.slowKey]
	if fl == nil || fl.cut || fl.phase == "closed" || fl.phase == "over" {
		s.seq, s.ack = pick(r.maker, []uint32{1000, 1<<32 - 50}), 1
		if r.IntN(4) > 0 {
			s.flags, s.data = fSYN, 0
		}
	} else {
		me, other := fl.end(p.out), fl.end(!p.out)
		s.seq, s.ack = uint32(pick(r.maker, []int64{me.end, me.end, me.end, other.ack})+pick(r.maker, slowSteps)), uint32(other.end+pick(r.maker, slowSteps))
		if r.IntN(2) == 0 {
			// As an honest end would send it.
			s.seq, s.ack, s.flags = uint32(me.end), uint32(other.end), pick(r.maker, []uint8{fACK, fACK, fACK, fACK, fFIN | fACK})
		}
		if fl.phase == "opening" && p.out != fl.out && r.IntN(3) > 0 {
			s.flags, s.seq, s.ack, s.data = fSYN|fACK, pick(r.maker, []uint32{9000, 1<<32 - 3}), uint32(other.end), 0
		}
	}
	if s.flags&fSYN != 0 {
		s.scale = pick(r.maker, []int{0, 1, 8, 15, 16})
	}
	return s
}

// bytes is the packet; more is put behind what else it carries.
func (p slowPacket) bytes(more int) []byte {
	switch p.proto {
	case acl.TCP:
		p.seg.data += more
		return p.seg.bytes()
	case acl.UDP:
		return udp(p.seg.from, p.seg.to, more)
	}
	typ := uint8(packet.EchoReply4)
	if p.opens {
		typ = packet.EchoRequest4
	}
	return icmp(p.seg.from.Addr(), p.seg.to.Addr(), typ, 0, append(binary.BigEndian.AppendUint16(nil, p.self|p.alice), make([]byte, 2+more)...))
}

func (r *stateRun) packet() {
	p := r.some()
	if len(r.last) > 0 && r.IntN(6) == 0 {
		p = pick(r.maker, r.last)
	}
	r.check(p.proto.String(), p.bytes(0), p.out, r.slow.judge(p), p)
	r.last = append(r.last[max(0, len(r.last)-8):], p)
}

// complain sends an ICMP error about a packet, perhaps of another's, perhaps cut short.
func (r *stateRun) complain() {
	about := r.some()
	if len(r.last) > 0 && r.IntN(3) > 0 {
		about = pick(r.maker, r.last)
	}
	from, to := about.seg.to.Addr(), about.seg.from.Addr()
	quote := about.bytes(0)
	want := true
	switch r.IntN(8) {
	case 0:
		from, want = map[bool]netip.Addr{true: bob4, false: behindBob}[about.out], false
	case 1:
		quote, want = quote[:20+r.IntN(8)], false
	case 2:
		quote = quote[:28]
	}
	want = want && r.slow.complaint(about)
	r.check("error", unreachable(from, to, quote), !about.out, want, about)
}

// fragment sends one fragment of a packet: the first or a later one, of few sizes, so that they often fit and often clash.
func (r *stateRun) fragment() {
	p := r.some()
	p.fragment = true
	p.seg.flags, p.seg.data = fACK, 0
	id := r.IntN(2)
	from := 8 * pick(r.maker, []int{0, 0, 8, 8, 16, 24, 4, 12})
	to := from + 64
	more := r.IntN(4) > 0
	name := int(p.proto)<<8 | id<<1
	if p.out {
		name |= 1
	}
	b := p.bytes(400)[20:]
	var first *slowPacket
	if from == 0 {
		first, more = &p, true
	}
	pkt := piece4(p.seg.from.Addr(), p.seg.to.Addr(), uint8(p.proto), uint16(id), from, more, b[from:to])
	r.check("fragment", pkt, p.out, r.slow.fragment(name, from, to, more, first), p)
}

// Every combination of flags, from either end, at every stage of a connection, where the segment should be and beside it.
func TestEveryFlagAtEveryStage(t *testing.T) {
	syn := slowPacket{slowKey: slowKey{proto: acl.TCP, self: 1000, alice: 80}, out: true, opens: true}
	script := []struct {
		out      bool
		flags    uint8
		seq, ack uint32
	}{
		{true, fSYN, 100, 0}, {false, fSYN | fACK, 900, 101}, {true, fACK, 101, 901}, {false, fFIN | fACK, 901, 101}, {true, fFIN | fACK, 101, 902},
		{false, fACK, 902, 102},
	}
	for stage := range len(script) + 1 {
		for flags := range uint8(64) {
			for _, out := range []bool{true, false} {
				for _, off := range []uint32{0, 1, 1<<32 - 1, 1 << 18} {
					r := &stateRun{t: t, fast: New(), pass: map[string]int{}, slow: &slowFilter{flows: map[slowKey]*slowFlow{}}}
					r.swap(0)
					send := func(out bool, s seg) {
						p := syn
						p.out, p.seg = out, s
						p.seg.window, p.seg.from, p.seg.to = 64000, at(alice4, 80), at(self4, 1000)
						if out {
							p.seg.from, p.seg.to = p.seg.to, p.seg.from
						}
						r.check("tcp", p.bytes(0), out, r.slow.judge(p), p)
					}
					next := map[bool]seg{true: {seq: 100, ack: 900}, false: {seq: 900, ack: 100}}
					for _, step := range script[:stage] {
						s := seg{flags: step.flags, seq: step.seq, ack: step.ack}
						send(step.out, s)
						end := s.seq + space(s.flags, 0)
						next[step.out] = seg{seq: end, ack: step.ack}
						next[!step.out] = seg{seq: next[!step.out].seq, ack: end}
					}
					s := next[out]
					s.flags, s.seq = flags, s.seq+off
					send(out, s)
					// What it did shows in what passes next.
					for _, after := range []uint8{fACK, fRST, fSYN, fSYN | fACK} {
						for _, out := range []bool{true, false} {
							s := next[out]
							s.flags = after
							send(out, s)
						}
					}
				}
			}
		}
	}
}
