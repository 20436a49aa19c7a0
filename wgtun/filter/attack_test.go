package filter

import (
	"net/netip"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/packet"
)

const (
	fSYN, fACK, fRST, fFIN, fPSH, fURG = packet.SYN, packet.ACK, packet.RST, packet.FIN, packet.PSH, packet.URG
)

func TestNewFilterRefusesEverything(t *testing.T) {
	f := New()
	pkt := udp(at(self4, 5000), at(alice4, 53), 1)
	refused(t, "egress", f.Egress(pkt), ReasonNoPolicy)
	refused(t, "ingress", f.Ingress(udp(at(alice4, 5000), at(self4, 53), 1)), ReasonNoPolicy)
	for name, p := range map[string]*Policy{
		"nil":        nil,
		"zero":       {},
		"no rules":   {Self: "self", NotAfter: time.Now().Add(time.Hour)},
		"nil also":   {Self: "self", Rules: rulesOf(outRule(udpPort(53))), NotAfter: time.Now().Add(time.Hour), Also: []*acl.Ruleset{nil}},
		"no lease":   {Self: "self", Rules: rulesOf(outRule(udpPort(53)))},
		"empty self": {Rules: rulesOf(outRule(udpPort(53))), NotAfter: time.Now().Add(time.Hour)},
		"empty set":  {Self: "self", Rules: &acl.Ruleset{}, NotAfter: time.Now().Add(time.Hour)},
	} {
		f.Swap(p)
		if got := f.Egress(pkt); got.Verdict == Pass {
			t.Errorf("policy %s let a packet through", name)
		}
	}
	if r := (Result{}); r.Verdict != Drop {
		t.Error("the zero Result is no refusal")
	}
}

// Every combination of TCP flags outside a flow: only a SYN alone opens.
func TestOnlySYNAloneOpensTCP(t *testing.T) {
	families(t, func(t *testing.T, self, alice netip.Addr) {
		for flags := range uint8(64) {
			f := newFilter(t, outRule(tcpPort(80)), inRule(tcpPort(80)))
			out := f.Egress(seg{from: at(self, 40000), to: at(alice, 80), seq: 1, flags: flags}.bytes())
			in := f.Ingress(seg{from: at(alice, 40001), to: at(self, 80), seq: 1, flags: flags}.bytes())
			want := flags&(fSYN|fACK|fRST|fFIN) == fSYN
			if (out.Verdict == Pass) != want || (in.Verdict == Pass) != want {
				t.Errorf("flags %#x: egress %v, ingress %v, want pass %v", flags, out, in, want)
			}
			if n := len(f.Flows()); (n == 2) != want || (n == 0) == want {
				t.Errorf("flags %#x left %d flows", flags, n)
			}
		}
	})
}

func TestDeniedPacketCreatesNoState(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)))
	// The reverse-tuple trick: a refused packet outward must not make way for the "answer".
	refused(t, "egress", f.Egress(udp(at(self4, 5000), at(alice4, 99), 1)), ReasonNoRule)
	refused(t, "its answer", f.Ingress(udp(at(alice4, 99), at(self4, 5000), 1)), ReasonNoRule)
	refused(t, "ingress", f.Ingress(udp(at(alice4, 53), at(self4, 5001), 1)), ReasonNoRule)
	refused(t, "its answer", f.Egress(udp(at(self4, 5001), at(alice4, 54), 1)), ReasonNoRule)
	if st := f.Stats(); st.Flows != 0 || st.Fragmented != 0 {
		t.Errorf("%d flows, %d fragmented packets left by refused ones", st.Flows, st.Fragmented)
	}
}

