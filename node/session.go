package node

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/hostnet"
	"picket.internal/wgtun/key"
)

// enroller is what a node asks of a coordinator before it is admitted; *control.Client is one.
type enroller interface {
	Enrol(ctx context.Context, device key.DevicePrivate, f protocol.Facts, authKey string) (control.Enrolment, error)
	Wait(ctx context.Context, t protocol.Ticket) (protocol.Admission, error)
	Close()
}

// session is a kept connection; *control.Session is one.
type session interface {
	Run(ctx context.Context) error
	Retry()
	SetReport(protocol.Report)
	Receipt(protocol.Receipt)
	Flows(protocol.Flows)
	Reconnect()
	Seek(acl.NodeID)
	Evidence(protocol.Evidence)
	Resync()
	Logout(ctx context.Context) error
}

// startSession opens the session unless it is there.
func (n *Node) startSession(ctx context.Context) {
	if n.session != nil {
		return
	}
	n.trouble.link = ""
	id := n.id.node
	client, err := n.reach.client(protocol.Join{URL: id.URL}, control.Config{Pinned: id.Coordinator})
	if err != nil {
		n.trouble.link = err.Error()
		return
	}
	sctx, stop := context.WithCancel(ctx)
	r := &running{stop: stop, done: make(chan struct{})}
	h := &handler{n: n, r: r, run: ctx, ctx: sctx}
	certificate, next, err := n.id.certificates(n.clock.now())
	n.noteSave(err)
	n.contact.endpoints = n.endpoints()
	r.session, err = n.reach.session(control.SessionConfig{
		Pinned: id.Coordinator, Network: id.Network, Node: id.Node, Device: id.Device, Handler: h, Held: h.held,
		Report: n.reportOf(certificate, next),
	}, client)
	if err != nil {
		stop()
		client.Close()
		n.trouble.link = err.Error()
		return
	}
	n.session = r
	n.tasks.Go(func() {
		defer client.Close()
		defer close(r.done)
		if err := r.session.Run(sctx); err != nil {
			n.log.Warn("the session ended for good", "reason", err)
		}
	})
}

// stopSession ends the session; it does not wait, since the session may be waiting for Run.
func (n *Node) stopSession() {
	if n.session == nil {
		return
	}
	n.session.stop()
	n.session = nil
	n.contact.connected = false
}

// endpoints is where this node's UDP port may be reached, none before it is bound: what reflectors and the gateway say, and the host's addresses.
func (n *Node) endpoints() []netip.AddrPort {
	if n.overlay == nil {
		return nil
	}
	public := n.public(n.overlay.overlay)
	all := append(public, slices.DeleteFunc(n.local(), func(a netip.AddrPort) bool { return slices.Contains(public, a) })...)
	return all[:min(len(all), protocol.MaxEndpoints)]
}

// local is the open UDP port at the host's own addresses.
func (n *Node) local() []netip.AddrPort {
	port := n.overlay.overlay.Port()
	if port == 0 {
		return nil
	}
	local := hostnet.Local{TUN: n.overlay.overlay.Interface(), Overlay: n.map_.held.content.Network.Overlay, Loopback: n.config.Loopback}
	found, err := hostnet.Candidates(port, local)
	if err != nil {
		n.log.Warn("the host's addresses cannot be listed", "reason", err)
	}
	return found
}

// report tells the coordinator what changed of endpoints and certificate since the last time; force tells it anyway.
func (n *Node) report(force bool) {
	if n.session == nil {
		return
	}
	endpoints := n.endpoints()
	before := n.id.node.Serial
	certificate, next, err := n.id.certificates(n.clock.now())
	if err != nil {
		n.noteSave(err)
	}
	if !force && n.id.node.Serial == before && slices.Equal(endpoints, n.contact.endpoints) {
		return
	}
	n.contact.endpoints = endpoints
	n.session.session.SetReport(n.reportOf(certificate, next))
}

// reportOf is what the node says of itself, with the endpoints last found.
func (n *Node) reportOf(certificate, next []byte) protocol.Report {
	return protocol.Report{
		Facts: n.id.facts(n.config.Version), Certificate: certificate, Next: next, Endpoints: n.contact.endpoints, Routes: advertised(n.routed()),
		Relay: n.relaying.set.Home(),
	}
}

// handler brings what a session delivers to Run. What an old session still delivers is dropped.
type handler struct {
	n   *Node
	r   *running
	run context.Context // of the agent
	ctx context.Context // of the session

	answered time.Time // owned by the session's receiver: when it last answered OnAskFlows
}

func (h *handler) do(f func()) {
	_ = h.n.do(h.ctx, func() { // the session was stopped
		if h.n.session == h.r {
			f()
		}
	})
}

