package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/localapi"
	"picket.internal/wgtun/key"
)

// api is what the socket offers. run is the agent's context, for tasks that outlive a request.
type api struct {
	n   *Node
	run context.Context
}

// Up joins a network, or starts the tunnel of a node that belongs to one, and returns when it runs.
func (a api) Up(ctx context.Context, u localapi.Up, emit func(localapi.UpEvent)) {
	status, err := a.up(ctx, u, emit)
	if err != nil {
		emit(localapi.UpEvent{Error: err.Error()})
		return
	}
	emit(localapi.UpEvent{Done: &status})
}

func (a api) up(ctx context.Context, u localapi.Up, emit func(localapi.UpEvent)) (localapi.Status, error) {
	select {
	case a.n.upTurn <- struct{}{}:
		defer func() { <-a.n.upTurn }()
	default:
		return localapi.Status{}, errors.New("another picket up is waiting: finish or stop that one first")
	}
	join, err := checkUp(u)
	if err != nil {
		return localapi.Status{}, err
	}
	var enrolling *enrolling
	var prepared error
	if err := a.n.do(ctx, func() { enrolling, prepared = a.n.prepareUp(a.run, u, join) }); err != nil {
		return localapi.Status{}, err
	}
	if prepared != nil {
		return localapi.Status{}, prepared
	}
	if enrolling != nil {
		if err := a.enrol(ctx, enrolling, emit); err != nil {
			return localapi.Status{}, err
		}
	} else if u.AuthKey != "" {
		emit(localapi.UpEvent{Note: "this node has joined already: the auth key was not used"})
	}
	return a.awaitRunning(ctx, emit)
}

// checkUp refuses what could not work, before anything is touched. The join string is the zero Join when none was given.
func checkUp(u localapi.Up) (j protocol.Join, err error) {
	if u.Hostname != "" && protocol.CheckName(u.Hostname) != nil {
		return j, fmt.Errorf("%.80q cannot be a node's name: use 1 to 63 lower-case letters, digits and hyphens, none at either end", u.Hostname)
	}
	if u.AuthKey != "" {
		if err := protocol.CheckAuthKey(u.AuthKey); err != nil {
			return j, err
		}
	}
	if u.Coordinator == "" {
		return j, nil
	}
	return protocol.ParseJoin(u.Coordinator)
}

// enrolling is what it takes to ask for admission.
type enrolling struct {
	join    protocol.Join
	client  enroller
	device  key.DevicePrivate
	authKey string
	facts   protocol.Facts
}

// prepareUp starts a node that belongs to a network (and returns nil), or says how to enrol, with the overlay opened ahead.
func (n *Node) prepareUp(run context.Context, u localapi.Up, join protocol.Join) (*enrolling, error) {
	if n.id.node.URL != "" && join.URL != "" && join.URL != n.id.node.URL {
		return nil, fmt.Errorf("this node belongs to the network of %s: %s to leave it", n.id.node.URL, n.leaving())
	}
	if n.id.node.URL == "" && join.URL == "" {
		return nil, errors.New("this node knows no coordinator yet: give its join string, picket up --coordinator https://host:port#FINGERPRINT")
	}
	if !join.Fingerprint.IsZero() && !n.id.node.Coordinator.IsZero() && !join.Fingerprint.Equal(n.id.node.Coordinator.Fingerprint()) {
		return nil, fmt.Errorf("the join string names another coordinator key (%s) than the one this node joined (%s): %s to leave that network",
			join.Fingerprint, n.id.node.Coordinator.Fingerprint(), n.leaving())
	}
	if u.Hostname != "" {
		n.id.node.Hostname = u.Hostname
	}
	if err := n.setRouting(u.Routing); err != nil {
		return nil, err
	}
	if err := n.setRotation(u.RotateKeys); err != nil {
		return nil, err
	}
	if err := n.setDNS(u.DNS); err != nil {
		return nil, err
	}
	if n.id.admitted() {
		return nil, n.startUp(run)
	}
	if join.URL == "" {
		join.URL = n.id.node.URL
	}
	client, err := n.reach.client(join, control.Config{Pinned: n.id.node.Coordinator})
	if err != nil {
		return nil, err
	}
	n.joining = true
	n.reconcile(run)
	if n.overlay == nil {
		n.joining = false
		client.Close()
		return nil, n.overlayError()
	}
	return &enrolling{join, client, n.id.node.Device, u.AuthKey, n.id.facts(n.config.Version)}, nil
}

// leaving is how a node leaves its network.
func (n *Node) leaving() string {
	if n.config.Listeners != nil {
		return "name another state directory, or delete this one"
	}
	return "run picket logout first"
}