func TestTCPSequenceAttacks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		attack func(c *conn) Result
		want   Reason
	}{
		{"reset one before the window", func(c *conn) Result { s := c.inward(fRST, 0); s.seq--; return c.f.Ingress(s.bytes()) }, ReasonTCPWindow},
		{"reset beyond the window", func(c *conn) Result { s := c.inward(fRST, 0); s.seq += 64001; return c.f.Ingress(s.bytes()) }, ReasonTCPWindow},
		{"reset of seq 0", func(c *conn) Result { s := c.inward(fRST, 0); s.seq = 0; return c.f.Ingress(s.bytes()) }, ReasonTCPWindow},
		{"local reset out of window", func(c *conn) Result { s := c.outward(fRST, 0); s.seq -= 5000; return c.f.Egress(s.bytes()) }, ReasonTCPWindow},
		{"data far beyond the window", func(c *conn) Result { s := c.inward(fACK, 9); s.seq += 1 << 20; return c.f.Ingress(s.bytes()) }, ReasonTCPWindow},
		{"data far before the window", func(c *conn) Result { s := c.inward(fACK, 9); s.seq -= 1 << 20; return c.f.Ingress(s.bytes()) }, ReasonTCPWindow},
		{"FIN far beyond the window", func(c *conn) Result { s := c.inward(fACK|fFIN, 0); s.seq += 1 << 20; return c.f.Ingress(s.bytes()) }, ReasonTCPWindow},
		{"acknowledging what was never sent", func(c *conn) Result { s := c.inward(fACK, 0); s.ack += 1; return c.f.Ingress(s.bytes()) }, ReasonTCPWindow},
		{"acknowledging the distant past", func(c *conn) Result { s := c.inward(fACK, 0); s.ack -= 1 << 24; return c.f.Ingress(s.bytes()) }, ReasonTCPWindow},
		{"data without ACK", func(c *conn) Result { return c.f.Ingress(c.inward(0, 5).bytes()) }, ReasonTCPFlags},
		{"SYN+FIN", func(c *conn) Result { return c.f.Ingress(c.inward(fSYN|fFIN, 0).bytes()) }, ReasonTCPFlags},
		{"SYN+RST", func(c *conn) Result { return c.f.Ingress(c.inward(fSYN|fRST, 0).bytes()) }, ReasonTCPFlags},
		{"RST+FIN", func(c *conn) Result { return c.f.Ingress(c.inward(fRST|fFIN, 0).bytes()) }, ReasonTCPFlags},
		{"all flags", func(c *conn) Result { return c.f.Ingress(c.inward(63, 0).bytes()) }, ReasonTCPFlags},
		{"SYN by the answering end", func(c *conn) Result { return c.f.Ingress(c.inward(fSYN, 0).bytes()) }, ReasonTCPOpen},
		{"SYN+ACK by the opener", func(c *conn) Result { return c.f.Egress(c.outward(fSYN|fACK, 0).bytes()) }, ReasonTCPFlags},
		{"another SYN+ACK", func(c *conn) Result { return c.f.Ingress(c.inward(fSYN|fACK, 0).bytes()) }, ReasonTCPWindow},
		{"reset with a wrong checksum", func(c *conn) Result {
			b := c.inward(fRST, 0).bytes()
			b[len(b)-4] ^= 1
			return c.f.Ingress(b)
		}, reasonOfFault(packet.FaultTransport)},
		{"spoofed by another peer", func(c *conn) Result {
			s := c.inward(fRST, 0)
			s.from = at(bob4, 80)
			return c.f.Ingress(s.bytes())
		}, ReasonNoFlow},
		{"our own segment coming in", func(c *conn) Result { return c.f.Ingress(c.outward(fACK, 5).bytes()) }, ReasonNoFlow},
		{"the peer's segment going out", func(c *conn) Result { return c.f.Egress(c.inward(fACK, 5).bytes()) }, ReasonNoFlow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			families(t, func(t *testing.T, self, alice netip.Addr) {
				if self.Is6() && tt.name == "spoofed by another peer" {
					t.Skip("addresses of IPv4")
				}
				c := dial(t, newFilter(t, outRule(tcpPort(80))), at(self, 40000), at(alice, 80), true)
				passes(t, "data", c.send(fACK|fPSH, 100))
				passes(t, "data", c.recv(fACK, 200))
				passes(t, "acknowledgment", c.send(fACK, 0))
				refused(t, "attack", tt.attack(c), tt.want)
				passes(t, "data after the attack", c.recv(fACK, 1400))
				passes(t, "answer after the attack", c.send(fACK, 1400))
			})
		})
	}
}

