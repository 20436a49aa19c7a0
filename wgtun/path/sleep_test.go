package path

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/key"
)

// alarm counts what Config.Wake is called for.
type alarm struct {
	mu    sync.Mutex
	rings map[key.TunnelPublic]int
}

func (a *alarm) ring(k key.TunnelPublic) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rings[k]++
}

func (a *alarm) rang(k key.TunnelPublic) int {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rings[k]
}

// withAlarm makes b's peers sleep, and a's not.
func withAlarm() (*alarm, func(*Config)) {
	a := &alarm{rings: make(map[key.TunnelPublic]int)}
	return a, func(c *Config) { c.Wake = a.ring }
}

// TestSleepingPeerIsAnsweredOnceItIsAwake has a send to b, where a sleeps: a, which must not begin before b is ready, hears nothing until then,
// and loses nothing.
func TestSleepingPeerIsAnsweredOnceItIsAwake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		bell, sleeps := withAlarm()
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB), sleeps)
		meet(a, b, at2(addrB), at(addrA))
		a.send(b, "handshake")
		time.Sleep(time.Second)
		if got := b.take(); len(got) != 0 || b.Stats().Pongs != 0 {
			t.Errorf("%d datagrams and %d pongs before b was ready", len(got), b.Stats().Pongs)
		}
		if bell.rang(a.tunnel) == 0 {
			t.Error("nobody was told to wake a")
		}
		b.Woken(a.tunnel)
		time.Sleep(5 * latency)
		if got := b.texts(); len(got) != 1 || got[0] != "handshake" {
			t.Errorf("after waking: %q", got)
		}
		before := bell.rang(a.tunnel)
		chat(a, b, 5*time.Second)
		if bell.rang(a.tunnel) != before {
			t.Error("a peer that is awake was to be woken")
		}
	})
}

// TestNobodyElseWakesAPeer sends b all that a stranger can: nothing, forged probes, and recorded ones.
func TestNobodyElseWakesAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bell, sleeps := withAlarm()
		c := newCaptive(t, sleeps)
		meet(c.a, c.b, at2(addrB), at(addrA))
		c.a.Woken(c.b.tunnel)
		c.b.Woken(c.a.tunnel)
		chat(c.a, c.b, 5*time.Second)
		time.Sleep(4 * time.Minute) // the addresses of its last pings are still its own
		if !c.b.Sleep(c.a.tunnel, time.Minute) {
			t.Fatal("a silent peer does not sleep")
		}
		if s := c.b.sizes(); s != (sizes{}) {
			t.Errorf("of a sleeping peer there is left %+v", s)
		}
		for _, d := range c.seen.matching(toProbe(addrB)) {
			c.evil.Inject(at(addrA), at(addrB), d.Payload)
			forged := append([]byte(nil), d.Payload...)
			forged[60] ^= 1
			c.evil.Inject(at(addrA), at(addrB), forged)
		}
		c.evil.Inject(at(addrA), at(addrB), initiation())
		c.evil.Inject(at(addrA), at(addrB), datagram("x"))
		time.Sleep(time.Second)
		if n := bell.rang(c.a.tunnel); n != 0 {
			t.Errorf("a was to be woken %d times", n)
		}
		if got := c.b.take(); len(got) != 0 {
			t.Errorf("handed up: %+v", got)
		}
	})
}

func TestPeerThatIsHeardDoesNotSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		_, sleeps := withAlarm()
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB), sleeps)
		meet(a, b, at2(addrB), at(addrA))
		b.Woken(a.tunnel)
		if b.Sleep(b.tunnel, 0) || b.Idle(b.tunnel, 0) {
			t.Error("who is no peer sleeps")
		}
		for range 3 {
			time.Sleep(5 * time.Minute)
			if !b.Idle(a.tunnel, time.Minute) {
				t.Error("a silent peer is not idle")
			}
			if _, _, err := a.Ping(t.Context(), b.tunnel); err != nil {
				t.Fatal(err)
			}
			if b.Idle(a.tunnel, time.Minute) || b.Sleep(a.tunnel, time.Minute) {
				t.Error("a peer that has just been answered, and may send now, sleeps")
			}
		}
		time.Sleep(5 * time.Minute)
		b.send(a, "held for want of a path")
		if b.Sleep(a.tunnel, 0) {
			t.Error("a peer that something waits for sleeps")
		}
	})
}

// TestPongsOfASleepingPeerAreBounded lets a ping again and again while nobody wakes it.
func TestPongsOfASleepingPeerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		_, sleeps := withAlarm()
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB), sleeps)
		meet(a, b, at2(addrB), at(addrA))
		for range 60 {
			a.send(b, "x")
			time.Sleep(time.Second)
		}
		synctest.Wait()
		b.mu.Lock()
		p := b.table.peer(a.tunnel)
		deferred := len(p.live.deferred)
		b.mu.Unlock()
		if deferred != maxDeferred || b.dropped(DropBusy) == 0 {
			t.Errorf("%d pongs wait, %d were dropped", deferred, b.dropped(DropBusy))
		}
		b.RemovePeer(a.tunnel)
		b.Woken(a.tunnel)
		time.Sleep(time.Second)
		if b.Stats().Pongs != 0 {
			t.Error("a removed peer was answered")
		}
	})
}
