package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"picket.internal/acl"
)

// NodeView is a node as operators see it.
type NodeView struct {
	ID          acl.NodeID   `json:"id"`
	Name        string       `json:"name"`
	Owner       string       `json:"owner,omitempty"`
	Tags        []string     `json:"tags,omitempty"`
	Addresses   []netip.Addr `json:"addresses"`
	Device      string       `json:"device"` // short key
	OS          string       `json:"os"`
	Version     string       `json:"version"`
	Hostname    string       `json:"hostname"` // as the host calls itself
	Created     time.Time    `json:"created"`
	Expires     time.Time    `json:"expires"`
	Online      bool         `json:"online"`
	LastSeen    time.Time    `json:"lastSeen"`
	Generation  uint64       `json:"generation"` // newest receipt; 0 none
	LeaseEnds   time.Time    `json:"leaseEnds"`
	Quarantined bool         `json:"quarantined"`
	From        string       `json:"from,omitempty"` // address of its session
	Peers       int          `json:"peers"`          // how many nodes it may exchange flows with
	Bypass      *Accusation  `json:"egressBypass,omitempty"`
}

func (c *Coordinator) view(w *world, n *NodeRow) NodeView {
	p, online := c.presenceOf(n)
	v := NodeView{
		ID: n.ID, Name: n.Name, Owner: w.login(n), Tags: n.Tags, Addresses: n.Addresses, Device: n.Device.Short(),
		OS: n.Facts.OS, Version: n.Facts.Version, Hostname: n.Facts.Hostname, Created: n.Created, Expires: n.Expires,
		Online: online, LastSeen: p.LastSeen, LeaseEnds: p.LeaseEnds, Quarantined: n.Quarantined,
		Generation: c.ledger.newest(n.ID).Generation, Peers: len(c.mapOf(w, n.ID).peers), Bypass: c.accused.of(n.ID),
	}
	if s := c.hub.get(n.ID); s != nil && online {
		v.From = s.from.String()
	}
	return v
}

