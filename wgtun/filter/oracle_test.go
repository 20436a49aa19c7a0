package filter

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// maker makes random rulesets and packets of a small world, so that matches are frequent.
type maker struct{ *rand.Rand }

func pick[T any](m maker, from []T) T { return from[m.IntN(len(from))] }

func some[T any](m maker, from []T, most int) []T {
	var out []T
	for range m.IntN(most + 1) {
		out = append(out, pick(m, from))
	}
	return out
}

var (
	someRoles    = []acl.RoleID{1, 2, 3, 4, 5}
	somePrefixes = prefixes("10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.128/25", "10.2.0.0/16", "0.0.0.0/0", "fd00::/8", "fd10::/16", "fd10:1::/32", "::/0", "100.64.0.0/10")
	someBehind   = addrs("10.1.1.1", "10.1.1.200", "10.1.9.9", "10.2.0.1", "10.9.9.9", "9.9.9.9", "fd10::5", "fd10:1::5", "fd99::1", "2001:db8::1")
	someProtos   = []acl.Proto{acl.TCP, acl.UDP, acl.ICMP, acl.ICMPv6, acl.SCTP, 47}
	somePorts    = []uint16{1, 22, 80, 443, 65535}
)

func prefixes(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(ss ...string) (out []netip.Addr) {
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func own(i int) []netip.Addr {
	return addrs(fmt.Sprintf("100.64.0.%d", i+1), fmt.Sprintf("fd7a::%d", i+1))
}

func (m maker) set() acl.Set {
	return acl.Set{Roles: some(m, someRoles, 2), Prefixes: some(m, somePrefixes, 2), Beyond: some(m, somePrefixes, 1)}
}

func (m maker) ruleset(now time.Time) *acl.Ruleset {
	rs := &acl.Ruleset{}
	for i := range 2 + m.IntN(4) {
		s := acl.Subject{Node: acl.NodeID(fmt.Sprintf("n%d", i)), Addresses: own(i), Roles: some(m, someRoles, 3), Routes: some(m, somePrefixes[:10], 2)}
		s.Owner = pick(m, []acl.UserID{"", "u1", "u2"})
		if m.IntN(8) == 0 {
			s.Addresses = append(s.Addresses, own(m.IntN(5))...)
		}
		rs.Subjects = append(rs.Subjects, s)
	}
	for i := range m.IntN(12) {
		rs.Rules = append(rs.Rules, m.rule("grants", i, now))
	}
	for i := range m.IntN(3) {
		rs.Denies = append(rs.Denies, m.rule("denies", i, now))
	}
	return rs
}

func (m maker) rule(section string, i int, now time.Time) acl.Rule {
	r := acl.Rule{Ref: acl.Ref{Section: section, Index: i}, Src: m.set(), Dst: m.set(), SameOwner: m.IntN(6) == 0}
	switch m.IntN(6) {
	case 0:
		r.Via = some(m, someRoles, 2)
	case 1:
		r.SrcPosture = some(m, someRoles, 2)
	}
	{
		for range 1 + m.IntN(3) {
			p := acl.Ports{Proto: pick(m, someProtos), First: pick(m, somePorts), Last: pick(m, somePorts)}
			if !p.Proto.HasPorts() || m.IntN(3) == 0 {
				p.First, p.Last = 0, 65535
			}
			r.Ports = append(r.Ports, p)
		}
		switch m.IntN(6) {
		case 0:
			r.Until = now.Add(-time.Minute).UnixMilli()
		case 1, 2:
			r.Until = now.Add(time.Duration(1+m.IntN(3)) * time.Hour).UnixMilli()
		case 3:
			if m.IntN(3) == 0 {
				r.Restrictions = []acl.Restriction{{Kind: "unheard-of"}}
			}
		}
	}
	return r
}

func (m maker) addr() netip.Addr {
	if m.IntN(3) == 0 {
		return pick(m, someBehind)
	}
	return pick(m, own(m.IntN(6)))
}

// probe is a packet that would open a flow, and the flow.
func (m maker) probe(srcPort uint16) (acl.Flow, []byte) {
	q := acl.Flow{Src: m.addr(), Dst: m.addr(), Proto: pick(m, someProtos), Port: pick(m, somePorts)}
	for q.Src.Is4() != q.Dst.Is4() {
		q.Dst = m.addr()
	}
	if q.Proto == acl.ICMP && q.Src.Is6() {
		q.Proto = acl.ICMPv6
	} else if q.Proto == acl.ICMPv6 && q.Src.Is4() {
		q.Proto = acl.ICMP
	}
	if !q.Proto.HasPorts() {
		q.Port = 0
	}
	return q, openingPacket(q, srcPort)
}

func openingPacket(q acl.Flow, srcPort uint16) []byte {
	from, to := at(q.Src, srcPort), at(q.Dst, q.Port)
	switch q.Proto {
	case acl.TCP:
		return seg{from: from, to: to, seq: 1, flags: fSYN}.bytes()
	case acl.UDP:
		return udp(from, to, 1)
	case acl.ICMP, acl.ICMPv6:
		return echo(q.Src, q.Dst, srcPort, false)
	}
	return ip(q.Src, q.Dst, uint8(q.Proto), append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, srcPort), q.Port), make([]byte, 8)...))
}

