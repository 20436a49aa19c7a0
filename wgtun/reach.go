package wgtun

import (
	"context"
	"net/netip"
	"sync"

	"picket.internal/acl"
	"picket.internal/wgtun/path"
)

// notices are what the paths say while they hold their locks, for runReach to pass on.
type notices struct {
	seek      bell
	reflected chan struct{} // room for one
}

func newNotices() *notices {
	return &notices{seek: newBell(), reflected: make(chan struct{}, 1)}
}

// reflect never blocks.
func (n *notices) reflect() {
	select {
	case n.reflected <- struct{}{}:
	default:
	}
}

// runReach asks reflectors, and passes on what the paths and the roster say, until ctx ends.
func (t *Tunnel) runReach(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { _ = t.path.RunReflect(ctx) }) // it ends with ctx alone
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.notices.seek.rung:
			for _, k := range t.notices.seek.take() {
				if node, ok := t.roster.named(k); ok && t.config.OnSeek != nil {
					t.config.OnSeek(ctx, node)
				}
			}
		case <-t.roster.over.followed.rung:
			for _, k := range t.roster.over.followed.take() {
				if node, ok := t.roster.named(k); ok && t.config.OnHeir != nil {
					t.config.OnHeir(ctx, node, k)
				}
			}
		case <-t.notices.reflected:
			if t.config.OnReflected != nil {
				t.config.OnReflected(ctx)
			}
		}
	}
}

// Sought has all addresses of a node pinged at once, because it seeks a path to this one: see path.Bind.Sought. Unknown nodes are ignored.
func (t *Tunnel) Sought(node acl.NodeID) {
	if in, ok := t.roster.of(node); ok {
		t.path.Sought(in.peer.Tunnel)
	}
}

// Reprobe asks for all paths in use anew, and reflectors, at once: after a change of addresses or routes, and after sleep.
func (t *Tunnel) Reprobe() {
	t.path.Reprobe()
	t.path.Reflect()
}

// SetReflectors replaces the reflectors that are asked where this node is seen from; keep asks them again and again.
func (t *Tunnel) SetReflectors(reflectors []path.Reflector, keep bool) {
	t.path.SetReflectors(reflectors, keep)
}

// Reflect asks all reflectors now.
func (t *Tunnel) Reflect() { t.path.Reflect() }

// Reflections lists what each reflector says.
func (t *Tunnel) Reflections() []path.Reflection { return t.path.Reflections() }

// Reflexive lists where reflectors see this node, as far as peers can make use of it.
func (t *Tunnel) Reflexive() []netip.AddrPort { return t.path.Reflexive() }

// Observed lists the addresses under which at least so many peers have lately seen this node. They are those peers' word only.
func (t *Tunnel) Observed(least int) []netip.AddrPort { return t.path.Observed(least) }

// Hairpin reports whether what this node sends to an outside address of its own comes back in.
func (t *Tunnel) Hairpin(ctx context.Context, own netip.AddrPort) bool {
	return t.path.Hairpin(ctx, own)
}
