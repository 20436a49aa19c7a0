package path

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

// captive are two nodes that talk, and a third host whose owner reads and forges everything between them.
type captive struct {
	net          *nettest.Network
	a, b         *node
	hostA, hostB *nettest.Host
	evil         *nettest.Host
	seen         *recorder
}

func newCaptive(t *testing.T, change ...func(*Config)) captive {
	n := lab(1)
	c := captive{net: n, hostA: n.Host(addrA), hostB: n.Host(addrB), evil: n.Host(addrX), seen: record(n)}
	c.a, c.b = start(t, c.hostA, change...), start(t, c.hostB, change...)
	return c
}

// withhold cuts the link between a and b while f runs, and returns the probes that a sent to b in vain.
func (c captive) withhold(f func()) (probes [][]byte) {
	before := len(c.seen.matching(toProbe(addrB)))
	c.net.SetLink(c.hostA, c.hostB, nettest.Link{Down: true})
	f()
	for _, d := range c.seen.matching(toProbe(addrB))[before:] {
		probes = append(probes, d.Payload)
	}
	c.net.SetLink(c.hostA, c.hostB, nettest.Link{Latency: latency})
	return probes
}

func toProbe(a netip.Addr) func(nettest.Datagram) bool {
	return func(d nettest.Datagram) bool { return d.To.Addr() == a && looksLikeProbe(d.Payload) }
}

func TestStrangersGetNoAnswerAndLeaveNoTrace(t *testing.T) {
	for _, tt := range []struct {
		name     string
		datagram []byte
		want     Drop
	}{
		{"handshake initiation", initiation(), DropStranger},
		{"transport message", datagram("x"), DropStranger},
		{"nothing known", []byte("GET / HTTP/1.1\r\n\r\n......................"), DropForeign},
		{"one byte", []byte{4}, DropForeign},
		{"STUN binding request", append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 40)...), DropForeign},
		{"half a probe", append([]byte("pkt\x02"), make([]byte, 60)...), DropMalformed},
		{"padded probe of nobody", append([]byte("pkt\x02"), make([]byte, 1400)...), DropUnknown},
		{"probe of version 1", append([]byte("pkt\x01"), make([]byte, 124)...), DropMalformed},
		{"probe of nobody", append([]byte("pkt\x02"), make([]byte, 124)...), DropUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCaptive(t)
				meet(c.a, c.b, at2(addrB), at(addrA))
				for range 10 {
					c.evil.Inject(at(addrX), at(addrA), tt.datagram)
				}
				time.Sleep(time.Minute)
				if got := c.a.take(); len(got) != 0 {
					t.Errorf("handed up: %+v", got)
				}
				if diff := cmp.Diff(Stats{Peers: 1, Drops: map[Drop]uint64{tt.want: 10}}, c.a.Stats()); diff != "" {
					t.Error(diff)
				}
				if got := c.seen.matching(to(addrX)); len(got) != 0 {
					t.Errorf("answered %d times", len(got))
				}
			})
		})
	}
}

func TestPathIsNeverLearntFromAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB), at(addrA))
		chat(c.a, c.b, 5*time.Second)
		c.a.send(c.b, "recorded")
		time.Sleep(latency)
		for _, d := range c.seen.matching(to(addrB)) {
			c.evil.Inject(at(addrX), at(addrB), d.Payload) // everything, handshakes and probes alike
		}
		time.Sleep(time.Second)
		c.b.take()
		// Even an endpoint that came with the attacker's datagram leads to the proved path.
		if err := c.b.Send([][]byte{datagram("answer")}, &Endpoint{bind: c.b.Bind, tunnel: c.a.tunnel, from: at(addrX)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := c.seen.matching(to(addrX)); len(got) != 0 {
			t.Errorf("%d datagrams went to the attacker", len(got))
		}
		if got := c.b.status(c.a).Addr; got != at(addrA) {
			t.Errorf("path %v", got)
		}
	})
}

func TestReplayedPingHasNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB), at(addrA))
		chat(c.a, c.b, 5*time.Second)
		pings, pongs := c.b.Stats().Pings, c.b.Stats().Pongs
		for _, d := range c.seen.matching(toProbe(addrB)) {
			c.evil.Inject(at(addrX), at(addrB), d.Payload)
		}
		time.Sleep(100 * time.Millisecond)
		c.evil.Inject(at(addrX), at(addrB), initiation())
		time.Sleep(100 * time.Millisecond)
		if s := c.b.Stats(); s.Pings-pings > 1 || s.Pongs-pongs > 1 || s.Drops[DropReplayed] == 0 || s.Drops[DropStranger] == 0 {
			t.Errorf("%+v", s)
		}
		if got := c.seen.matching(to(addrX)); len(got) != 0 {
			t.Errorf("%d datagrams went to the attacker", len(got))
		}
	})
}

