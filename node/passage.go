package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"picket.internal/node/localapi"
	"picket.internal/node/proxy"
)

// maxPassages bounds the ports that are forwarded and exposed at once.
const maxPassages = 64

// passages is what all forwards and exposures share.
type passages struct {
	places  chan struct{} // one for each port
	outward *proxy.Budget // of forwards
	inward  *proxy.Budget // of exposures: peers leave room for this host's programs
	kept    *keptPorts
}

func newPassages() passages {
	return passages{places: make(chan struct{}, maxPassages), outward: proxy.NewBudget(), inward: proxy.NewBudget(), kept: &keptPorts{}}
}

// take takes places for n ports, or none.
func (p *passages) take(n int) (free func(), err error) {
	if n < 1 || n > localapi.MaxPassages {
		return nil, fmt.Errorf("one request is for 1 to %d ports", localapi.MaxPassages)
	}
	taken := 0
	free = func() {
		for range taken {
			<-p.places
		}
	}
	for range n {
		select {
		case p.places <- struct{}{}:
			taken++
		default:
			free()
			return nil, fmt.Errorf("%d ports are forwarded or exposed already: end one first", maxPassages)
		}
	}
	return free, nil
}

// maxUntold is how many events wait for a slow reader.
const maxUntold = 256

// passage is one request to forward or to expose, while it runs. Connections never wait for who reads of them.
type passage struct {
	events chan localapi.PassageEvent
	missed atomic.Uint64
}

func newPassage() *passage { return &passage{events: make(chan localapi.PassageEvent, maxUntold)} }

// tell leaves an event out, and counts it, when too many wait.
func (p *passage) tell(e localapi.PassageEvent) {
	e.At, e.Missed = time.Now(), p.missed.Swap(0)
	select {
	case p.events <- e:
	default:
		p.missed.Add(e.Missed + 1)
	}
}

// openAll opens what was asked for, each a task for run; when one cannot be, those before it are closed.
func openAll[T any](ctx context.Context, p *passage, asked []T, open func(context.Context, T, *passage) (func(context.Context) error, error)) ([]func(context.Context) error, error) {
	var tasks []func(context.Context) error
	for _, one := range asked {
		task, err := open(ctx, one, p)
		if err != nil {
			stopped, stop := context.WithCancel(ctx)
			stop()
			p.run(stopped, func(localapi.PassageEvent) {}, tasks) // closes what is open
			return nil, err
		}
		tasks = append(tasks, task)
	}
	return tasks, nil
}

// run runs the tasks until ctx ends, or one of them fails, which ends all; it emits what they tell, and returns when all have ended.
func (p *passage) run(ctx context.Context, emit func(localapi.PassageEvent), tasks []func(context.Context) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	for _, task := range tasks {
		running.Go(func() {
			if err := task(ctx); err != nil {
				p.tell(localapi.PassageEvent{Kind: localapi.PassageWarning, Reason: err.Error()})
				cancel()
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		running.Wait()
		close(ended)
	}()
	for {
		select {
		case e := <-p.events:
			emit(e)
			continue
		case <-ended:
		}
		for len(p.events) > 0 {
			emit(<-p.events)
		}
		return
	}
}

// endText says why a connection ended, "" when nothing failed.
func endText(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return ""
	case errors.Is(err, syscall.ECONNREFUSED):
		return refusedThere
	case errors.As(err, &errno):
		return "cut: " + errno.Error()
	}
	return "cut: " + err.Error()
}