// Nodes lists nodes by name: all of them for admins and operators, their own for members.
func (c *Coordinator) Nodes(ctx context.Context, a Actor) ([]NodeView, error) {
	var got reach
	err := c.store.View(ctx, func(tx ReadTx) (err error) {
		got, err = reachOf(tx, a, rightListNodes)
		return err
	})
	if err != nil {
		return nil, c.outward(ctx, err)
	}
	w := c.world.Load()
	out := []NodeView{}
	for _, n := range w.nodes.all() {
		if got == all || n.Owner != "" && n.Owner == a.User {
			out = append(out, c.view(w, n))
		}
	}
	slices.SortFunc(out, func(a, b NodeView) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Node shows one, by name or id.
func (c *Coordinator) Node(ctx context.Context, a Actor, ref string) (NodeView, error) {
	w := c.world.Load()
	var n NodeRow
	err := c.store.View(ctx, func(tx ReadTx) (err error) {
		if _, err = reachOf(tx, a, rightShowNode); err != nil {
			return err
		}
		if n, err = nodeByRef(w, ref); err != nil {
			return err
		}
		return may(tx, a, rightShowNode, n.Owner)
	})
	if err != nil {
		return NodeView{}, c.outward(ctx, err)
	}
	return c.view(w, w.node(n.ID)), nil
}

// nodeFinder is a transaction or a world.
type nodeFinder interface {
	NodeByID(acl.NodeID) (NodeRow, error)
	NodeByName(string) (NodeRow, error)
}

// nodeByRef finds a living node by name or id; CodeNotFound otherwise.
func nodeByRef(f nodeFinder, ref string) (NodeRow, error) {
	n, err := f.NodeByName(ref)
	if errors.Is(err, ErrNoRow) && likeID.MatchString(ref) {
		n, err = f.NodeByID(acl.NodeID(ref))
	}
	if errors.Is(err, ErrNoRow) || err == nil && !n.Removed.IsZero() {
		return NodeRow{}, refuse(CodeNotFound, "there is no such node")
	}
	return n, err
}

// RenameNode gives a node another name (a DNS label, not in use).
func (c *Coordinator) RenameNode(ctx context.Context, a Actor, ref, name string) (Change, error) {
	var summary string
	g, err := c.update(ctx, a, func(ch *change) error {
		n, err := c.pickNode(ch, a, rightRenameNode, ref)
		if err != nil {
			return err
		}
		if err := checkLabel(name); err != nil {
			return err
		}
		summary = fmt.Sprintf("node %s is now called %s", n.Name, name)
		if n.Name == name {
			return nil
		}
		was := n.Name
		n.Name = name
		if err := ch.UpdateNode(n); errors.Is(err, ErrTaken) {
			return refuse(CodeConflict, "another node is called %s: choose another name, or rename that one first", name)
		} else if err != nil {
			return err
		}
		ch.raise()
		ch.record("node.rename", string(n.ID), was+" to "+name)
		return nil
	})
	if err != nil {
		return Change{}, c.outward(ctx, err)
	}
	return Change{Generation: g, Summary: summary}, nil
}

// RemoveNode removes a node for good; its id and address are not given out again while its certificate could live. When storage fails it
// takes effect all the same, and the error, with CodeUnavailable, comes together with the change.
func (c *Coordinator) RemoveNode(ctx context.Context, a Actor, ref string) (Change, error) {
	pick := func(p people) (victim, error) {
		n, err := c.pickNode(p, a, rightRemoveNode, ref)
		if err != nil {
			return victim{}, err
		}
		return removalOf(n), c.mayLeave(p, a, n)
	}
	return c.revoked(ctx, a, pick, func(ch *change, v victim) error { return ch.removeNode(v.node, "node.remove") })
}

// mayLeave keeps a quarantined node in the network, unless a could release it: removed, its device could join again as a node that is not
// quarantined.
func (c *Coordinator) mayLeave(users userReader, a Actor, n NodeRow) error {
	inForce := c.world.Load().node(n.ID) // it may be in quarantine without that being on disk
	if !n.Quarantined && !(inForce != nil && inForce.Quarantined) {
		return nil
	}
	_, err := reachOf(users, a, rightQuarantineNode)
	if isStorage(err) {
		return err
	} else if err != nil {
		return refuse(CodeForbidden, "node %s is in quarantine: only an admin can remove it", n.Name)
	}
	return nil
}

func removalOf(n NodeRow) victim {
	return victim{node: n.ID, summary: fmt.Sprintf("node %s is removed", n.Name)}
}

// pickNode finds a node on which a has right r.
func (c *Coordinator) pickNode(p people, a Actor, r right, ref string) (NodeRow, error) {
	if _, err := reachOf(p, a, r); err != nil {
		return NodeRow{}, err
	}
	n, err := nodeByRef(p, ref)
	if err != nil {
		return NodeRow{}, err
	}
	return n, may(p, a, r, n.Owner)
}

// revoked is revoke with errors for the outside.
func (c *Coordinator) revoked(ctx context.Context, a Actor, pick func(people) (victim, error), commit func(*change, victim) error) (Change, error) {
	change, err := c.revoke(ctx, a, pick, commit)
	return change, c.outward(ctx, err)
}

// removeNode turns a node into a tombstone.
func (ch *change) removeNode(id acl.NodeID, action string) error {
	n, err := ch.NodeByID(id)
	if err != nil {
		return err
	}
	n.Removed = ch.Now()
	if err := ch.UpdateNode(n); err != nil {
		return err
	}
	if err := ch.HoldAddresses(n.ID, heldUntil(n, ch.Now())); err != nil {
		return err
	}
	ch.narrow()
	ch.record(action, string(n.ID), describe(n))
	return nil
}

// describe names a node for the audit log as it was then.
func describe(n NodeRow) string {
	parts := []string{n.Name, fmt.Sprint(n.Addresses), n.Device.Short()}
	if len(n.Tags) > 0 {
		parts = append(parts, strings.Join(n.Tags, " "))
	} else {
		parts = append(parts, "of "+string(n.Owner))
	}
	return strings.Join(parts, ", ")
}

// QuarantineNode (on true) takes every flow from a node without removing it; on false gives them back. When storage fails, taking takes
// effect all the same, and the error, with CodeUnavailable, comes together with the change.
func (c *Coordinator) QuarantineNode(ctx context.Context, a Actor, ref string, on bool) (Change, error) {
	if on {
		pick := func(p people) (victim, error) {
			n, err := c.pickNode(p, a, rightQuarantineNode, ref)
			return victim{node: n.ID, quarantine: true, summary: fmt.Sprintf("node %s is quarantined", n.Name)}, err
		}
		return c.revoked(ctx, a, pick, func(ch *change, v victim) error { return ch.quarantine(v.node) })
	}
	var summary string
	var lifted []unsettled
	g, err := c.update(ctx, a, func(ch *change) error {
		n, err := c.pickNode(ch, a, rightQuarantineNode, ref)
		if err != nil {
			return err
		}
		summary = fmt.Sprintf("node %s is out of quarantine", n.Name)
		lifted = c.emergency.settled(victim{node: n.ID, quarantine: true})
		if len(lifted) > 0 {
			n.Quarantined = true // in effect, if not on disk: the maps change
		}
		return ch.release(n)
	})
	if err != nil {
		c.emergency.restore(lifted)
		return Change{}, c.outward(ctx, err)
	}
	return Change{Generation: g, Summary: summary}, nil
}

// quarantine marks a node; a node that is so already stays as it is, without a new generation.
func (ch *change) quarantine(id acl.NodeID) error {
	n, err := ch.NodeByID(id)
	if err != nil || n.Quarantined {
		return err
	}
	n.Quarantined = true
	ch.narrow()
	ch.record("node.quarantine", string(n.ID), describe(n))
	return ch.UpdateNode(n)
}

func (ch *change) release(n NodeRow) error {
	if !n.Quarantined {
		return nil
	}
	n.Quarantined = false
	ch.raise()
	ch.record("node.release", string(n.ID), describe(n))
	return ch.UpdateNode(n)
}
