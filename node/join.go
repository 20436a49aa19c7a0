package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/localapi"
)

// Joining has an agent join by itself at its start, or come back to the network it is in: for containers, which have one process and nobody to type.
type Joining struct {
	Coordinator string // join string
	Hostname    string // "": the host's
	// Key reads the auth key. It is called at each try, and not at all while the admission lasts.
	Key func() (string, error)
}

// Pauses between tries to join.
const (
	joinFrom = time.Second
	joinTo   = time.Minute
)

// errRemovedBefore keeps an agent that joins by itself out where an operator has put it out: a key that is good for many would undo that at the next restart.
var errRemovedBefore = errors.New("an operator removed this node from the network, so it does not join by itself again: run picket up, or give it an empty state folder")

// errKeyIsNoAdmission is of a coordinator that asks for a person although there was a key.
var errKeyIsNoAdmission = errors.New("the coordinator asks for a person although an auth key was given: the agent does not join by itself")

// joinByItself tries until this node is up or it is clear that it will not be, which ends the agent with a reason. It returns nil when ctx ends.
func (n *Node) joinByItself(ctx context.Context, j Joining) error {
	for pause := joinFrom; ; pause = min(2*pause, joinTo) {
		err := n.tryToJoin(ctx, j)
		switch id := n.view.Load().id; {
		case err == nil || ctx.Err() != nil:
			return nil
		case id.Node != "" && id.Ended == "": // it belongs to the network: what stands in the way is tried again anyway, and is in the status
			n.log.Warn("not up yet", "reason", err)
			return nil
		case !passes(err):
			return fmt.Errorf("joining: %w", err)
		}
		n.log.Warn("not joined yet: it is tried again", "reason", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *Node) tryToJoin(ctx context.Context, j Joining) error {
	u := localapi.Up{Coordinator: j.Coordinator, Hostname: j.Hostname}
	switch id := n.view.Load().id; {
	case id.Ended == endRemoved:
		return errRemovedBefore
	case id.Node == "" || id.Ended != "":
		var err error
		if u.AuthKey, err = j.Key(); err != nil {
			return err
		}
	}
	asking, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_, err := api{n, ctx}.up(asking, u, func(e localapi.UpEvent) {
		if e.Login != nil {
			cancel(errKeyIsNoAdmission)
		} else if e.Note != "" {
			n.log.Info("joining", "note", e.Note)
		}
	})
	if errors.Is(context.Cause(asking), errKeyIsNoAdmission) {
		return errKeyIsNoAdmission
	}
	return err
}

// passes reports what time may mend: the coordinator is away or busy, or this host's clock is not set yet.
func passes(err error) bool {
	var p *control.ProblemError
	if errors.As(err, &p) {
		return p.Code == protocol.CodeThrottled || p.Code == protocol.CodeUnavailable
	}
	return errors.Is(err, control.ErrUnreachable) || errors.Is(err, control.ErrClock)
}
