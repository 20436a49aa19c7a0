package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
	"picket.internal/node/statefile"
	"picket.internal/wgtun"
	"picket.internal/wgtun/key"
)

// A node changes its tunnel key in three steps, and tells of each before the next:
//
//  1. it makes the next key and a certificate for it, on disk, and reports the certificate beside the present one; the coordinator puts it
//     into the maps of the node's peers
//  2. it waits until each peer in use has said, in its answer to a probe, that it knows the next key
//  3. the next key becomes the present one, first on disk, then in the tunnel (wgtun.Tunnel.Rekey), and the former private key is erased;
//     when the peers have sessions under it, the certificate is reported as the present one
//
// After a crash at any moment the key on disk is one that the coordinator hands out, or has handed out as the next one.

const (
	// rotateEvery is how long a tunnel key is used, but for a tenth more or less.
	rotateEvery = 24 * time.Hour
	// leastRotation bounds what users may ask for: each change is two new maps for every peer.
	leastRotation = 10 * time.Minute
	// rotatePatience is how long a peer in use that does not know the next key is waited for.
	rotatePatience = time.Hour
	// announceTime is the least time between steps 1 and 3.
	announceTime = time.Second
	// rekeyTime bounds how long sessions are waited for before the key is reported.
	rekeyTime = 5 * time.Second
)

// rotation is what is known of a change of the tunnel key beside what is on disk. Owned by Run.
type rotation struct {
	announced time.Time // when the next key was reported, by the monotonic clock; zero when not by this process
	probed    time.Time
	waiting   []acl.NodeID       // peers in use that do not know the next key
	last      *localapi.Rotation // the newest one done
}

// rotates reports whether the tunnel key is changed by time, and how often.
func rotates(n statefile.Node) (time.Duration, bool) {
	switch {
	case n.RotateSeconds < 0:
		return 0, false
	case n.RotateSeconds == 0:
		return rotateEvery, true
	}
	return time.Duration(n.RotateSeconds) * time.Second, true
}

// planRotation sets when the present key is to be changed.
func (id *identity) planRotation(now time.Time) {
	every, ok := rotates(id.node)
	id.node.RotateAt = time.Time{}
	if ok {
		id.node.RotateAt = now.Add(every - every/10 + rand.N(every/5+1)).Truncate(time.Second)
	}
}

// prepare makes the next key, unless there is one.
func (id *identity) prepare(now time.Time) error {
	if id.node.Next != nil {
		return nil
	}
	id.node.Next = &statefile.NextKey{Tunnel: key.NewTunnel()}
	if _, _, err := id.certificates(now); err != nil {
		id.node.Next = nil
		return err
	}
	return nil
}

// promote makes the next key the present one. It is written twice, because the version before stays beside the file: so
// none of both holds the former private key. When writing fails everything is as before.
func (id *identity) promote(now time.Time) error {
	was := id.node
	id.node.Tunnel, id.node.Certificate, id.node.Next = was.Next.Tunnel, was.Next.Certificate, nil
	id.node.TunnelSince = now.Truncate(time.Second)
	id.planRotation(now)
	if err := id.save(); err != nil {
		id.node = was
		return err
	}
	return id.save()
}

// rotateDue makes and announces the next key when it is time, or asked is true, and takes it up when the peers are ready.
func (n *Node) rotateDue(ctx context.Context, asked bool) error {
	now := n.clock.now()
	if n.id.admitted() && n.id.node.TunnelSince.IsZero() {
		n.id.node.TunnelSince = now.Truncate(time.Second)
		n.id.planRotation(now)
		n.noteSave(n.id.save())
	}
	at := n.id.node.RotateAt
	if !asked && n.id.node.Next == nil && (at.IsZero() || now.Before(at)) {
		return nil
	}
	if err := n.mayRotate(); err != nil {
		return err
	}
	if n.id.node.Next == nil || n.rotation.announced.IsZero() {
		if err := n.id.prepare(now); err != nil {
			n.noteSave(err)
			return err
		}
		n.rotation = rotation{announced: time.Now(), last: n.rotation.last}
		n.report(true)
		return nil
	}
	return n.awaitPeers(ctx, now)
}

// mayRotate says what stands against a change of the key.
func (n *Node) mayRotate() error {
	switch {
	case !n.id.admitted():
		return errors.New("this node has not joined a network: there is no key in use")
	case n.overlay == nil || !n.map_.inForce:
		return errors.New("the tunnel is not up: its key can be changed when it is")
	case n.session == nil || !n.contact.connected:
		return errors.New("the coordinator is not reached, and peers learn of a new key from it: the key stays as it is until then")
	}
	return nil
}

