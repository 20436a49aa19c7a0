package node

import "time"

// clock tells the coordinator's time: this host's at one moment, corrected by how far the two differed, and from then on by the
// monotonic clock, so that setting the host's clock moves no deadline.
type clock struct {
	base   time.Time     // this host's clock when the offset was learnt, with its monotonic reading
	offset time.Duration // the coordinator's clock minus this host's
}

func newClock(offset time.Duration) clock { return clock{time.Now(), offset} }

// now is the coordinator's time, without a monotonic reading.
func (c clock) now() time.Time {
	return c.base.Add(time.Since(c.base)).Add(c.offset).Round(0)
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
