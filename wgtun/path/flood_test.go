package path

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestForgedProbesCostNoPath floods a node with forged probes of a known hint, which whoever saw one probe pass by can make: in the name of
// the peer's own address, and of a thousand others. The honest probes among them had drowned, and with them the proof of the path.
func TestForgedProbesCostNoPath(t *testing.T) {
	if raced {
		t.Skip("so many datagrams overflow the race detector's own counters, which ends the process: it runs once more without")
	}
	for _, tt := range []struct {
		from   string
		source func(i int) netip.AddrPort
	}{
		{"the peer's address", func(int) netip.AddrPort { return at(addrA) }},
		{"many addresses", func(i int) netip.AddrPort {
			return at(netip.AddrFrom4([4]byte{203, 0, byte(113 + i/250%4), byte(1 + i%250)}))
		}},
	} {
		t.Run(tt.from, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCaptive(t)
				meet(c.a, c.b, at2(addrB), at(addrA))
				chat(c.a, c.b, time.Second)
				genuine := c.seen.matching(toProbe(addrB))[0].Payload
				c.b.limiter.all.SetLimit(openPerSecond / 80) // so that an eightieth of the flood does
				c.b.limiter.all.SetBurst(openBurst / 80)
				for i := range 4_000 {
					for j := range 5 {
						forged := append([]byte(nil), genuine...)
						forged[probeSize-1] ^= 1
						c.evil.Inject(tt.source(5*i+j), at(addrB), forged)
					}
					if i%10 == 0 {
						c.a.send(c.b, "x")
						c.b.send(c.a, "x")
					}
					time.Sleep(10 * time.Millisecond)
				}
				for name, s := range map[string]Status{"a": c.a.status(c.b), "b": c.b.status(c.a)} {
					if !s.Addr.IsValid() || time.Since(s.Since) < 39*time.Second {
						t.Errorf("%s's path did not last: %+v", name, s)
					}
				}
			})
		})
	}
}

// What is decrypted in the name of claimed addresses is bounded as well, and takes nothing from other peers.
func TestProbesFromClaimedAddressesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB), at(addrA))
		chat(c.a, c.b, time.Second)
		p, allowed := c.b.table.peer(c.a.tunnel), 0
		for range 2 * openClaimed {
			if c.b.mayOpen(p, at(addrA)) {
				allowed++
			}
		}
		if allowed > openClaimed || allowed < openClaimed/2 {
			t.Errorf("%d of %d probes at once are decrypted", allowed, 2*openClaimed)
		}
		if !c.b.mayOpen(p, at(addrC)) {
			t.Error("nothing is left for other addresses")
		}
	})
}

// A peer's pings are genuine wherever they say they come from: each is answered there, to whoever that is.
func TestPongsToOnePeerAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaptive(t)
		meet(c.a, c.b, at2(addrB), at(addrA))
		insider := boxTo(t, c.a, c.b)
		for i := range uint64(2000) {
			victim := netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + i%250)})
			c.a.host.Inject(at(victim), at(addrB), insider.seal(message{kind: ping, transaction: newTransaction(), sequence: 1<<62 + i, tunnel: c.a.tunnel}))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(latency)
		if n := c.b.Stats().Pongs; n < pongPeerBurst || n > pongPeerBurst+3*pongPerPeer {
			t.Errorf("%d pongs in 2 s", n)
		}
	})
}
