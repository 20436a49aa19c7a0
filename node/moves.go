package node

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// place is where this host is in the network, as far as paths depend on it.
type place struct {
	routes    string // default routes, in words
	addresses []netip.AddrPort
}

// moves is what was done about the host's moving.
type moves struct {
	at    place
	since time.Time // the paths were last asked anew for it
	slept time.Duration
}

const (
	// settleMove is the least time between two rounds of asking all paths anew: an interface that flaps must not flood peers.
	settleMove = time.Second
	// longSleep is how long this host must have slept for NATs to have forgotten it.
	longSleep = 10 * time.Second
)

// noteMove has all paths and reflectors asked anew, and what the gateway maps, when the host's addresses or default routes are others, or it has slept.
// A change within settleMove of the last one waits for the rest of it.
func (n *Node) noteMove(ctx context.Context, again chan<- struct{}) {
	if n.overlay == nil {
		return
	}
	m, slept := &n.moves, n.clock.asleep()
	at := place{n.reach.routes(), n.local()}
	woke := slept-m.slept >= longSleep
	if at.routes == m.at.routes && slices.Equal(at.addresses, m.at.addresses) && !woke {
		return
	}
	first := m.since.IsZero()
	if wait := settleMove - time.Since(m.since); !first && wait > 0 {
		time.AfterFunc(wait, func() {
			select {
			case again <- struct{}{}:
			default: // one is on its way
			}
		})
		return
	}
	rerouted := at.routes != m.at.routes
	lost := slices.ContainsFunc(m.at.addresses, func(a netip.AddrPort) bool { return !slices.Contains(at.addresses, a) })
	*m = moves{at: at, since: time.Now(), slept: slept}
	if first { // the overlay was opened just now, and asks by itself
		return
	}
	n.log.Info("the host's network has changed: paths are asked anew", "slept", woke)
	n.overlay.overlay.Reprobe()
	n.relaying.set.Check()
	if n.mapper != nil {
		n.mapper.Refresh()
	}
	if (lost || woke || rerouted) && n.session != nil && n.contact.connected {
		// Its connection may be from an address that is no more, or now leave by a router that knows nothing of it, and nobody would say so.
		n.session.session.Reconnect()
	}
}
