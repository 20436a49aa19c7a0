package node

import "time"

// clock tells the coordinator's time: this host's at one moment, corrected by how far the two differed, and from then on by the
// monotonic clock, so that setting the host's clock moves no deadline. That clock stands still while the host sleeps, which is added:
// a laptop must not wake to a lease that ended in its sleep.
type clock struct {
	base   time.Time     // this host's clock when the offset was learnt, with its monotonic reading
	offset time.Duration // the coordinator's clock minus this host's
	asleep func() time.Duration
	before time.Duration // what asleep said at base
}

// shortestSleep is what sleep is counted from; less may only be the two readings it is told from.
const shortestSleep = time.Second

func newClock(offset time.Duration) clock { return clock{asleep: asleep}.set(offset) }

// set is the clock with an offset learnt now.
func (c clock) set(offset time.Duration) clock {
	c.base, c.offset, c.before = time.Now(), offset, c.asleep()
	return c
}

// now is the coordinator's time, without a monotonic reading.
func (c clock) now() time.Time {
	passed := time.Since(c.base)
	if slept := c.asleep() - c.before; slept >= shortestSleep {
		passed += slept
	}
	return c.base.Add(passed).Add(c.offset).Round(0)
}

// local is the moment, on this host and with a monotonic reading, when the coordinator's clock shows t.
func (c clock) local(t time.Time) time.Time { return time.Now().Add(t.Sub(c.now())) }

// soonest is the earliest of the times that are set.
func soonest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
