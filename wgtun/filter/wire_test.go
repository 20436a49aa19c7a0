package filter

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

// The world of these tests: this node, two peers, a subnet behind each of this node and bob.
var (
	self4, alice4, bob4 = netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2"), netip.MustParseAddr("100.64.0.3")
	self6, alice6, bob6 = netip.MustParseAddr("fd7a::1"), netip.MustParseAddr("fd7a::2"), netip.MustParseAddr("fd7a::3")
	behindSelf          = netip.MustParseAddr("10.1.0.9")
	behindBob           = netip.MustParseAddr("10.2.0.9")
	stranger            = netip.MustParseAddr("100.64.9.9")
)

const (
	roleSelf acl.RoleID = iota + 1
	roleAlice
	roleBob
	roleAny
)

func subjects() []acl.Subject {
	return []acl.Subject{
		{Node: "self", Owner: "u1", Addresses: []netip.Addr{self4, self6}, Routes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Roles: []acl.RoleID{roleSelf, roleAny}},
		{Node: "alice", Owner: "u1", Addresses: []netip.Addr{alice4, alice6}, Roles: []acl.RoleID{roleAlice, roleAny}},
		{Node: "bob", Addresses: []netip.Addr{bob4, bob6}, Routes: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, Roles: []acl.RoleID{roleBob, roleAny}},
	}
}

func roles(ids ...acl.RoleID) acl.Set { return acl.Set{Roles: ids} }

func tcpPort(p uint16) acl.Ports { return acl.Ports{Proto: acl.TCP, First: p, Last: p} }
func udpPort(p uint16) acl.Ports { return acl.Ports{Proto: acl.UDP, First: p, Last: p} }
func whole4(p acl.Proto) acl.Ports {
	return acl.Ports{Proto: p, First: 0, Last: 65535}
}

// outRule and inRule are between this node and alice.
func outRule(ports ...acl.Ports) acl.Rule {
	return acl.Rule{Src: roles(roleSelf), Dst: roles(roleAlice), Ports: ports}
}
func inRule(ports ...acl.Ports) acl.Rule {
	return acl.Rule{Src: roles(roleAlice), Dst: roles(roleSelf), Ports: ports}
}

func rulesOf(rules ...acl.Rule) *acl.Ruleset {
	for i := range rules {
		rules[i].Ref = acl.Ref{Section: "grants", Index: i, Line: i + 1, Column: 1}
	}
	return &acl.Ruleset{Rules: rules, Subjects: subjects()}
}

var generation uint64

func policyOf(rules ...acl.Rule) *Policy {
	generation++
	return &Policy{Generation: generation, Self: "self", Rules: rulesOf(rules...), NotAfter: time.Now().Add(100 * time.Hour)}
}

func newFilter(t testing.TB, rules ...acl.Rule) *Filter {
	t.Helper()
	f := New()
	if cuts := f.Swap(policyOf(rules...)); len(cuts) != 0 {
		t.Fatalf("a new filter cut %v", cuts)
	}
	return f
}

// ip wraps a payload; options are for the tests of IP itself.
func ip(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	if src.Is4() {
		b := make([]byte, 20, 20+len(payload))
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		sum4(b)
		return append(b, payload...)
	}
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, payload...)
}

