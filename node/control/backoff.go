package control

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// backoff is exponential with full jitter: the n-th pause (from 0) is drawn evenly from almost nothing to
// min(Timing.Pause, Timing.Backoff * 2^n), so that nodes which lost one coordinator together do not come back together.
type backoff struct {
	first, most time.Duration
	bound       time.Duration
}

func newBackoff(t Timing) *backoff {
	return &backoff{first: t.Backoff, most: t.Pause, bound: t.Backoff}
}

func (b *backoff) reset() { b.bound = b.first }

// next draws a pause and doubles the bound. A quarter of the first bound is the least, so that no draw makes a busy loop.
func (b *backoff) next() time.Duration {
	least := min(b.first, b.bound) / 4
	d := least + rand.N(b.bound-least+1)
	b.bound = min(2*b.bound, b.most)
	return d
}

// wait pauses, for at least what err asked for, until ctx ends (its error) or hurry yields.
func (b *backoff) wait(ctx context.Context, err error, hurry <-chan struct{}) error {
	d := b.next()
	var p *ProblemError
	if errors.As(err, &p) && p.RetryAfter > 0 {
		d += p.RetryAfter
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-hurry:
	case <-t.C:
	}
	return nil
}