// awaitPeers takes the next key up when every peer in use knows it, or has been waited for long enough.
func (n *Node) awaitPeers(ctx context.Context, now time.Time) error {
	if time.Since(n.rotation.announced) < announceTime {
		return nil
	}
	o := n.overlay.overlay
	n.rotation.waiting = o.Unready(n.id.node.Next.Tunnel.Public())
	if len(n.rotation.waiting) > 0 && time.Since(n.rotation.announced) < rotatePatience {
		if time.Since(n.rotation.probed) >= time.Second {
			n.rotation.probed = time.Now()
			o.Reprobe()
		}
		return nil
	}
	if len(n.rotation.waiting) > 0 {
		n.log.Warn("the tunnel key is changed although peers in use do not know the next one: they are cut off until they do", "peers", n.rotation.waiting)
	}
	return n.takeUp(ctx, now)
}

// takeUp is step 3.
func (n *Node) takeUp(ctx context.Context, now time.Time) error {
	former := n.id.node.Tunnel.Public()
	waited := time.Since(n.rotation.announced)
	if err := n.id.promote(now); err != nil {
		n.noteSave(err)
		return err
	}
	n.noteSave(nil)
	began := time.Now()
	done := localapi.Rotation{Former: former.Short(), Key: n.id.node.Tunnel.Public().Short(), At: now, Waited: waited}
	rekeying, err := n.overlay.overlay.Rekey(n.id.node.Tunnel)
	n.rotation = rotation{last: &done}
	if err != nil {
		n.log.Error("the tunnel does not take its new key: it is opened anew", "reason", err)
		n.stopOverlay()
		n.reconcile(ctx)
		n.report(true)
		return err
	}
	done.Peers = rekeying.Peers()
	n.tasks.Go(func() { n.settleRekeying(ctx, rekeying, began, &done) })
	return nil
}

// settleRekeying waits for sessions under the new key and then reports it.
func (n *Node) settleRekeying(ctx context.Context, k *wgtun.Rekeying, began time.Time, done *localapi.Rotation) {
	wctx, cancel := context.WithTimeout(ctx, rekeyTime)
	without := k.Wait(wctx)
	cancel()
	_ = n.do(ctx, func() { // the agent is ending otherwise, and reports when it starts
		done.Took, done.Without, done.Done = time.Since(began), without, true
		n.log.Info("the tunnel key was changed", "from", done.Former, "to", done.Key, "peers", done.Peers, "without", without, "took", done.Took)
		n.report(true)
	})
}

// rotationState is for `picket status`.
func (v *view) rotationState() localapi.KeyState {
	s := localapi.KeyState{Key: v.key.Short(), Since: v.id.TunnelSince, Next: v.id.RotateAt, Pending: v.id.Next != nil}
	if _, ok := rotates(v.id); !ok {
		s.Off = true
	}
	return s
}

// pollRotation is how often `picket rotate` looks.
const pollRotation = 100 * time.Millisecond

// Rotate changes the tunnel key now, and waits for it.
func (a api) Rotate(ctx context.Context, q localapi.Rotate) (localapi.Rotation, error) {
	deadline := time.NewTimer(min(max(q.Timeout, time.Second), rotatePatience))
	defer deadline.Stop()
	tick := time.NewTicker(pollRotation)
	defer tick.Stop()
	var before, last *localapi.Rotation
	if err := a.n.do(ctx, func() { before = a.n.rotation.last }); err != nil {
		return localapi.Rotation{}, err
	}
	var result localapi.Rotation
	var waiting []string
	for {
		var failed error
		if err := a.n.do(ctx, func() {
			if a.n.rotation.last == before { // not done by the agent's own round either
				failed = a.n.rotateDue(a.run, true)
			}
			if last = a.n.rotation.last; last != before {
				result = *last
			}
			waiting = a.n.namesOf(a.n.rotation.waiting)
		}); err != nil {
			return result, err
		}
		if failed != nil || last != before && result.Done {
			return result, failed
		}
		select {
		case <-ctx.Done():
			return result, ctx.Err()
		case <-deadline.C:
			if len(waiting) == 0 {
				return result, errors.New("not done in time: look at picket status")
			}
			return result, fmt.Errorf("not yet: %s does not know the next key, since its map is older; the key is changed as soon as it does, after an hour in any case",
				strings.Join(waiting, ", "))
		case <-tick.C:
		}
	}
}

// namesOf are peers as people call them.
func (n *Node) namesOf(nodes []acl.NodeID) (names []string) {
	for _, p := range n.map_.held.content.Peers {
		if slices.Contains(nodes, p.Node) {
			names = append(names, protocol.Printable(p.Name))
		}
	}
	return names
}

// setRotation stores how often the user wants the key changed; negative for never by itself.
func (n *Node) setRotation(every *time.Duration) error {
	if every == nil {
		return nil
	}
	if *every >= 0 && *every < leastRotation {
		return fmt.Errorf("a tunnel key cannot be changed more often than every %s: give a longer time, or off", leastRotation)
	}
	n.id.node.RotateSeconds = int64(*every / time.Second)
	if *every < 0 {
		n.id.node.RotateSeconds = -1
	}
	if !n.id.node.TunnelSince.IsZero() {
		n.id.planRotation(n.id.node.TunnelSince)
	}
	return n.id.save()
}
