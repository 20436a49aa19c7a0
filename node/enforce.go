package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/hostnet"
	"picket.internal/node/statefile"
	"picket.internal/wgtun"
	"picket.internal/wgtun/filter"
)

// loadMap takes the map on disk through the door. It is used within its lease by this host's clock, corrected by the offset stored with it.
func (n *Node) loadMap() error {
	n.map_.hints = make(map[acl.NodeID]protocol.Hint)
	if !n.id.admitted() {
		return nil
	}
	m, ok, err := n.id.dir.Map()
	if err != nil {
		return err
	}
	if !ok || m.Network != n.id.node.Network || m.Node != n.id.node.Node {
		return nil
	}
	h, err := n.id.door().open(held{}, &m.Signed)
	if err != nil {
		n.trouble.refused = fmt.Sprintf("the map on disk is refused (%v): nothing passes until the coordinator sends another", err)
		return nil
	}
	n.map_.held, n.clock = h, n.clock.set(m.Offset())
	for _, hint := range m.Hints {
		n.map_.hints[hint.Node] = hint
	}
	if n.clock.now().Before(h.header.Issued.Add(-protocol.MaxClockSkew)) {
		// The lease would seem longer than it is.
		n.trouble.clock = fmt.Sprintf("this machine's clock shows %s, but the last map is of %s: set the clock, or wait until the coordinator is reached",
			time.Now().UTC().Format(time.RFC3339), h.header.Issued.UTC().Format(time.RFC3339))
	}
	return nil
}

// takeMap is the door for a map from the session. Whatever it refuses changes nothing.
func (n *Node) takeMap(m protocol.Map) {
	began := time.Now()
	h, err := n.id.door().open(n.map_.held, &m)
	switch {
	case errors.Is(err, protocol.ErrResync):
		n.log.Info("the change does not fit the map held: asking for the whole", "reason", err)
		n.session.session.Resync()
		return
	case errors.Is(err, protocol.ErrStale):
		n.log.Warn("a map older than the one in force was refused", "reason", err)
		return
	case err != nil:
		n.log.Error("a map was refused", "reason", err)
		n.trouble.refused = fmt.Sprintf("a map from the coordinator is refused (%v): the last one stays in force until its lease ends; tell the coordinator's operator", err)
		return
	}
	n.trouble.refused = ""
	n.map_.held, n.map_.owed = h, began
	cut, err := n.enforce()
	n.map_.took = time.Since(began)
	n.saveMap()
	if err != nil {
		n.log.Error("the map is not in force", "generation", h.header.Generation, "reason", err)
		return
	}
	n.log.Info("map in force", "generation", h.header.Generation, "peers", len(n.map_.judged.peers), "cut", cut, "took", n.map_.took)
	n.settle(cut)
}

// settle sends the receipt that is owed for the map held, once that is in force: at once, or when what kept it out was mended.
func (n *Node) settle(cut int) {
	if n.map_.owed.IsZero() || !n.map_.inForce || n.session == nil {
		return
	}
	h := n.map_.held.header
	n.session.session.Receipt(protocol.Receipt{Generation: h.Generation, Digest: h.Digest, Applied: n.map_.took, Cut: cut})
	n.map_.owed = time.Time{}
}

// saveMap writes down the map held and the hints. Failing costs only the next start: the map in force stays.
func (n *Node) saveMap() {
	h := n.map_.held
	if h.isZero() {
		return
	}
	m := statefile.Map{Network: h.header.Network, Node: h.header.Node, Signed: h.signed, OffsetMillis: n.clock.offset.Milliseconds()}
	for _, p := range h.content.Peers {
		if hint, ok := n.map_.hints[p.Node]; ok {
			m.Hints = append(m.Hints, hint)
		}
	}
	n.noteSave(n.id.dir.SaveMap(m))
}

// noteSave shows a failure to write in the status until a later write succeeds.
func (n *Node) noteSave(err error) {
	if err == nil {
		n.trouble.state = ""
		return
	}
	if n.trouble.state != err.Error() { // it is tried again and again
		n.log.Error("the state directory cannot be written", "reason", err)
	}
	n.trouble.state = err.Error()
}

// leaseEnd is when the map held lapses: its lease, or this node's own admission. The zero time when none is held.
func (n *Node) leaseEnd() time.Time {
	h := n.map_.held
	if h.isZero() {
		return time.Time{}
	}
	return soonest(h.header.NotAfter, h.content.Self.Expires)
}