func TestTCPBeforeTheAnswer(t *testing.T) {
	opened := func(t *testing.T) *conn {
		c := &conn{f: newFilter(t, outRule(tcpPort(80)), inRule(tcpPort(40000))), local: at(self4, 40000), remote: at(alice4, 80), snd: 1000, rcv: 9000}
		passes(t, "SYN", c.send(fSYN, 0))
		return c
	}
	c := opened(t)
	refused(t, "simultaneous open", c.f.Ingress(c.inward(fSYN, 0).bytes()), ReasonTCPOpen)
	s := c.inward(fSYN|fACK, 0)
	s.ack++
	refused(t, "SYN+ACK of another SYN", c.f.Ingress(s.bytes()), ReasonTCPWindow)
	refused(t, "data before the answer", c.f.Ingress(c.inward(fACK, 5).bytes()), ReasonTCPWindow)
	refused(t, "opener's data before the answer", c.f.Egress(c.outward(fACK, 5).bytes()), ReasonTCPWindow)
	refused(t, "reset without ACK", c.f.Ingress(c.inward(fRST, 0).bytes()), ReasonTCPWindow)
	s = c.inward(fRST|fACK, 0)
	s.ack--
	refused(t, "reset of another SYN", c.f.Ingress(s.bytes()), ReasonTCPWindow)
	passes(t, "SYN again", c.f.Egress(seg{from: c.local, to: c.remote, seq: 1000, flags: fSYN}.bytes()))
	passes(t, "refused connection", c.f.Ingress(c.inward(fRST|fACK, 0).bytes()))
	refused(t, "late SYN+ACK", c.f.Ingress(c.inward(fSYN|fACK, 0).bytes()), ReasonTCPClosed)

	c = opened(t)
	// The far end still holds an older connection, and is told to let go of it.
	challenge := c.inward(fACK, 0)
	challenge.ack = 777
	passes(t, "challenge", c.f.Ingress(challenge.bytes()))
	refused(t, "any reset", c.f.Egress(seg{from: c.local, to: c.remote, seq: 778, flags: fRST}.bytes()), ReasonTCPWindow)
	passes(t, "the reset asked for", c.f.Egress(seg{from: c.local, to: c.remote, seq: 777, flags: fRST}.bytes()))
	passes(t, "SYN+ACK", c.recv(fSYN|fACK, 0))
	passes(t, "ACK", c.send(fACK, 10))
}

func TestTCPReset(t *testing.T) {
	c := dial(t, newFilter(t, outRule(tcpPort(80))), at(self4, 40000), at(alice4, 80), true)
	passes(t, "exact reset", c.f.Ingress(c.inward(fRST, 0).bytes()))
	refused(t, "data after it", c.send(fACK, 5), ReasonTCPClosed)
	refused(t, "data after it", c.recv(fACK, 5), ReasonTCPClosed)
	if n := len(c.f.Flows()); n != 0 {
		t.Errorf("%d flows live after a reset", n)
	}

	// A reset in the window but not exact may be challenged by its receiver: the answer must get through.
	c = dial(t, newFilter(t, outRule(tcpPort(80))), at(self4, 40000), at(alice4, 80), true)
	s := c.inward(fRST, 0)
	s.seq += 1000
	passes(t, "reset in window", c.f.Ingress(s.bytes()))
	passes(t, "challenge", c.send(fACK, 0))
	passes(t, "exact reset", c.f.Ingress(c.inward(fRST, 0).bytes()))
	refused(t, "data", c.send(fACK, 5), ReasonTCPClosed)
}

