package wgtun

import (
	"testing"
	"testing/synctest"
	"time"
)

// waited is how long wait blocked.
func waited(p *pace) time.Duration {
	began := time.Now()
	p.wait()
	return time.Since(began)
}

func TestPaceWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		p.inside.Add(maxInside - 1)
		if d := waited(p); d != 0 {
			t.Errorf("waited %v with room left", d)
		}
		p.inside.Add(1)
		go func() {
			p.begin()
			time.Sleep(700 * time.Microsecond)
			p.end(1)
		}()
		if d := waited(p); d != 700*time.Microsecond {
			t.Errorf("waited %v for what came out after 700 µs", d)
		}
	})
}

// What comes out nowhere is given up: packets that fail authentication, or wait for a handshake.
func TestPaceGivesLostPacketsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		p.inside.Add(10 * maxInside)
		if d := waited(p); d != lostAfter {
			t.Errorf("waited %v for lost packets, not %v", d, lostAfter)
		}
		p.begin()
		p.end(maxInside) // they come after all
		p.inside.Add(maxInside - 1)
		if d := waited(p); d != 0 {
			t.Errorf("waited %v: late packets count below nothing", d)
		}
	})
}

// Keepalives and handshakes come out whatever becomes of packets.
func TestPaceWaitsNoLongerWhileOnlyHandshakesComeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		p.inside.Add(maxInside)
		go func() {
			for range 20 {
				p.begin()
				p.end(0)
				time.Sleep(lostAfter / 2)
			}
		}()
		if d := waited(p); d > 2*lostAfter {
			t.Errorf("waited %v for lost packets", d)
		}
		time.Sleep(20 * lostAfter) // the goroutine ends before the bubble
	})
}

// A system call that blocks is at work: it is waited for, but not for ever.
func TestPaceWaitsForABlockedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		p.inside.Add(maxInside)
		p.begin()
		if d := waited(p); d < stuckAfter || d > stuckAfter+lostAfter {
			t.Errorf("waited %v for a blocked call, not %v", d, stuckAfter)
		}
	})
}

func TestHandedCountsWhatTheDeviceKeeps(t *testing.T) {
	h := handed{pace: newPace()}
	bufs := [][]byte{make([]byte, 1), make([]byte, 1), make([]byte, 1)}
	all := func(int) bool { return true }
	h.settle(bufs)
	h.fill(bufs, 3, all)
	if n := h.pace.inside.Load(); n != 3 {
		t.Fatalf("%d inside of 3 handed over", n)
	}
	bufs[1] = make([]byte, 1) // the device keeps the second
	h.settle(bufs)
	if n := h.pace.inside.Load(); n != 1 {
		t.Errorf("%d inside of 1 kept", n)
	}
	h.fill(bufs, 3, func(i int) bool { return i == 0 })
	bufs[0], bufs[2] = make([]byte, 1), make([]byte, 1)
	h.settle(bufs)
	if n := h.pace.inside.Load(); n != 2 {
		t.Errorf("%d inside of 2 that count", n)
	}
}

// One peer sends 100,000 packets a second that never come out: others wait for them at most an eighth of the time, and what is inside stays bounded.
func TestPaceWaitsLittleForAFloodOfLostPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		var blocked time.Duration
		var most int64
		began := time.Now()
		for time.Since(began) < time.Second {
			time.Sleep(100 * time.Microsecond)
			p.inside.Add(10)
			most = max(most, p.inside.Load())
			blocked += waited(p)
		}
		if share := float64(blocked) / float64(time.Since(began)); share > 1.0/8 {
			t.Errorf("%.0f %% of the time was waited for lost packets", share*100)
		}
		if limit := int64(maxInside<<maxDoublings + 10); most > limit {
			t.Errorf("%d packets inside, more than %d", most, limit)
		}
		time.Sleep(calmAfter)
		p.inside.Store(maxInside)
		if d := waited(p); d != lostAfter {
			t.Errorf("waited %v in calm, not %v: more is let in than before", d, lostAfter)
		}
	})
}
