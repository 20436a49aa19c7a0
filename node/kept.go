package node

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"picket.internal/node/localapi"
)

// kept is a port that is forwarded or exposed, and how many connections it has.
type kept struct {
	passage localapi.Passage // but for Open
	exposed bool             // else forwarded
	open    atomic.Int64
}

// keptPorts are those there are, for whoever asks. It is safe for concurrent use; the zero one is empty. maxPassages bounds it.
type keptPorts struct {
	mu    sync.Mutex
	ports map[*kept]struct{}
}

// during lists k from now on until task, which the caller must run, has ended.
func (p *keptPorts) during(k *kept, task func(context.Context) error) func(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ports == nil {
		p.ports = make(map[*kept]struct{})
	}
	p.ports[k] = struct{}{}
	return func(ctx context.Context) error {
		defer p.remove(k)
		return task(ctx)
	}
}

func (p *keptPorts) remove(k *kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.ports, k)
}

// list puts them in the order of their ports.
func (p *keptPorts) list() (out localapi.Passages) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.ports {
		one := k.passage
		one.Open = int(k.open.Load())
		if k.exposed {
			out.Exposed = append(out.Exposed, one)
		} else {
			out.Forwards = append(out.Forwards, one)
		}
	}
	for _, list := range [][]localapi.Passage{out.Forwards, out.Exposed} {
		slices.SortFunc(list, func(a, b localapi.Passage) int {
			return cmp.Or(cmp.Compare(a.Port, b.Port), a.Listen.Compare(b.Listen), cmp.Compare(a.Proto, b.Proto))
		})
	}
	return out
}