func TestTCPWindowScale(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80)))
	local, remote := at(self4, 40000), at(alice4, 80)
	passes(t, "SYN", f.Egress(seg{from: local, to: remote, seq: 99, flags: fSYN, scale: 1 + 7}.bytes()))
	passes(t, "SYN+ACK", f.Ingress(seg{from: remote, to: local, seq: 499, ack: 100, flags: fSYN | fACK, scale: 1 + 7}.bytes()))
	passes(t, "ACK", f.Egress(seg{from: local, to: remote, seq: 100, ack: 500, flags: fACK, window: 10000}.bytes()))
	passes(t, "segment 1 MB ahead", f.Ingress(seg{from: remote, to: local, seq: 1 << 20, ack: 100, flags: fACK, data: 1000}.bytes()))
	refused(t, "segment 2 MB ahead", f.Ingress(seg{from: remote, to: local, seq: 2 << 20, ack: 100, flags: fACK, data: 1000}.bytes()), ReasonTCPWindow)

	// Without the option at both ends there is no scale.
	f = newFilter(t, outRule(tcpPort(80)))
	passes(t, "SYN", f.Egress(seg{from: local, to: remote, seq: 99, flags: fSYN, scale: 1 + 7}.bytes()))
	passes(t, "SYN+ACK", f.Ingress(seg{from: remote, to: local, seq: 499, ack: 100, flags: fSYN | fACK}.bytes()))
	passes(t, "ACK", f.Egress(seg{from: local, to: remote, seq: 100, ack: 500, flags: fACK, window: 10000}.bytes()))
	refused(t, "segment 1 MB ahead", f.Ingress(seg{from: remote, to: local, seq: 1 << 20, ack: 100, flags: fACK, data: 1000}.bytes()), ReasonTCPWindow)
}

func TestTCPClose(t *testing.T) {
	for name, out := range map[string]bool{"opened out": true, "opened in": false} {
		t.Run(name, func(t *testing.T) {
			f := newFilter(t, outRule(tcpPort(80)), inRule(tcpPort(40000)))
			c := dial(t, f, at(self4, 40000), at(alice4, 80), out)
			passes(t, "FIN", c.send(fFIN|fACK, 0))
			passes(t, "data the other way", c.recv(fACK, 500))
			passes(t, "its acknowledgment", c.send(fACK, 0))
			refused(t, "data after FIN", f.Egress(c.outward(fACK, 5).bytes()), ReasonTCPWindow)
			passes(t, "FIN back", c.recv(fFIN|fACK, 0))
			passes(t, "last ACK", c.send(fACK, 0))
			passes(t, "last ACK again", c.send(fACK, 0))
			if n := len(f.Flows()); n != 0 {
				t.Errorf("%d flows live after both closed", n)
			}
			refused(t, "data after the close", c.recv(fACK, 5), ReasonTCPWindow)
			// The ports are used again.
			c = dial(t, f, at(self4, 40000), at(alice4, 80), out)
			passes(t, "data of the next connection", c.send(fACK, 5))
		})
	}
}

// A closed connection's ports opened again are judged by the rules in force, not by the old flow.
func TestReusedPortsAreJudgedAnew(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80)))
	c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
	passes(t, "reset", c.f.Ingress(c.inward(fRST, 0).bytes()))
	refused(t, "SYN the other way", f.Ingress(seg{from: c.remote, to: c.local, seq: 1, flags: fSYN}.bytes()), ReasonNoRule)
	passes(t, "SYN the same way", f.Egress(seg{from: c.local, to: c.remote, seq: 1, flags: fSYN}.bytes()))
}