func TestWithheldPingFromAForgedAddressMovesNoPathAndIsNotAmplified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB), at(addrA))
		chat(c.a, c.b, 5*time.Second)
		withheld := c.withhold(func() {
			c.a.Reprobe()
			time.Sleep(100 * time.Millisecond)
		})
		if len(withheld) == 0 {
			t.Fatal("nothing withheld")
		}
		for _, p := range withheld { // one ping, and what a answered meanwhile
			c.evil.Inject(at(addrX), at(addrB), p)
		}
		for range 100 {
			chat(c.a, c.b, time.Second)
			if got := c.b.status(c.a).Addr; got != at(addrA) {
				t.Fatalf("path %v", got)
			}
		}
		size := 0
		for _, d := range c.seen.matching(to(addrX)) {
			size += len(d.Payload)
			if !looksLikeProbe(d.Payload) {
				t.Error("a datagram of WireGuard's went to the attacker's address")
			}
		}
		if size == 0 || size > 5*probeSize {
			t.Errorf("%d bytes went to a forged address for one ping of %d", size, probeSize)
		}
		if got := c.b.table.heard(at(addrX)); got != 0 {
			t.Error("the address is still bound")
		}
	})
}

func TestWithheldPingsBindOnlyFourAddressesAndOnlyForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB), at(addrA))
		chat(c.a, c.b, time.Second)
		withheld := c.withhold(func() {
			for range 30 {
				c.a.send(c.b, "x")
				time.Sleep(200 * time.Millisecond)
			}
		})
		if len(withheld) < 8 {
			t.Fatalf("%d probes withheld", len(withheld))
		}
		for i, p := range withheld {
			c.evil.Inject(netip.AddrPortFrom(addrX, uint16(1000+i)), at(addrB), p)
		}
		time.Sleep(latency)
		c.b.take()
		probe := func() {
			for i := range withheld {
				c.evil.Inject(netip.AddrPortFrom(addrX, uint16(1000+i)), at(addrB), datagram(fmt.Sprint(i)))
			}
			time.Sleep(latency)
		}
		probe()
		if got := len(c.b.take()); got == 0 || got > maxProvisional {
			t.Errorf("%d forged addresses are bound", got)
		}
		if got := c.b.sizes(); got.candidates > 1+maxReflexive {
			t.Errorf("%+v", got)
		}
		time.Sleep(bindingLife)
		c.b.take()
		probe()
		if got := c.b.texts(); got != nil {
			t.Errorf("still bound: %q", got)
		}
	})
}

func TestPongProvesNothingButTheAddressAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB, addrX))
		// b's answers are diverted: a sees them come from the attacker, whose address a has asked as well.
		c.a.send(c.b, "x")
		synctest.Wait()
		c.net.SetLink(c.hostA, c.hostB, nettest.Link{Down: true}) // behind the ping, before the answer
		time.Sleep(latency)
		answers := c.seen.matching(toProbe(addrA))
		if len(answers) == 0 {
			t.Fatal("b did not answer")
		}
		for _, d := range answers {
			c.evil.Inject(at(addrX), at(addrA), d.Payload)
			c.evil.Inject(netip.AddrPortFrom(addrX, 9), at(addrA), d.Payload)
		}
		c.evil.Inject(at(addrX), at(addrA), boxTo(t, c.b, c.a).seal(message{kind: pong, transaction: newTransaction(), observed: at(addrX)}))
		time.Sleep(2 * latency)
		if s := c.a.status(c.b); s.Kind != "" {
			t.Errorf("path %+v", s)
		}
		if got := c.a.dropped(DropUnasked); got < 3 {
			t.Errorf("drops %v", c.a.Stats().Drops)
		}
	})
}

func TestPongIsTakenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB))
		chat(c.a, c.b, time.Second)
		c.net.SetLink(c.hostA, c.hostB, nettest.Link{Down: true})
		answers := c.seen.matching(toProbe(addrA))
		for range 40 { // a dead path is not kept alive by old answers
			for _, d := range answers {
				c.evil.Inject(at(addrB), at(addrA), d.Payload)
			}
			c.a.send(c.b, "x")
			time.Sleep(250 * time.Millisecond)
		}
		if s := c.a.status(c.b); s.Kind != "" {
			t.Errorf("path %+v", s)
		}
	})
}

func TestAnswerLaterThanFiveSecondsProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nettest.New(1)
		n.SetDefault(nettest.Link{Latency: answerLife/2 + time.Millisecond})
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrB))
		for range 60 {
			a.send(b, "x")
			time.Sleep(time.Second)
		}
		if s := a.status(b); s.Kind != "" || a.dropped(DropUnasked) == 0 {
			t.Errorf("path %+v, drops %v", s, a.Stats().Drops)
		}
	})
}

func TestForgedDatagramsKeepNoDeadPathAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB))
		chat(c.a, c.b, time.Second)
		c.net.SetLink(c.hostA, c.hostB, nettest.Link{Down: true})
		for range 100 {
			c.evil.Inject(at(addrB), at(addrA), datagram("forged"))
			c.a.send(c.b, "x")
			time.Sleep(100 * time.Millisecond)
		}
		if s := c.a.status(c.b); s.Kind != "" {
			t.Errorf("path %+v", s)
		}
	})
}

func TestInsiderCannotTakeAnotherPeersAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB), at(addrA))
		insider := start(t, c.net.Host(addrC))
		meet(insider, c.b, at2(addrB), at(addrC))
		chat(c.a, c.b, time.Second)
		forged := boxTo(t, insider, c.b)
		for i := range uint64(100) {
			insider.host.Inject(at(addrA), at(addrB), forged.seal(message{kind: ping, transaction: newTransaction(), sequence: i + 1, tunnel: insider.tunnel}))
			c.a.send(c.b, "x")
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(latency)
		got := c.b.take()
		for _, x := range got {
			if x.Peer != c.a.tunnel {
				t.Fatalf("a's datagrams pass for the insider's: %+v", x)
			}
		}
		if len(got) != 100 {
			t.Errorf("%d of 100 arrived", len(got))
		}
		if s := c.b.status(insider); s.Addr == at(addrA) {
			t.Errorf("path to the insider through a: %+v", s)
		}
	})
}

func TestForgedProbesOfAKnownHintAreDecryptedAtALimitedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB), at(addrA))
		chat(c.a, c.b, time.Second)
		genuine := c.seen.matching(toProbe(addrB))[0].Payload
		for range 10 {
			for range 500 {
				forged := append([]byte(nil), genuine...)
				forged[probeSize-1] ^= 1
				c.evil.Inject(at(addrX), at(addrB), forged)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(latency)
		if c.b.dropped(DropUnauthentic) > openSourceBurst+openPerSource/10 || c.b.dropped(DropLimited) == 0 {
			t.Errorf("drops %v", c.b.Stats().Drops)
		}
		if aGot, bGot := chat(c.a, c.b, 10*time.Second); aGot < 99 || bGot < 99 {
			t.Errorf("the flood cut an honest path: %d, %d of 100", aGot, bGot)
		}
	})
}

func TestAddressesThatAreNeverProbed(t *testing.T) {
	b := New(Config{Inner: endpointsOnly{}, Probe: key.NewProbe(), Overlay: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd7a::/48")}})
	for _, tt := range []struct {
		addr string
		want bool
	}{
		{"127.0.0.1:1", false}, {"127.9.9.9:1", false}, {"[::1]:1", false}, {"[::ffff:127.0.0.1]:1", false},
		{"0.0.0.0:1", false}, {"0.1.2.3:1", false}, {"[::]:1", false}, {"[::7f00:1]:1", false},
		{"224.0.0.1:1", false}, {"239.1.2.3:1", false}, {"[ff02::1]:1", false}, {"[ff0e::1]:1", false},
		{"255.255.255.255:1", false}, {"240.0.0.1:1", false},
		{"169.254.169.254:80", false}, {"[fe80::1]:1", false}, {"[fe80::1%eth0]:1", false}, {"[2001:db8::1%eth0]:1", false},
		{"192.0.2.1:0", false},
		{"100.64.0.1:1", false}, {"100.127.255.255:1", false}, {"[fd7a::1]:1", false}, {"[::ffff:100.64.0.1]:1", false},
		{"192.0.2.1:1", true}, {"[::ffff:192.0.2.1]:1", true}, {"10.0.0.1:65535", true}, {"100.128.0.1:1", true}, {"[2001:db8::1]:1", true}, {"[fd00::1]:1", true},
	} {
		out, refused := b.normal([]netip.AddrPort{netip.MustParseAddrPort(tt.addr)})
		if got := len(out) == 1; got != tt.want || refused != 1-len(out) {
			t.Errorf("%s: %v, %d refused", tt.addr, out, refused)
		}
		if len(out) == 1 && out[0].Addr().Is4In6() {
			t.Errorf("%s left in its mapped form", tt.addr)
		}
	}
	if out, refused := b.normal([]netip.AddrPort{{}}); len(out) != 0 || refused != 1 {
		t.Errorf("zero address: %v", out)
	}
	same := netip.MustParseAddrPort("192.0.2.1:1")
	if out, _ := b.normal([]netip.AddrPort{same, netip.MustParseAddrPort("[::ffff:192.0.2.1]:1"), same}); len(out) != 1 {
		t.Errorf("one address thrice: %v", out)
	}
	b.config.AllowLoopback = true
	if out, _ := b.normal([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}); len(out) != 1 {
		t.Error("loopback refused where allowed")
	}
}

func TestProbesFromForbiddenAddressesGetNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t, func(c *Config) { c.Overlay = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")} })
		meet(c.a, c.b, at2(addrB))
		overlay := netip.MustParseAddrPort("100.64.0.1:41641")
		c.evil.Inject(overlay, at(addrB), boxTo(t, c.a, c.b).seal(message{kind: ping, sequence: 1, tunnel: c.a.tunnel}))
		time.Sleep(time.Second)
		if s := c.b.Stats(); s.Pings+s.Pongs != 0 || s.Drops[DropForbidden] != 1 {
			t.Errorf("%+v", s)
		}
		later := netip.MustParseAddrPort("[fd7a::1]:41641")
		if !c.b.mayProbe(later) {
			t.Error("an address of no overlay yet is forbidden")
		}
		c.b.SetOverlay([]netip.Prefix{netip.MustParsePrefix("fd7a::/48")})
		if c.b.mayProbe(later) {
			t.Error("an address of an overlay learnt later is not")
		}
	})
}

