package coordinator

import (
	"context"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// PolicyDirectory is who and what exists, as a directory file that acl.ParseDirectory reads: users with their roles, and the living nodes with
// owner or tags, addresses, routes and what postures ask of them. No keys, and no ids: a device that was enrolled anew under its name is written the same. The policy's own
// tests, when a commit is judged, are about the same nodes.
func (c *Coordinator) PolicyDirectory(ctx context.Context, a Actor) ([]byte, error) {
	if err := c.viewAllowed(ctx, a, rightReadDirectory); err != nil {
		return nil, c.outward(ctx, err)
	}
	w := c.world.Load()
	d := c.directory(w, w.policy, anyNode)
	for i := range d.Nodes {
		d.Nodes[i].ID = ""
	}
	text, err := acl.FormatDirectory(d)
	return text, c.outward(ctx, err)
}

// PolicyInForce is the policy that the network follows now.
func (c *Coordinator) PolicyInForce(ctx context.Context, a Actor) (protocol.PolicyInForce, error) {
	if err := c.viewAllowed(ctx, a, rightReadPolicy); err != nil {
		return protocol.PolicyInForce{}, c.outward(ctx, err)
	}
	p := c.world.Load().current
	return protocol.PolicyInForce{Text: string(p.Text), Commit: p.Commit, Generation: p.Generation, Since: p.InForce}, nil
}
