package path

import (
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

// initiate sends the first message of a handshake.
func (n *node) initiate(to *node) {
	n.t.Helper()
	ep, err := n.ParseEndpoint(EndpointText(to.tunnel))
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.Send([][]byte{initiation()}, ep); err != nil {
		n.t.Error(err)
	}
}

// TestHandshakesDoNotCross: where the peer begins the handshake under a's new key, none of a's goes out for a second, neither one that waited for
// the peer's answer nor one that WireGuard had made and comes after it. Where the peer does not begin, a does at once.
func TestHandshakesDoNotCross(t *testing.T) {
	for _, greets := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := lab(1)
			bell, sleeps := withAlarm()
			a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB), sleeps)
			next := key.NewTunnel().Public()
			b.SetPeer(Peer{Tunnel: a.tunnel, Next: next, Probe: a.probe.Public(), Candidates: at2(addrA)})
			a.SetPeer(Peer{Tunnel: b.tunnel, Probe: b.probe.Public(), Candidates: at2(addrB)})
			b.Woken(a.tunnel)
			chat(a, b, 2*time.Second)
			wire := record(n)
			begun := func() int {
				return len(wire.matching(func(d nettest.Datagram) bool {
					return d.To.Addr() == addrB && isInitiation(d.Payload) && len(d.Payload) == 148
				}))
			}
			a.Doubt()
			a.Rekey(next)
			a.initiate(b)
			time.Sleep(latency + time.Millisecond)
			if bell.rang(next) == 0 {
				t.Fatal("the next key was not taken over")
			}
			if begun() != 0 {
				t.Error("a handshake under a key that the peer may not know")
			}
			if !b.Succeed(a.tunnel, next, greets) {
				t.Fatal("no such peer")
			}
			b.Woken(next)
			time.Sleep(2*latency + time.Millisecond)
			a.initiate(b)
			time.Sleep(greetTime / 2)
			if got, want := begun(), map[bool]int{true: 0, false: 2}[greets]; got != want {
				t.Errorf("peer begins %v: %d handshakes of ours in half a second, want %d", greets, got, want)
			}
			if !greets {
				return
			}
			time.Sleep(greetTime / 2)
			a.initiate(b)
			if begun() != 1 {
				t.Error("no handshake although the peer has not begun one")
			}
		})
	}
}