// expected is what the reference reading says of a fresh flow at node n0.
func expected(q acl.Flow, dir direction, now time.Time, sets ...*acl.Ruleset) (acl.Decision, bool) {
	var first acl.Decision
	var ends [2]acl.NodeID
	for i, rs := range sets {
		src, _ := rs.SubjectOf(q.Src)
		dst, _ := rs.SubjectOf(q.Dst)
		if src == nil || dst == nil || src.Node == dst.Node || [2]*acl.Subject{src, dst}[dir].Node != "n0" {
			return acl.Decision{}, false
		}
		d := rs.Allows(q, now)
		if !d.Allow || i > 0 && ends != [2]acl.NodeID{src.Node, dst.Node} {
			return acl.Decision{}, false
		}
		ends = [2]acl.NodeID{src.Node, dst.Node}
		if i == 0 {
			first = d
		} else if first.Until.IsZero() || !d.Until.IsZero() && d.Until.Before(first.Until) {
			first.Until = d.Until
		}
	}
	return first, true
}

// The filter's verdict on a fresh flow is that of acl.Ruleset.Allows, with the rule and the deadline; and of two policies intersected, both's.
func FuzzOracle(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		m := maker{rand.New(rand.NewPCG(seed, 1))}
		now := time.Now()
		rules, before := m.ruleset(now), m.ruleset(now)
		if m.IntN(2) == 0 {
			before.Subjects = rules.Subjects
		}
		policy := &Policy{Self: "n0", Rules: rules, NotAfter: now.Add(100 * time.Hour)}
		one, two := New(), New()
		one.Swap(policy)
		two.Swap(Intersect(&Policy{Self: "n0", Rules: before}, policy, nil))
		for i := range 100 {
			q, pkt := m.probe(uint16(1000 + i))
			if !q.Proto.HasPorts() && i > 0 && q.Proto == 47 {
				continue // without ports a later packet may belong to an earlier flow
			}
			for _, dir := range []direction{egress, ingress} {
				checkOracle(t, one, q, pkt, dir, now, rules)
				checkOracle(t, two, q, pkt, dir, now, rules, before)
			}
		}
	})
}

func checkOracle(t *testing.T, f *Filter, q acl.Flow, pkt []byte, dir direction, now time.Time, sets ...*acl.Ruleset) {
	t.Helper()
	want, allowed := expected(q, dir, now, sets...)
	got := f.judge(pkt, dir)
	if (got.Verdict == Pass) != allowed {
		t.Fatalf("%v direction %d: filter says %d (%q), the rules %v (%s)", q, dir, got.Verdict, got.Reason, allowed, want.Reason)
	}
	if !allowed {
		return
	}
	var v packet.View
	v.Parse(pkt)
	var k key
	k.set(&v, dir)
	h := f.table.hash(&k)
	fl := f.clock.describe(&f.table.shard(h).find(h, &k).entry)
	if fl.Rule != want.Rule.Ref {
		t.Errorf("%v: under %v, the rules say %v", q, fl.Rule, want.Rule.Ref)
	}
	if off := fl.Until.Sub(want.Until); fl.Until.IsZero() != want.Until.IsZero() || off.Abs() > time.Second {
		t.Errorf("%v: until %v, the rules say %v", q, fl.Until, want.Until)
	}
}

// modelFlow is a flow as the model knows it.
type modelFlow struct {
	out     bool // opened by n0
	peer    acl.NodeID
	seen    time.Time
	replied bool
	cut     bool
}

// model is the obvious filter for datagrams: one map, looked at whole, and every flow judged by acl.Ruleset.Allows each time.
type model struct {
	flows map[[2]netip.AddrPort]*modelFlow // by n0's end and the far one
	rules *acl.Ruleset
}

func (m *model) allows(k [2]netip.AddrPort, out bool) (acl.NodeID, bool) {
	q, dir := acl.Flow{Src: k[0].Addr(), Dst: k[1].Addr(), Proto: acl.UDP, Port: k[1].Port()}, egress
	if !out {
		q, dir = acl.Flow{Src: k[1].Addr(), Dst: k[0].Addr(), Proto: acl.UDP, Port: k[0].Port()}, ingress
	}
	_, ok := expected(q, dir, time.Now(), m.rules)
	peer, _ := m.rules.SubjectOf(k[1].Addr())
	if !ok {
		return "", false
	}
	return peer.Node, true
}

