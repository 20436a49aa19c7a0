package node

import (
	"time"

	"picket.internal/node/statefile"
)

// maxHandover is how long after a tunnel has ended its flows are still taken over: enough for an upgrade, not for their ends to have forgotten them.
const maxHandover = 2 * time.Minute

// handoverWait is how long a new tunnel answers nothing that it refuses while it waits for a map, and with it for the flows of the last one.
const handoverWait = 10 * time.Second

// handover is how flows outlive the tunnel that carried them: one that somebody's deletion of the interface ended, or that of an agent which was
// stopped to be started again, an upgrade, say. What may be carried on is judged by the rules that are in force then.
type handover struct {
	left *statefile.Flows // of the last tunnel that ended by itself
	read bool             // what the agent before this one left was looked at
}

// leave takes down the flows of a tunnel that was in use; false where it cannot be told for how long nobody will look after them.
func (n *Node) leave(o overlay) (statefile.Flows, bool) {
	boot, since := n.reach.boot()
	if boot == "" {
		return statefile.Flows{}, false
	}
	return statefile.Flows{Boot: boot, Millis: since.Milliseconds(), Saved: o.Save()}, true
}

// saveFlows leaves the live flows to the agent that is started next.
func (n *Node) saveFlows() {
	if n.overlay == nil || !n.map_.inForce {
		return
	}
	f, ok := n.leave(n.overlay.overlay)
	if !ok {
		return
	}
	if err := n.id.dir.SaveFlows(f); err != nil {
		n.log.Warn("open connections will not survive the agent's next start", "reason", err)
	}
}

// awaitFlows tells a tunnel that was just opened whether what the one before it left will be handed to it.
func (n *Node) awaitFlows() {
	if !n.handover.read {
		n.handover = handover{left: n.readFlows(), read: true}
	}
	if n.handover.left != nil {
		n.overlay.overlay.AwaitRestore(handoverWait)
	}
}

// takeFlows carries on what the tunnel before this one left, once, as soon as a map is in force.
func (n *Node) takeFlows() {
	f := n.handover.left
	n.handover.left = nil
	if f == nil {
		return
	}
	boot, since := n.reach.boot()
	ago := since - time.Duration(f.Millis)*time.Millisecond
	if boot == "" || f.Boot != boot || ago < 0 || ago > maxHandover {
		return
	}
	cut, err := n.overlay.overlay.Restore(f.Saved, ago)
	if err != nil {
		n.log.Warn("the flows of the tunnel before this one are not carried on", "reason", err)
		return
	}
	n.log.Info("flows are carried on", "interrupted", ago.Round(time.Millisecond), "cut", cut)
}

func (n *Node) readFlows() *statefile.Flows {
	f, ok, err := n.id.dir.TakeFlows()
	if err != nil {
		n.log.Warn("the flows of the agent before this one cannot be read", "reason", err)
	}
	if !ok {
		return nil
	}
	return &f
}
