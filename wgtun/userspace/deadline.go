package userspace

import (
	"sync"
	"time"
)

// deadline is when a Read ends at the latest; it may be moved while one waits.
type deadline struct {
	mu    sync.Mutex // guards what follows
	at    time.Time  // zero for never
	moved chan struct{}
}

func newDeadline() *deadline { return &deadline{moved: make(chan struct{})} }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	close(d.moved)
	d.moved = make(chan struct{})
}

// timer is ready at the deadline as it is now; moved is closed when it is another. stop must be called.
func (d *deadline) timer() (due <-chan time.Time, moved <-chan struct{}, stop func()) {
	d.mu.Lock()
	at, moved := d.at, d.moved
	d.mu.Unlock()
	if at.IsZero() {
		return nil, moved, func() {}
	}
	timer := time.NewTimer(time.Until(at))
	return timer.C, moved, func() { timer.Stop() }
}