func TestAddresses(t *testing.T) {
	v4 := netip.MustParseAddr
	f := newFilter(t, acl.Rule{Src: acl.Set{Roles: []acl.RoleID{roleAny}, Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
		Dst: acl.Set{Roles: []acl.RoleID{roleAny}, Prefixes: prefixes("0.0.0.0/0"), Beyond: prefixes("0.0.0.0/0")}, Ports: []acl.Ports{whole4(acl.UDP)}})
	p := *f.policyForTest()
	// Bob is an exit node: everything that is nobody's own lies behind him, were it not for what no address can be.
	p.Subjects[2].Routes = append(p.Subjects[2].Routes, netip.MustParsePrefix("0.0.0.0/0"))
	f.Swap(&Policy{Self: "self", Rules: &p, NotAfter: time.Now().Add(time.Hour)})
	mapped := udp(at(alice6, 5000), at(self6, 53), 1)
	copy(mapped[8:24], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 100, 64, 0, 2})
	for _, tt := range []struct {
		name string
		got  Result
		want Reason
	}{
		{"multicast", f.Egress(udp(at(self4, 5353), at(v4("224.0.0.251"), 5353), 1)), ReasonMulticast},
		{"IPv6 multicast", f.Egress(udp(at(self6, 5353), at(v4("ff02::fb"), 5353), 1)), ReasonMulticast},
		{"router solicitation", f.Egress(icmp(v4("fe80::1"), v4("ff02::2"), 133, 0, make([]byte, 4))), ReasonMulticast},
		{"neighbour solicitation", f.Ingress(icmp(alice6, self6, 135, 0, make([]byte, 20))), ReasonICMPType},
		{"redirect", f.Ingress(icmp(alice4, self4, 5, 0, make([]byte, 32))), ReasonICMPType},
		{"broadcast", f.Egress(udp(at(self4, 68), at(v4("255.255.255.255"), 67), 1)), ReasonMulticast},
		{"link-local source", f.Ingress(udp(at(v4("169.254.0.1"), 5000), at(self4, 53), 1)), ReasonAddress},
		{"loopback source", f.Ingress(udp(at(v4("127.0.0.1"), 5000), at(self4, 53), 1)), ReasonAddress},
		{"loopback destination", f.Ingress(udp(at(alice4, 5000), at(v4("127.0.0.1"), 53), 1)), ReasonAddress},
		{"unspecified source", f.Ingress(udp(at(v4("0.0.0.0"), 5000), at(self4, 53), 1)), ReasonAddress},
		{"reserved source", f.Ingress(udp(at(v4("240.0.0.1"), 5000), at(self4, 53), 1)), ReasonAddress},
		{"multicast source", f.Ingress(udp(at(v4("224.0.0.1"), 5000), at(self4, 53), 1)), ReasonAddress},
		{"mapped source", f.Ingress(mapped), ReasonAddress},
		{"our own source from outside", f.Ingress(udp(at(self4, 5000), at(self4, 53), 1)), ReasonUnknownPeer},
		{"not to us", f.Ingress(udp(at(alice4, 5000), at(bob4, 53), 1)), ReasonNotOurs},
		{"alice to what lies behind bob", f.Ingress(udp(at(alice4, 5000), at(behindBob, 53), 1)), ReasonNotOurs},
		{"not from us", f.Egress(udp(at(alice4, 5000), at(bob4, 53), 1)), ReasonNotOurs},
		{"to ourselves", f.Egress(udp(at(self4, 5000), at(self4, 53), 1)), ReasonUnknownPeer},
		{"from nobody's IPv6 address", f.Ingress(udp(at(v4("2001:db8::1"), 5000), at(self6, 53), 1)), ReasonUnknownPeer},
		{"to nobody's IPv6 address", f.Egress(udp(at(self6, 5000), at(v4("2001:db8::1"), 53), 1)), ReasonUnknownPeer},
	} {
		refused(t, tt.name, tt.got, tt.want)
	}
	passes(t, "through our route", f.Ingress(udp(at(alice4, 5000), at(behindSelf, 53), 1)))
	passes(t, "from our route", f.Egress(udp(at(behindSelf, 5000), at(behindBob, 53), 1)))
	passes(t, "through the exit", f.Egress(udp(at(self4, 5000), at(v4("9.9.9.9"), 53), 1)))
}

// policyForTest is a copy of the ruleset in force that may be changed.
func (f *Filter) policyForTest() *acl.Ruleset {
	rs := *f.rules.Load().sets[0].source
	rs.Subjects = append([]acl.Subject(nil), rs.Subjects...)
	return &rs
}

// R9, R11: an address that two nodes claim is nobody's.
func TestAddressOfTwoNodesIsNobodys(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)))
	rs := f.policyForTest()
	rs.Subjects[2].Addresses = []netip.Addr{bob4, alice4}
	f.Swap(&Policy{Self: "self", Rules: rs, NotAfter: time.Now().Add(time.Hour)})
	refused(t, "to the address", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), ReasonUnknownPeer)
	passes(t, "to alice's other one", f.Egress(udp(at(self6, 5000), at(alice6, 53), 1)))
}