// enforce judges the map held anew and puts it in force: host network first, so that the guard stands before anything may pass. It
// returns how many flows that cut. It is called for each new map, when something of the held one ends, and when trust is given.
func (n *Node) enforce() (cut int, err error) {
	h := n.map_.held
	n.map_.inForce = false
	if h.isZero() || !n.id.admitted() {
		return 0, errors.New("no map is held")
	}
	now := n.clock.now()
	if !now.Before(h.content.Self.Expires) {
		n.end(endExpired)
		return 0, errors.New("this node's login ended")
	}
	n.settleExit()
	n.map_.judged = judge(wantedRoutes(h.content, n.routed()), n.id.acquaintance(), n.id.shown(), now, n.clock.offset)
	n.id.newest.take(n.map_.judged.risen)
	n.map_.judged.risen = nil
	n.warnRefused()
	if !now.Before(n.leaseEnd()) {
		n.setTimer(time.Time{})
		n.refuseAll()
		return 0, errors.New("the lease is over")
	}
	n.setTimer(soonest(n.map_.judged.next, n.leaseEnd()))
	if n.overlay == nil {
		return 0, errNoOverlay
	}
	if err := n.fit(); err != nil {
		return 0, err
	}
	return n.apply()
}

// apply hands the judged map to the tunnel, which keeps it.
func (n *Node) apply() (cut int, err error) {
	h, j := n.map_.held, n.map_.judged
	for i := range j.peers {
		j.peers[i].Candidates = n.candidates(n.map_.hints[j.peers[i].Node])
		j.peers[i].Home = n.home(j.peers[i].Node)
	}
	applied, err := n.overlay.overlay.Apply(wgtun.State{
		Generation: h.header.Generation, Self: h.header.Node, Peers: j.peers, Rules: j.rules, NotAfter: n.clock.local(n.leaseEnd()),
		Overlay: h.content.Network.Overlay,
	})
	if errors.Is(err, wgtun.ErrRefused) {
		n.refuseAll() // what the last map allowed and this one may not must end (R6)
		n.trouble.refused = fmt.Sprintf("the tunnel refuses the map (%v): nothing passes until there is another; tell the coordinator's operator", err)
		return 0, err
	}
	if err != nil {
		n.trouble.refused = fmt.Sprintf("the map is not in force whole (%v): it is tried again", err)
		return 0, err
	}
	n.map_.inForce = true
	n.map_.applied++
	n.takeFlows()
	if err := n.id.meet(j.met); err != nil {
		n.noteSave(err)
	} else {
		n.map_.judged.met = nil // they are known now; there may be thousands
	}
	return len(applied.Cut), nil
}

// candidates are the addresses of a hint that lie outside the overlay: a path must not lead through itself.
func (n *Node) candidates(h protocol.Hint) []netip.AddrPort {
	var out []netip.AddrPort
	for _, at := range h.Endpoints {
		inside := func(p netip.Prefix) bool { return p.Contains(at.Addr()) }
		if !slices.ContainsFunc(n.map_.held.content.Network.Overlay, inside) {
			out = append(out, at)
		}
	}
	return out
}

// fit gives the host what the map says. When that fails nothing may pass: the guard may be missing.
func (n *Node) fit() error {
	r := n.routed()
	err := n.overlay.overlay.Fit(hostConfig(wantedRoutes(n.map_.held.content, r), r))
	n.trouble.forwarding = ""
	if errors.As(err, new(*hostnet.ForwardingError)) { // flows of this node itself can go on
		n.trouble.forwarding, err = err.Error(), nil
	}
	if err == nil {
		n.trouble.overlay = ""
		return nil
	}
	if n.trouble.overlay != err.Error() {
		n.log.Error("the host's network cannot be set up", "reason", err)
	}
	n.trouble.overlay = err.Error()
	n.map_.inForce = false
	n.refuseAll()
	return err
}

// overdue reports whether something of the map in force ended without the timer's notice, which stands still while the host sleeps.
func (n *Node) overdue() bool {
	end := soonest(n.map_.judged.next, n.leaseEnd())
	return !end.IsZero() && !n.clock.now().Before(end)
}

// refuseAll cuts every flow and lets nothing pass until the next Apply.
func (n *Node) refuseAll() {
	if n.overlay == nil {
		return
	}
	if _, err := n.overlay.overlay.Apply(wgtun.State{Self: n.id.node.Node}); err != nil {
		n.log.Error("the tunnel could not be told to refuse everything: it is closed", "reason", err)
		n.stopOverlay()
	}
}

// warnRefused says once, in the log, which peers are left out.
func (n *Node) warnRefused() {
	was := n.view.Load()
	for node, why := range n.map_.judged.refused {
		if was == nil || was.judged.refused[node] != why {
			n.log.Warn("a peer is refused", "peer", node, "reason", why)
		}
	}
}

// shortest is the least time between two judgements for a deadline's sake.
const shortest = 50 * time.Millisecond