func checksum(parts ...[]byte) uint16 {
	s := uint32(0)
	for _, b := range parts {
		for i := range b {
			s += uint32(b[i]) << (8 * (1 - i%2))
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func sum4(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
}

func l4sum(src, dst netip.Addr, proto uint8, b []byte) uint16 {
	return checksum(src.AsSlice(), dst.AsSlice(), []byte{0, proto, byte(len(b) >> 8), byte(len(b))}, b)
}

// seg is a TCP segment to be.
type seg struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    uint8
	window   uint16
	data     int
	scale    int // window scale option, less 1; 0 is none
}

func (s seg) bytes() []byte {
	if s.window == 0 {
		s.window = 64000
	}
	b := make([]byte, 20, 24+s.data)
	binary.BigEndian.PutUint16(b, s.from.Port())
	binary.BigEndian.PutUint16(b[2:], s.to.Port())
	binary.BigEndian.PutUint32(b[4:], s.seq)
	binary.BigEndian.PutUint32(b[8:], s.ack)
	b[12], b[13] = 0x50, s.flags
	binary.BigEndian.PutUint16(b[14:], s.window)
	if s.scale > 0 {
		b = append(b, 1, 3, 3, byte(s.scale-1))
		b[12] = 0x60
	}
	b = append(b, make([]byte, s.data)...)
	binary.BigEndian.PutUint16(b[16:], l4sum(s.from.Addr(), s.to.Addr(), packet.ProtoTCP, b))
	return ip(s.from.Addr(), s.to.Addr(), packet.ProtoTCP, b)
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func udp(from, to netip.AddrPort, data int) []byte {
	b := make([]byte, 8+data)
	binary.BigEndian.PutUint16(b, from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return ip(from.Addr(), to.Addr(), packet.ProtoUDP, b)
}

func icmp(from, to netip.Addr, typ, code uint8, rest []byte) []byte {
	b := append([]byte{typ, code, 0, 0}, rest...)
	proto := uint8(packet.ProtoICMP)
	if from.Is6() {
		proto = packet.ProtoICMPv6
		binary.BigEndian.PutUint16(b[2:], l4sum(from, to, proto, b))
	} else {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return ip(from, to, proto, b)
}

func echo(from, to netip.Addr, id uint16, reply bool) []byte {
	typ := uint8(packet.EchoRequest4)
	switch {
	case from.Is6() && reply:
		typ = packet.EchoReply6
	case from.Is6():
		typ = packet.EchoRequest6
	case reply:
		typ = packet.EchoReply4
	}
	return icmp(from, to, typ, 0, []byte{byte(id >> 8), byte(id), 0, 1})
}

// unreachable is an ICMP error from one address about a packet of another.
func unreachable(from, to netip.Addr, quote []byte) []byte {
	typ := uint8(packet.Unreachable4)
	if from.Is6() {
		typ = packet.Unreachable6
	}
	return icmp(from, to, typ, 4, append(make([]byte, 4), quote...))
}

// piece4 is one fragment of an IPv4 payload.
func piece4(src, dst netip.Addr, proto uint8, id uint16, from int, more bool, payload []byte) []byte {
	b := ip(src, dst, proto, payload)
	binary.BigEndian.PutUint16(b[4:], id)
	bits := uint16(from / 8)
	if more {
		bits |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], bits)
	sum4(b)
	return b
}

// piece6 is one fragment of an IPv6 payload.
func piece6(src, dst netip.Addr, proto uint8, id uint32, from int, more bool, payload []byte) []byte {
	h := []byte{proto, 0, byte(from >> 8), byte(from), 0, 0, 0, 0}
	if more {
		h[3] |= 1
	}
	binary.BigEndian.PutUint32(h[4:], id)
	return ip(src, dst, 44, append(h, payload...))
}

func passes(t *testing.T, what string, got Result) {
	t.Helper()
	if got != (Result{Verdict: Pass}) {
		t.Errorf("%s: verdict %d, %q; want it to pass", what, got.Verdict, got.Reason)
	}
}

func refused(t *testing.T, what string, got Result, want Reason) {
	t.Helper()
	if got.Verdict == Pass || got.Reason != want {
		t.Errorf("%s: verdict %d, %q; want a refusal, %q", what, got.Verdict, got.Reason, want)
	}
}

// conn is a TCP connection between two ends, seen by the filter of the local one.
type conn struct {
	f             *Filter
	local, remote netip.AddrPort
	snd, rcv      uint32 // next sequence numbers of local and remote
	out           bool   // opened by local
}

// dial opens a connection by the three segments.
func dial(t *testing.T, f *Filter, local, remote netip.AddrPort, out bool) *conn {
	t.Helper()
	c := &conn{f: f, local: local, remote: remote, snd: 1000, rcv: 9000, out: out}
	if out {
		passes(t, "SYN", c.send(packet.SYN, 0))
		passes(t, "SYN+ACK", c.recv(packet.SYN|packet.ACK, 0))
		passes(t, "ACK", c.send(packet.ACK, 0))
	} else {
		passes(t, "SYN", c.recv(packet.SYN, 0))
		passes(t, "SYN+ACK", c.send(packet.SYN|packet.ACK, 0))
		passes(t, "ACK", c.recv(packet.ACK, 0))
	}
	return c
}

// outward and inward make a segment at the connection's present place.
func (c *conn) outward(flags uint8, data int) seg {
	s := seg{from: c.local, to: c.remote, seq: c.snd, flags: flags, data: data}
	if flags&packet.ACK != 0 {
		s.ack = c.rcv
	}
	return s
}

func (c *conn) inward(flags uint8, data int) seg {
	s := seg{from: c.remote, to: c.local, seq: c.rcv, flags: flags, data: data}
	if flags&packet.ACK != 0 {
		s.ack = c.snd
	}
	return s
}

func space(flags uint8, data int) uint32 {
	n := uint32(data)
	if flags&packet.SYN != 0 {
		n++
	}
	if flags&packet.FIN != 0 {
		n++
	}
	return n
}

func (c *conn) send(flags uint8, data int) Result {
	r := c.f.Egress(c.outward(flags, data).bytes())
	c.snd += space(flags, data)
	return r
}

func (c *conn) recv(flags uint8, data int) Result {
	r := c.f.Ingress(c.inward(flags, data).bytes())
	c.rcv += space(flags, data)
	return r
}

// families runs a test for this node and alice in both families.
func families(t *testing.T, run func(t *testing.T, self, alice netip.Addr)) {
	t.Run("IPv4", func(t *testing.T) { run(t, self4, alice4) })
	t.Run("IPv6", func(t *testing.T) { run(t, self6, alice6) })
}
