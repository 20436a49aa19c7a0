package control

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// TestBackoffGrowsWithFullJitter: every draw is within its bound, and draws are spread over it.
func TestBackoffGrowsWithFullJitter(t *testing.T) {
	timing := Timing{}.filled()
	var low, high int
	for range 200 {
		b := newBackoff(timing)
		for i, bound := 0, 200*time.Millisecond; i < 12; i, bound = i+1, min(2*bound, 30*time.Second) {
			d := b.next()
			if d < 50*time.Millisecond || d > bound {
				t.Fatalf("pause %d is %s, bound %s", i, d, bound)
			}
			if i == 11 && d < 10*time.Second {
				low++
			}
			if i == 11 && d > 20*time.Second {
				high++
			}
		}
	}
	if low < 30 || high < 30 {
		t.Errorf("of 200 pauses of up to 30 s, %d are under 10 s and %d over 20 s", low, high)
	}
}

func TestBackoffWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackoff(Timing{}.filled())
		began := time.Now()
		if err := b.wait(t.Context(), &ProblemError{RetryAfter: 20 * time.Second}, nil); err != nil || time.Since(began) < 20*time.Second {
			t.Errorf("waited %s, asked for 20 s: %v", time.Since(began), err)
		}
		hurry := make(chan struct{}, 1)
		hurry <- struct{}{}
		began = time.Now()
		if err := b.wait(t.Context(), errBoom, hurry); err != nil || time.Since(began) != 0 {
			t.Errorf("in a hurry it waited %s: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := b.wait(ctx, errBoom, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestSessionRetriesForever runs an hour of a coordinator that is down: quick at first, never more than 30 s apart, no storm, and Retry
// cuts a pause short.
func TestSessionRetriesForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := key.NewCoordinator()
		var tries []time.Time
		c, err := New(Config{Join: protocol.Join{URL: "https://coordinator.invalid"}, Pinned: k.Public(),
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				tries = append(tries, time.Now())
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}})
		if err != nil {
			t.Fatal(err)
		}
		r := newRecorder()
		s, err := NewSession(SessionConfig{Client: c, Pinned: k.Public(), Network: "net", Node: "n1", Device: key.NewDevice(), Report: testReport("a"), Handler: r, Held: func() (uint64, []byte) { return 0, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		began := time.Now()
		go func() { done <- s.Run(ctx) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		n := len(tries)
		if n < 3600/30 || n > 3600/15*3/2 {
			t.Errorf("%d attempts in an hour", n)
		}
		var soon int
		for i, at := range tries {
			if at.Sub(began) < 3*time.Second {
				soon++
			}
			if i > 0 && at.Sub(tries[i-1]) > 30*time.Second {
				t.Errorf("a pause of %s", at.Sub(tries[i-1]))
			}
		}
		if soon < 4 {
			t.Errorf("%d attempts in the first 3 s", soon)
		}
		s.Retry()
		synctest.Wait()
		if len(tries) != n+1 {
			t.Errorf("%d attempts after Retry", len(tries)-n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