func TestHostileCandidateListsMakeNoScannerOfUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		seen := record(n)
		a := start(t, n.Host(addrA))
		liar := &node{tunnel: key.TunnelPublic{1}}
		victims := func(round int) (list []netip.AddrPort) {
			for i := range 10000 {
				list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(round), byte(i)}), uint16(i+1)))
			}
			return list
		}
		probe := key.NewProbe().Public()
		a.SetPeer(Peer{Tunnel: liar.tunnel, Probe: probe, Candidates: victims(0)})
		each := make(map[netip.AddrPort]int)
		for range 60 {
			a.send(liar, "x")
			time.Sleep(time.Second)
		}
		for _, d := range seen.matching(func(nettest.Datagram) bool { return true }) {
			each[d.To]++
			if !looksLikeProbe(d.Payload) {
				t.Fatal("a datagram went to an address that never answered")
			}
		}
		if len(each) != MaxCandidates {
			t.Errorf("%d addresses asked", len(each))
		}
		for to, count := range each {
			if count > 16 {
				t.Errorf("%v asked %d times in a minute", to, count)
			}
		}
		if got := a.dropped(DropCandidate); got != 10000-MaxCandidates {
			t.Errorf("%d refused", got)
		}
		// A new list each second goes no faster than the peer's allowance.
		before := len(seen.matching(func(nettest.Datagram) bool { return true }))
		for i := range 60 {
			a.SetPeer(Peer{Tunnel: liar.tunnel, Probe: probe, Candidates: victims(i)})
			a.send(liar, "x")
			time.Sleep(time.Second)
		}
		if got := len(seen.matching(func(nettest.Datagram) bool { return true })) - before; got > 60*pingPerPeer+pingPeerBurst {
			t.Errorf("%d datagrams in a minute", got)
		}
	})
}

func TestManyHostilePeersTogetherAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		a := start(t, n.Host(addrA))
		for p := range 300 {
			liar := &node{tunnel: key.TunnelPublic{1, byte(p), byte(p >> 8)}}
			var list []netip.AddrPort
			for i := range MaxCandidates {
				list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(p), byte(i)}), uint16(p+1)))
			}
			a.SetPeer(Peer{Tunnel: liar.tunnel, Probe: key.NewProbe().Public(), Candidates: list})
			a.send(liar, "x")
		}
		time.Sleep(10 * time.Second)
		if got := a.Stats().Pings; got > pingBurst+10*pingPerSecond+pingPerSecond {
			t.Errorf("%d pings in ten seconds", got)
		}
	})
}

func TestPeerOfManyAddressesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		hostA := n.Host(addrA)
		a, b := start(t, hostA), start(t, n.Host(addrB))
		meet(a, b, at2(addrB))
		for i := range 200 { // it holds a whole prefix and proves each address in turn
			hostA.SetAddrs(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}))
			a.Reprobe()
			chat(a, b, 300*time.Millisecond)
		}
		if got := b.sizes(); got.bound > maxBound || got.addresses > maxBound || got.candidates > 1+maxReflexive {
			t.Errorf("%+v", got)
		}
	})
}