// startUp notes that the user wants the tunnel, and starts everything.
func (n *Node) startUp(run context.Context) error {
	n.id.node.WantUp = true
	if err := n.id.save(); err != nil {
		return err
	}
	n.tend(run) // at once: what stood in the way may have been put right just now
	if n.session != nil {
		n.report(true) // the name may be another
		n.session.session.Retry()
	}
	if n.overlay == nil {
		return n.overlayError()
	}
	return nil
}

func (n *Node) overlayError() error {
	if n.trouble.clock != "" {
		return errors.New(n.trouble.clock)
	}
	return errors.New(n.trouble.overlay)
}

// enrol asks for admission and waits for a person when it must.
func (a api) enrol(ctx context.Context, e *enrolling, emit func(localapi.UpEvent)) error {
	defer e.client.Close()
	defer a.enrolled()
	answer, err := e.client.Enrol(ctx, e.device, e.facts, e.authKey)
	if err != nil {
		return err
	}
	admission := answer.Admitted
	if admission == nil {
		login := &localapi.Login{URL: protocol.Printable(answer.Ticket.URL), Code: protocol.Printable(answer.Ticket.Code), Expires: answer.Ticket.Expires}
		if err := a.n.do(ctx, func() { a.n.login = login }); err != nil {
			return err
		}
		emit(localapi.UpEvent{Login: login})
		waited, err := e.client.Wait(ctx, *answer.Ticket)
		if err != nil {
			return err
		}
		admission = &waited
	}
	var admitted error
	err = a.n.do(ctx, func() {
		admitted = a.n.id.admit(e.join.URL, answer.Coordinator, answer.Network, admission.Node)
		a.n.map_ = mapState{hints: a.n.map_.hints}
		a.n.log.Info("admitted", "node", admission.Node, "name", admission.Name)
		a.n.reconcile(a.run)
	})
	return errors.Join(err, admitted)
}

// enrolled ends the time in which the overlay is open ahead of admission, whatever came of it.
func (a api) enrolled() {
	_ = a.n.do(a.run, func() { // the agent is ending otherwise
		a.n.joining, a.n.login = false, nil
		a.n.reconcile(a.run)
	})
}

// slowNote is how long Up waits in silence for the first map before it says what it is waiting for.
const slowNote = 3 * time.Second

// settleTime is how long Up gives the coordinator to answer when the map on disk is enough to start with.
const settleTime = time.Second

// awaitRunning blocks until packets may pass, or until something says that they will not.
func (a api) awaitRunning(ctx context.Context, emit func(localapi.UpEvent)) (localapi.Status, error) {
	slow, settled := time.After(slowNote), time.After(settleTime)
	patient := true
	for {
		v := a.n.view.Load()
		switch v.state {
		case localapi.StateRunning:
			if v.contact.connected || v.trouble.link != "" || !patient {
				return v.status(), nil
			}
		case localapi.StateRefused, localapi.StateRemoved, localapi.StateExpired, localapi.StateDown, localapi.StateLoggedOut:
			return localapi.Status{}, errors.New(v.problem())
		}
		select {
		case <-v.over:
		case <-settled:
			patient = false
		case <-slow:
			note := "waiting for the coordinator"
			if v.trouble.link != "" {
				note = v.trouble.link
			}
			emit(localapi.UpEvent{Note: note})
		case <-ctx.Done():
			return localapi.Status{}, ctx.Err()
		}
	}
}

// Down stops the tunnel; the node stays admitted.
func (a api) Down(ctx context.Context) error {
	var failed error
	err := a.n.do(ctx, func() {
		a.n.refuseAll()
		a.n.id.node.WantUp = false
		failed = a.n.id.save()
		a.n.reconcile(a.run)
	})
	return errors.Join(err, failed)
}

// logoutTime bounds how long Logout waits for the coordinator.
const logoutTime = 3 * time.Second

// Logout gives up the admission: at the coordinator when it is reached, here in any case.
func (a api) Logout(ctx context.Context) error {
	var s session
	var url string
	if err := a.n.do(ctx, func() {
		a.n.refuseAll()
		if url = a.n.id.node.URL; a.n.session != nil {
			s = a.n.session.session
		}
	}); err != nil {
		return err
	}
	if url == "" {
		return errors.New("this node has not joined a network: there is nothing to log out of")
	}
	told := errors.New("the agent was not connected")
	if s != nil {
		lctx, cancel := context.WithTimeout(ctx, logoutTime)
		told = s.Logout(lctx)
		cancel()
	}
	var failed error
	err := a.n.do(ctx, func() {
		a.n.stopSession()
		failed = a.n.id.forget()
		a.n.map_ = mapState{hints: make(map[acl.NodeID]protocol.Hint)}
		a.n.trouble = trouble{}
		a.n.setTimer(time.Time{})
		a.n.reconcile(a.run)
	})
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	if told != nil {
		return fmt.Errorf("logged out here, but the coordinator at %s could not be told: ask its operator to remove this node", url)
	}
	return nil
}