func (m *model) expire() {
	for k, fl := range m.flows {
		limit := 30 * time.Second
		if fl.cut {
			limit = 60 * time.Second
		} else if fl.replied {
			limit = 180 * time.Second
		}
		if time.Since(fl.seen) >= limit {
			delete(m.flows, k)
		}
	}
}

func (m *model) swap(rs *acl.Ruleset) {
	m.expire()
	m.rules = rs
	for k, fl := range m.flows {
		if peer, ok := m.allows(k, fl.out); !fl.cut && (!ok || peer != fl.peer) {
			fl.cut, fl.seen = true, time.Now()
		}
	}
}

func (m *model) packet(k [2]netip.AddrPort, out bool) bool {
	m.expire()
	fl := m.flows[k]
	if fl != nil && !fl.cut {
		fl.seen = time.Now()
		fl.replied = fl.replied || fl.out != out
		return true
	}
	if fl != nil && fl.out != out {
		return false
	}
	peer, ok := m.allows(k, out)
	if ok {
		m.flows[k] = &modelFlow{out: out, peer: peer, seen: time.Now()}
	}
	return ok
}

// Datagrams, policies and time in any order: the filter does what the model does.
func FuzzModel(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { runModel(t, maker{rand.New(rand.NewPCG(seed, 2))}) })
	})
}

func runModel(t *testing.T, m maker) {
	filter, model := New(), &model{flows: map[[2]netip.AddrPort]*modelFlow{}, rules: &acl.Ruleset{}}
	var policies []*acl.Ruleset
	for range 3 {
		rs := m.ruleset(time.Now())
		for i := range rs.Rules {
			rs.Rules[i].Until = 0
		}
		// One rule that often matters, or most runs see nothing pass.
		rs.Rules = append(rs.Rules, acl.Rule{Src: roles(1, 2), Dst: roles(3, 4), Ports: []acl.Ports{whole4(acl.UDP)}})
		policies = append(policies, rs)
	}
	swap := func() {
		rs := pick(m, policies)
		filter.Swap(&Policy{Self: "n0", Rules: rs, NotAfter: time.Now().Add(time.Hour)})
		model.swap(rs)
	}
	swap()
	for step := range 400 {
		switch n := m.IntN(20); {
		case n == 0:
			swap()
		case n == 1:
			time.Sleep(pick(m, []time.Duration{time.Second, 29 * time.Second, 59 * time.Second, 170 * time.Second}))
			filter.Sweep()
		default:
			k := [2]netip.AddrPort{at(own(0)[0], pick(m, somePorts)), at(own(1 + m.IntN(3))[0], pick(m, somePorts))}
			out := m.IntN(2) == 0
			pkt, dir := udp(k[0], k[1], 1), egress
			if !out {
				pkt, dir = udp(k[1], k[0], 1), ingress
			}
			got := filter.judge(pkt, dir)
			if want := model.packet(k, out); (got.Verdict == Pass) != want {
				t.Fatalf("step %d, %v out=%v: filter says %d (%q), model %v", step, k, out, got.Verdict, got.Reason, want)
			}
		}
	}
}

// Whatever comes in: no panic, no change to the packet, and nothing passes that does not belong.
func FuzzFilter(f *testing.F) {
	for _, b := range [][]byte{
		udp(at(alice4, 5000), at(self4, 53), 9), seg{from: at(alice4, 1), to: at(self4, 80), flags: fSYN, scale: 3}.bytes(),
		echo(alice6, self6, 7, false), unreachable(alice4, self4, udp(at(self4, 5000), at(alice4, 53), 9)),
		newDatagram(alice4, self4, 1, 100).piece(0, 32), newDatagram(alice6, self6, 1, 100).piece(32, 64), ip(alice4, self4, 47, make([]byte, 9)),
	} {
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) >= 20 && b[0] == 0x45 {
			sum4(b)
		}
		filter := newFilter(t, inRule(udpPort(53), tcpPort(80), whole4(acl.ICMPv6)), outRule(udpPort(53)))
		filter.Egress(udp(at(self4, 5000), at(alice4, 53), 9))
		before := string(b)
		in := filter.Ingress(b)
		filter.Egress(b)
		filter.AppendReject(nil, b)
		if string(b) != before {
			t.Error("the packet was changed")
		}
		if in.Verdict != Pass {
			return
		}
		var v packet.View
		if fault := v.Parse(b); fault != packet.FaultNone {
			t.Fatalf("a packet passed that cannot be read: %v", fault)
		}
		if src := v.Src().Netip(); src != alice4 && src != alice6 {
			t.Errorf("a packet from %v passed", src)
		}
		if dst := v.Dst().Netip(); dst != self4 && dst != self6 {
			t.Errorf("a packet to %v passed", dst)
		}
	})
}