func TestRulesThatMustNotHold(t *testing.T) {
	for name, rule := range map[string]acl.Rule{
		"zero rule":                {},
		"unknown restriction":      {Src: roles(roleSelf), Dst: roles(roleAlice), Ports: []acl.Ports{udpPort(53)}, Restrictions: []acl.Restriction{{Kind: "full-moon"}}},
		"no ports":                 {Src: roles(roleSelf), Dst: roles(roleAlice)},
		"other way round":          {Src: roles(roleAlice), Dst: roles(roleSelf), Ports: []acl.Ports{udpPort(53)}},
		"empty source":             {Dst: roles(roleAlice), Ports: []acl.Ports{udpPort(53)}},
		"empty destination":        {Src: roles(roleSelf), Ports: []acl.Ports{udpPort(53)}},
		"ports upside down":        {Src: roles(roleSelf), Dst: roles(roleAlice), Ports: []acl.Ports{{Proto: acl.UDP, First: 100, Last: 1}}},
		"another node's address":   {Src: roles(roleSelf), Dst: acl.Set{Prefixes: prefixes("100.64.0.3/32")}, Ports: []acl.Ports{udpPort(53)}},
		"what lies beyond an exit": {Src: roles(roleSelf), Dst: acl.Set{Beyond: prefixes("0.0.0.0/0")}, Ports: []acl.Ports{udpPort(53)}},
		"a posture not met":        {Src: roles(roleSelf), SrcPosture: []acl.RoleID{roleAlice}, Dst: roles(roleAlice), Ports: []acl.Ports{udpPort(53)}},
		"via a router":             {Src: roles(roleSelf), Dst: roles(roleAlice), Via: []acl.RoleID{roleAlice}, Ports: []acl.Ports{udpPort(53)}},
		"ended":                    {Src: roles(roleSelf), Dst: roles(roleAlice), Ports: []acl.Ports{udpPort(53)}, Until: time.Now().UnixMilli() - 1},
		"TCP":                      {Src: roles(roleSelf), Dst: roles(roleAlice), Ports: []acl.Ports{tcpPort(53)}},
	} {
		f := newFilter(t, rule)
		refused(t, name, f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)), ReasonNoRule)
	}
	same := outRule(udpPort(53))
	same.SameOwner = true
	passes(t, "same owner", newFilter(t, same).Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
	same.Dst = roles(roleBob)
	f := newFilter(t, same)
	toBob := udp(at(self4, 5000), at(bob4, 53), 1)
	refused(t, "another owner", f.Egress(toBob), ReasonNoRule)
	rs := f.policyForTest()
	rs.Subjects[0].Owner = ""
	f.Swap(&Policy{Self: "self", Rules: rs, NotAfter: time.Now().Add(time.Hour)})
	refused(t, "two tagged nodes, though neither has an owner", f.Egress(toBob), ReasonNoRule)
}

// A prefix with bits behind its mask, or of mapped addresses, means nothing (R34).
func TestUnmaskedPrefixMatchesNothing(t *testing.T) {
	for _, prefix := range []string{"10.2.0.9/16", "::ffff:10.2.0.0/112"} {
		rule := acl.Rule{Src: roles(roleSelf), Dst: acl.Set{Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}, Ports: []acl.Ports{udpPort(53)}}
		refused(t, prefix, newFilter(t, rule).Egress(udp(at(self4, 5000), at(behindBob, 53), 1)), ReasonNoRule)
	}
	rule := acl.Rule{Src: roles(roleSelf), Dst: acl.Set{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}}, Ports: []acl.Ports{udpPort(53)}}
	passes(t, "masked", newFilter(t, rule).Egress(udp(at(self4, 5000), at(behindBob, 53), 1)))
	rule.Dst.Roles = []acl.RoleID{roleBob}
	rule.Dst.Prefixes = nil
	refused(t, "a role says nothing of what lies behind the node", newFilter(t, rule).Egress(udp(at(self4, 5000), at(behindBob, 53), 1)), ReasonNoRule)
}