// setTimer asks for enforce at t of the coordinator's clock; the zero time asks for nothing.
func (n *Node) setTimer(t time.Time) {
	if t.IsZero() {
		n.timer.Stop()
		return
	}
	n.timer.Reset(max(shortest, t.Sub(n.clock.now()))) // whatever went wrong, it must not spin
}

// onCut logs what a change ended; the tunnel calls it.
func (n *Node) onCut(cuts []filter.Cut) {
	causes := make(map[string]int)
	for _, c := range cuts {
		causes[c.Cause]++
	}
	for cause, count := range causes {
		n.log.Info("flows were cut", "cause", cause, "count", count)
	}
}

// Why an admission is over.
const (
	endExpired = "expired"
	endRemoved = "removed"
)

// end closes everything because the admission is over.
func (n *Node) end(why string) {
	n.log.Warn("this node is no longer admitted", "reason", why)
	n.refuseAll()
	n.noteSave(n.id.end(why))
	n.map_ = mapState{hints: make(map[acl.NodeID]protocol.Hint)}
	n.setTimer(time.Time{})
	n.stopSession()
	n.stopOverlay()
}

// startOverlay opens the overlay unless it is there.
func (n *Node) startOverlay(ctx context.Context) {
	if n.overlay != nil {
		return
	}
	o, err := n.reach.overlay(ctx, overlayConfig{
		name: n.config.TUN, mtu: n.mtu(), port: n.port(ctx), tunnel: n.id.node.Tunnel, probe: n.id.node.Probe,
		ranges: n.map_.held.content.Network.Overlay, loopback: n.config.Loopback || hostnet.OnlyLoopback(), onCut: n.onCut, relay: n.relaying.set, logger: n.log,
		inbound: &n.inbound, listeners: n.config.Listeners, onSeek: n.onSeek, onReflected: n.onReflected, onHeir: n.onHeir,
	})
	if err != nil {
		if n.trouble.overlay != err.Error() {
			n.log.Error("the tunnel cannot be opened", "reason", err)
		}
		n.trouble.overlay = err.Error()
		return
	}
	n.trouble.overlay, n.blocked = "", false
	octx, stop := context.WithCancel(ctx)
	r := &running{overlay: o, stop: stop, done: make(chan struct{})}
	n.overlay = r
	n.awaitFlows()
	n.tasks.Go(func() {
		err := o.Run(octx)
		close(r.done)
		_ = n.do(ctx, func() { n.overlayEnded(r, err) }) // the agent is ending otherwise
	})
	n.tasks.Go(func() {
		select {
		case <-o.Ready():
			_ = n.do(octx, func() { n.bound(r) }) // it was closed again otherwise
		case <-octx.Done():
		}
	})
	if !n.map_.held.isZero() && n.id.admitted() {
		n.enforce()
	}
}

// port is the UDP port to take: the one asked for, else the last one when it is free.
func (n *Node) port(ctx context.Context) uint16 {
	if n.config.Port == 0 && CheckPort(ctx, n.id.node.Port) == nil {
		return n.id.node.Port
	}
	return n.config.Port
}

// bound reacts to the overlay's port being known.
func (n *Node) bound(r *running) {
	if n.overlay != r {
		return
	}
	if port := r.overlay.Stats().Port; n.config.Port == 0 && port != n.id.node.Port {
		n.id.node.Port = port
		n.noteSave(n.id.save())
	}
	if n.mapper != nil {
		n.mapper.SetPort(r.overlay.Stats().Port)
	}
	n.report(false)
}

// overlayEnded notes an overlay that ended by itself, somebody deleted its interface, say. tend opens it again.
func (n *Node) overlayEnded(r *running, err error) {
	if n.overlay != r {
		return
	}
	r.stop()
	if n.map_.inForce {
		if f, ok := n.leave(r.overlay); ok {
			n.handover.left = &f
		}
	}
	n.overlay, n.map_.inForce, n.blocked = nil, false, true
	n.trouble.overlay = "the tunnel was closed by something else: it is opened again"
	n.log.Error("the tunnel ended by itself", "reason", err)
}

// suspendOverlay closes the overlay for a trouble that passes: what an exit node was to be used for waits.
func (n *Node) suspendOverlay() {
	if n.overlay == nil {
		return
	}
	n.overlay.overlay.Block()
	n.stopOverlay()
	n.blocked = true
}

// stopOverlay closes the overlay and waits until it has taken everything back, so that the next one finds its name free. What was left
// behind by one that ended otherwise is taken back, too.
func (n *Node) stopOverlay() {
	r := n.overlay
	if r == nil {
		if n.blocked {
			n.blocked = false
			n.reach.clean(n.log)
		}
		return
	}
	n.overlay, n.map_.inForce = nil, false
	n.moves = moves{}
	if n.mapper != nil {
		n.mapper.SetPort(0)
	}
	r.stop()
	<-r.done
}
