//go:build linux

package lab

import "runtime"

// thread is one operating-system thread that lives until end. Children started on it get dieWithParent: the kernel ends them
// with the thread, that is, with this process, however it ends. Goroutines of the ordinary kind would not do, since Go may end
// the thread under them at any time and the child with it.
type thread struct {
	do   chan func()
	done chan struct{}
}

func newThread() *thread {
	t := &thread{do: make(chan func()), done: make(chan struct{})}
	go t.live()
	return t
}

// live never unlocks the thread, so Go ends it with the goroutine instead of reusing it: it may sit in a namespace.
func (t *thread) live() {
	runtime.LockOSThread()
	defer close(t.done)
	for f := range t.do {
		f()
	}
}

// Do runs f on the thread and returns its error.
func (t *thread) Do(f func() error) error {
	result := make(chan error, 1)
	t.do <- func() { result <- f() }
	return <-result
}

func (t *thread) end() {
	close(t.do)
	<-t.done
}

// Do runs f where the host is: sockets that it opens stay there.
func (h *Host) Do(f func() error) error { return h.at.Do(f) }