func TestICMPEcho(t *testing.T) {
	families(t, func(t *testing.T, self, alice netip.Addr) {
		proto := acl.ICMP
		if self.Is6() {
			proto = acl.ICMPv6
		}
		f := newFilter(t, outRule(whole4(proto)))
		refused(t, "reply of nothing", f.Ingress(echo(alice, self, 7, true)), ReasonNoFlow)
		refused(t, "our reply of nothing", f.Egress(echo(self, alice, 7, true)), ReasonNoFlow)
		refused(t, "request the other way", f.Ingress(echo(alice, self, 7, false)), ReasonNoRule)
		passes(t, "request", f.Egress(echo(self, alice, 7, false)))
		passes(t, "reply", f.Ingress(echo(alice, self, 7, true)))
		refused(t, "reply with another id", f.Ingress(echo(alice, self, 8, true)), ReasonNoFlow)
		refused(t, "request with the flow's id", f.Ingress(echo(alice, self, 7, false)), ReasonNoRule)
		refused(t, "our reply in our flow", f.Egress(echo(self, alice, 7, true)), ReasonNoFlow)
		bob := bob4
		if self.Is6() {
			bob = bob6
		}
		refused(t, "reply from another", f.Ingress(echo(bob, self, 7, true)), ReasonNoFlow)
		// With id 0 nothing but the type tells request from reply.
		passes(t, "request of id 0", f.Egress(echo(self, alice, 0, false)))
		refused(t, "request of id 0 the other way", f.Ingress(echo(alice, self, 0, false)), ReasonNoRule)
		passes(t, "reply of id 0", f.Ingress(echo(alice, self, 0, true)))
	})
	f := newFilter(t, outRule(whole4(acl.ICMP), whole4(acl.ICMPv6)), inRule(whole4(acl.ICMP), whole4(acl.ICMPv6)))
	for typ := range 256 {
		for _, code := range []uint8{0, 1} {
			in4 := f.Ingress(icmp(alice4, self4, uint8(typ), code, make([]byte, 40)))
			in6 := f.Ingress(icmp(alice6, self6, uint8(typ), code, make([]byte, 80)))
			if (in4.Verdict == Pass) != (typ == 8 && code == 0) || (in6.Verdict == Pass) != (typ == 128 && code == 0) {
				t.Errorf("type %d code %d: %v, %v", typ, code, in4, in6)
			}
		}
	}
}

func TestICMPErrors(t *testing.T) {
	families(t, func(t *testing.T, self, alice netip.Addr) {
		f := newFilter(t, outRule(udpPort(53), tcpPort(80)), inRule(udpPort(53)))
		ours := udp(at(self, 5000), at(alice, 53), 30)
		passes(t, "UDP out", f.Egress(ours))
		passes(t, "UDP in", f.Ingress(udp(at(alice, 6000), at(self, 53), 30)))
		bob, ipHeader := bob4, 20
		if self.Is6() {
			bob, ipHeader = bob6, 40
		}
		for _, tt := range []struct {
			name string
			got  Result
			want Reason
		}{
			{"about a packet never sent", f.Ingress(unreachable(alice, self, udp(at(self, 5001), at(alice, 53), 30))), ReasonICMPQuote},
			{"about the peer's own packet", f.Ingress(unreachable(alice, self, udp(at(alice, 53), at(self, 5000), 30))), ReasonICMPQuote},
			{"about an answer never given", f.Ingress(unreachable(alice, self, udp(at(self, 53), at(alice, 6000), 30))), ReasonICMPQuote},
			{"from another peer", f.Ingress(unreachable(bob, self, ours)), ReasonICMPQuote},
			{"from nobody", f.Ingress(unreachable(netip.MustParseAddr("2001:db8::1"), self6, ours)), ReasonICMPQuote},
			{"to one whose packet it was not", f.Ingress(unreachable(alice, bob, ours)), ReasonICMPQuote},
			{"quoting 7 bytes of transport", f.Ingress(unreachable(alice, self, ours[:ipHeader+7])), ReasonICMPQuote},
			{"quoting half an IP header", f.Ingress(unreachable(alice, self, ours[:ipHeader/2])), ReasonICMPQuote},
			{"quoting nothing", f.Ingress(unreachable(alice, self, nil)), ReasonICMPQuote},
			{"quoting an error", f.Ingress(unreachable(alice, self, unreachable(self, alice, ours))), ReasonICMPQuote},
			{"going out about our own packet", f.Egress(unreachable(self, alice, ours)), ReasonICMPQuote},
			{"quoting TCP ports of a UDP flow", f.Ingress(unreachable(alice, self, seg{from: at(self, 5000), to: at(alice, 53), flags: fSYN}.bytes())), ReasonICMPQuote},
		} {
			refused(t, tt.name, tt.got, tt.want)
		}
		passes(t, "about ours", f.Ingress(unreachable(alice, self, ours)))
		passes(t, "about ours, cut short", f.Ingress(unreachable(alice, self, ours[:ipHeader+8])))
		passes(t, "about theirs", f.Egress(unreachable(self, alice, udp(at(alice, 6000), at(self, 53), 30))))

		// The unused bytes of an error read like the id 0 of an echo.
		pings := newFilter(t, inRule(whole4(acl.ICMP), whole4(acl.ICMPv6)))
		passes(t, "request of id 0", pings.Ingress(echo(alice, self, 0, false)))
		passes(t, "reply of id 0", pings.Egress(echo(self, alice, 0, true)))
		refused(t, "quoting an error beside an echo of id 0", pings.Ingress(unreachable(alice, self, unreachable(self, alice, ours))), ReasonICMPQuote)

		c := dial(t, f, at(self, 40000), at(alice, 80), true)
		passes(t, "data", c.send(fACK, 100))
		s := c.outward(fACK, 100)
		s.seq = c.snd - 100
		passes(t, "about a segment", f.Ingress(unreachable(alice, self, s.bytes()[:ipHeader+8])))
		s.seq = c.snd + 1
		refused(t, "about a segment not yet sent", f.Ingress(unreachable(alice, self, s.bytes())), ReasonICMPQuote)
		s.seq = c.snd - 1<<24
		refused(t, "about a segment of the distant past", f.Ingress(unreachable(alice, self, s.bytes())), ReasonICMPQuote)
		passes(t, "packet too big for an answer", f.Egress(unreachable(self, alice, c.inward(fACK, 0).bytes())))

		f.Swap(policyOf())
		refused(t, "about a cut flow", f.Ingress(unreachable(alice, self, ours)), ReasonICMPQuote)
	})
}

