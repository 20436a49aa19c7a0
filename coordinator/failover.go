package coordinator

import (
	"context"
	"slices"
	"strings"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

const (
	// failoverAfter is how long a router may be without a session before others take over. An agent is restarted in less.
	failoverAfter = 15 * time.Second
	// failoverGrace is how long after the coordinator's own start routers have to come back.
	failoverGrace = 45 * time.Second
	// failoverCheck is how often it is looked at.
	failoverCheck = 2 * time.Second
)

// keepRouters hands the routes of routers that are gone to those that are there, until ctx ends.
func (c *Coordinator) keepRouters(ctx context.Context) error {
	began := c.now()
	tick := time.NewTicker(failoverCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		w := c.world.Load()
		gone, back := c.turns(w, began)
		if len(gone)+len(back) == 0 {
			continue
		}
		if err := c.turn(ctx, w, gone, back); err != nil && ctx.Err() == nil {
			c.log.Error("routes cannot be handed to another router", "err", err)
		}
	}
}

// turns finds the routers that are gone while another one is there for something they serve, and those that came back.
func (c *Coordinator) turns(w *world, began time.Time) (gone, back []acl.NodeID) {
	seen := make(map[acl.NodeID]bool)
	for _, list := range w.routers() {
		if len(list) < 2 && !list[0].Routing.Away {
			continue
		}
		here := slices.ContainsFunc(list, func(n *NodeRow) bool { return !n.Routing.Away && c.goneSince(n.ID, began).IsZero() })
		for _, n := range list {
			since := c.goneSince(n.ID, began)
			switch {
			case seen[n.ID]:
			case n.Routing.Away && since.IsZero():
				back = append(back, n.ID)
				seen[n.ID] = true
			case !n.Routing.Away && here && !since.IsZero() && !c.now().Before(since.Add(failoverAfter)):
				gone = append(gone, n.ID)
				seen[n.ID] = true
			}
		}
	}
	slices.Sort(gone)
	slices.Sort(back)
	return gone, back
}

// goneSince is since when a node is without a session, or silent for longer than it may be; zero while it is there. began is when this
// process began to look: of nodes that it never heard of nothing is known before failoverGrace has passed.
func (c *Coordinator) goneSince(id acl.NodeID, began time.Time) time.Time {
	if s := c.hub.get(id); s != nil {
		due := s.heardAt().Add(protocol.LiveInterval)
		if c.now().Before(due) {
			return time.Time{}
		}
		return due
	}
	if p, ok := c.hub.presence(id); ok {
		return p.LastSeen
	}
	return began.Add(failoverGrace - failoverAfter)
}

// turn writes down who is gone and who is back. Who is back serves what nobody else does, and waits for its turn with the rest.
func (c *Coordinator) turn(ctx context.Context, w *world, gone, back []acl.NodeID) error {
	_, err := c.update(ctx, system, func(ch *change) error {
		for _, id := range slices.Concat(gone, back) {
			n, err := ch.NodeByID(id)
			if err != nil {
				return err
			}
			away := slices.Contains(gone, id)
			if n.Routing.Away == away || !n.Removed.IsZero() {
				continue
			}
			n.Routing.Away = away
			if !away {
				n.Routing.renew(n.Routing.routes(), ch.Now())
			}
			ch.narrow() // at once: what went through it goes nowhere
			ch.record(map[bool]string{true: "route.away", false: "route.back"}[away], string(id), n.Name+": "+prefixList(w.served(w.policy, &n)))
			if err := ch.UpdateNode(n); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// prefixList is prefixes in words.
func prefixList[P interface{ String() string }](list []P) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return strings.Join(out, ", ")
}
