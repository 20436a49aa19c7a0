package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
)

// Change runs fn in one transaction of the coordinator that raises the generation, as changes do for which nobody has a call yet.
func (c *Coordinator) Change(ctx context.Context, fn func(Tx) error) error {
	_, err := c.update(ctx, system, func(ch *change) error {
		ch.raise()
		ch.record("test.change", "", "") // or the audit log's head would be behind
		return fn(ch.Tx)
	})
	return err
}

// Retag gives a node other tags.
func (c *Coordinator) Retag(ctx context.Context, id acl.NodeID, tags []string) error {
	return c.Change(ctx, func(tx Tx) error {
		n, err := tx.NodeByID(id)
		if err != nil {
			return err
		}
		n.Tags, n.Owner = tags, ""
		return tx.UpdateNode(n)
	})
}

// MakeMaps makes the maps of nodes, as their sessions would, and returns how many peers they name.
func (c *Coordinator) MakeMaps(nodes []acl.NodeID) (peers int) {
	w := c.world.Load()
	for _, id := range nodes {
		if w.node(id) != nil {
			peers += len(c.mapOf(w, id).peers)
		}
	}
	return peers
}

// Undoubted reports whether the next change will be read by itself.
func (c *Coordinator) Undoubted() bool { return c.undoubted() != nil }

// CompareWithWhole brings the world in force up to date by what changed, and reports how it then differs from one that is read and made
// whole: nil when it does not.
func (c *Coordinator) CompareWithWhole(ctx context.Context) error {
	if !c.Undoubted() {
		return errors.New("the world in force is in doubt")
	}
	if err := c.refresh(ctx, 0, gentle); err != nil {
		return err
	}
	followed := c.world.Load()
	s, err := c.read(ctx, nil, 0)
	if err != nil {
		return err
	}
	whole, _ := c.build(s, nil)
	if diff := cmp.Diff(whole.told(), followed.told()); diff != "" {
		return fmt.Errorf("read whole (-), followed (+):\n%s", diff)
	}
	for id := range whole.nodes.all() {
		if want, got := c.mapOf(whole, id), c.mapOf(followed, id); string(want.digest) != string(got.digest) {
			return fmt.Errorf("the map of %s, read whole (-), followed (+):\n%s", id, cmp.Diff(entriesOf(want), entriesOf(got)))
		}
	}
	return nil
}

func entriesOf(m *nodeMap) map[string]string {
	out := make(map[string]string)
	for id, e := range m.entries {
		out[string(id)] = string(e)
	}
	return out
}

// told is all that a world says, in a form that can be compared.
func (w *world) told() map[string]any {
	nodes := make(map[acl.NodeID]string)
	for id, n := range w.nodes.all() {
		nodes[id] = fmt.Sprintf("%+v", *n)
	}
	return map[string]any{
		"generation": w.generation, "at": w.at, "revision": w.revision, "policy": fmt.Sprintf("%+v", w.current),
		"users": maps.Collect(w.users.all()), "nodes": nodes, "names": maps.Collect(w.names.all()),
		"expiries": slices.Sorted(maps.Keys(maps.Collect(w.expiries.all()))),
	}
}