func (h *handler) held() (generation uint64, digest []byte) {
	h.do(func() { generation, digest = h.n.map_.held.header.Generation, h.n.map_.held.header.Digest })
	return generation, digest
}

// OnConnected takes the coordinator's signed time. A clock that was wrong is right now, or the session would have refused it.
func (h *handler) OnConnected(ahead time.Duration) {
	h.do(func() { h.n.connected(h.run, ahead) })
}

func (n *Node) connected(ctx context.Context, ahead time.Duration) {
	n.contact.connected, n.contact.last = true, time.Now()
	n.clock = n.clock.set(-ahead)
	n.trouble.link, n.trouble.clock = "", ""
	n.log.Info("connected to the coordinator", "clockAhead", ahead)
	n.reconcile(ctx)
	if !n.map_.held.isZero() {
		n.enforce() // its deadlines, by the clock just learnt
	}
	n.report(false)
}

// OnDisconnected notes why. Everything in force stays so within the lease, unless it is the clock that stands against it.
func (h *handler) OnDisconnected(err error) {
	h.do(func() { h.n.disconnected(err) })
}

func (n *Node) disconnected(err error) {
	if n.contact.connected {
		n.contact.last = time.Now()
	}
	n.contact.connected = false
	n.trouble.link = err.Error()
	n.log.Info("not connected to the coordinator", "reason", err)
	if errors.Is(err, control.ErrClock) && n.trouble.clock == "" {
		n.trouble.clock = err.Error()
		n.refuseAll()
		n.suspendOverlay()
	}
}

// OnMap takes a map through the door.
func (h *handler) OnMap(m protocol.Map) {
	h.do(func() {
		h.n.contact.last = time.Now()
		h.n.takeMap(m)
	})
}

// OnHints takes addresses to try. They are not signed, and can only be useless.
func (h *handler) OnHints(hints protocol.Hints) {
	h.do(func() {
		h.n.contact.last = time.Now()
		h.n.takeHints(hints)
		if len(hints.Check) > 0 {
			h.n.relaying.set.Check() // which asks no relay more than once a second
		}
	})
}

// maxHints bounds what is kept of peers that the map does not name yet; beyond it such hints are dropped.
const maxHints = 1024

func (n *Node) takeHints(hints protocol.Hints) {
	named := make(map[acl.NodeID]bool)
	for _, p := range n.map_.held.content.Peers {
		named[p.Node] = true
	}
	for _, hint := range hints.Hints {
		if !named[hint.Node] && len(n.map_.hints) >= len(named)+maxHints {
			continue
		}
		n.map_.hints[hint.Node] = hint
		if n.overlay != nil {
			n.overlay.overlay.Hint(hint.Node, n.candidates(hint), n.homeOf(hint))
		}
	}
}

// askEvery is the least time between two answers to OnAskFlows: each walks the whole flow table.
const askEvery = 100 * time.Millisecond

// OnAskFlows answers from the tunnel itself: what Run may be waiting for does not delay it.
func (h *handler) OnAskFlows(a protocol.AskFlows) {
	if time.Since(h.answered) < askEvery {
		return
	}
	h.answered = time.Now()
	h.r.session.Flows(h.n.view.Load().flows(a))
}

// flows is the answer; without a tunnel there are none.
func (v *view) flows(a protocol.AskFlows) protocol.Flows {
	f := protocol.Flows{Ask: a.Ask, Flows: []protocol.FlowCount{}}
	if v.overlay == nil {
		return f
	}
	c := v.overlay.Census(min(a.Max, protocol.MaxFlows))
	f.Total, f.Truncated = uint64(c.Total), c.Truncated()
	for _, n := range c.Counts {
		f.Flows = append(f.Flows, protocol.FlowCount{
			Peer: n.Peer, Out: n.Out, Local: n.Local, Remote: n.Remote, Proto: n.Proto, Port: n.Port, Count: uint64(n.Count),
		})
	}
	return f
}

// OnProblem takes the coordinator's refusal. Only what trying again cannot mend ends the session.
func (h *handler) OnProblem(p protocol.Problem) (stop bool) {
	h.do(func() {
		switch p.Code {
		case protocol.CodeRemoved, protocol.CodeUnknownNode:
			h.n.end(endRemoved)
			stop = true
		case protocol.CodeExpired:
			h.n.end(endExpired)
			stop = true
		case protocol.CodeClock:
			h.n.trouble.clock = p.Message
			h.n.refuseAll()
			h.n.suspendOverlay()
		case protocol.CodeReplaced:
			h.n.trouble.link = "another copy of this node's state directory is in use: stop it, or remove this node at the coordinator and join anew"
		}
	})
	return stop
}