func TestOtherProtocols(t *testing.T) {
	const gre = acl.Proto(47)
	f := newFilter(t, outRule(whole4(gre)))
	raw := func(from, to netip.Addr, proto uint8) []byte { return ip(from, to, proto, make([]byte, 24)) }
	refused(t, "unnamed protocol", f.Egress(raw(self4, alice4, 50)), ReasonNoRule)
	refused(t, "before it was opened", f.Ingress(raw(alice4, self4, 47)), ReasonNoRule)
	passes(t, "named protocol", f.Egress(raw(self4, alice4, 47)))
	passes(t, "answer", f.Ingress(raw(alice4, self4, 47)))
	refused(t, "from another", f.Ingress(raw(bob4, self4, 47)), ReasonNoRule)
	refused(t, "with a port rule only for TCP", newFilter(t, outRule(whole4(acl.TCP))).Egress(raw(self4, alice4, 47)), ReasonNoRule)
	f = newFilter(t, outRule(acl.Ports{Proto: acl.SCTP, First: 36412, Last: 36412}))
	sctp := func(port uint16) []byte {
		b := udp(at(self4, 5000), at(alice4, port), 8)
		b[9] = 132
		sum4(b)
		return b
	}
	passes(t, "SCTP to the port", f.Egress(sctp(36412)))
	refused(t, "SCTP to another port", f.Egress(sctp(36413)), ReasonNoRule)
}

func TestFaultsHaveReasons(t *testing.T) {
	f := newFilter(t, outRule(udpPort(53)))
	f.Egress(nil)
	f.Ingress(make([]byte, 39))
	v6 := udp(at(alice6, 1), at(self6, 2), 0)
	f.Ingress(v6[:39])
	st := f.Stats()
	if st.EgressDenied["short"] != 1 || st.IngressDenied["ip-version"] != 1 || st.IngressDenied["short"] != 1 {
		t.Errorf("counted %v and %v", st.EgressDenied, st.IngressDenied)
	}
	seen := map[string]bool{}
	for r := ReasonNone + 1; r < numReasons; r++ {
		name := r.String()
		if r == reasonOfFault(packet.FaultNone) {
			continue
		}
		if name == "" || seen[name] {
			t.Errorf("reason %d is called %q", r, name)
		}
		seen[name] = true
	}
}
