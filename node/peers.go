package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
	"picket.internal/wgtun"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

// Status is the state of things now.
func (a api) Status(context.Context) (localapi.Status, error) { return a.n.view.Load().status(), nil }

// Peers lists the peers of the map by name, those refused among them.
func (a api) Peers(context.Context) ([]localapi.Peer, error) {
	return a.n.view.Load().peers(time.Now()), nil
}

func (v *view) peers(now time.Time) []localapi.Peer {
	stats := make(map[acl.NodeID]wgtun.PeerStats)
	if v.overlay != nil {
		for _, s := range v.overlay.Stats().Peers {
			stats[s.Node] = s
		}
	}
	out := make([]localapi.Peer, 0, len(v.held.content.Peers))
	allowed, self := v.allowed(now), v.held.content.Self.Node
	for _, p := range v.held.content.Peers {
		s := stats[p.Node]
		line := localapi.Peer{
			Node: p.Node, Name: p.Name, Owner: p.Login, Tags: p.Tags, OS: protocol.Printable(p.OS), Postures: p.Postures, Addresses: p.Addresses, Online: v.online[p.Node], Idle: !s.Awake,
			Latency: s.Path.Latency, LastHandshake: s.LastHandshake, RxBytes: s.RxBytes, TxBytes: s.TxBytes, Refused: v.judged.refused[p.Node],
			Out: allowed(self, p.Node), In: allowed(p.Node, self),
		}
		line.Path = s.Path.String()
		if s.Path.Kind != "direct" && s.Awake {
			line.Indirect = indirect(s.Path, line.Online)
		}
		out = append(out, line)
	}
	slices.SortFunc(out, func(a, b localapi.Peer) int {
		return strings.Compare(a.Name+" "+string(a.Node), b.Name+" "+string(b.Node))
	})
	return out
}

// indirect says why there is no direct path to a peer that is in use.
func indirect(s path.Status, online bool) string {
	switch {
	case s.Known == 0 && !online:
		return "it is not connected to the coordinator, and no address of it is known"
	case s.Known == 0:
		return "it has told no address where it can be found"
	case s.Silent == 0:
		return fmt.Sprintf("none of %d addresses has been asked yet", s.Known)
	case !online:
		return fmt.Sprintf("%d of its %d addresses were asked and none answers; it is not connected to the coordinator either", s.Silent, s.Known)
	}
	return fmt.Sprintf("%d of its %d addresses were asked and none answers: see picket netcheck at both ends", s.Silent, s.Known)
}

// allowed returns what lists what src may open at dst by the rules in force, in policy order, less what denies refuse. A refused peer may nothing.
func (v *view) allowed(now time.Time) func(src, dst acl.NodeID) []localapi.Allowed {
	if v.state != localapi.StateRunning || v.judged.rules == nil {
		return func(acl.NodeID, acl.NodeID) []localapi.Allowed { return []localapi.Allowed{} }
	}
	between := v.judged.rules.Between()
	return func(src, dst acl.NodeID) []localapi.Allowed {
		out := []localapi.Allowed{}
		if v.judged.refused[src] != "" || v.judged.refused[dst] != "" {
			return out
		}
		for _, a := range between(src, dst, now) {
			for _, p := range a.Ports {
				out = append(out, localapi.Allowed{Ports: portsText(p), Rule: a.Ref.String()})
			}
		}
		return out
	}
}

// portsText is "tcp 5432", "tcp 8000-8080", "udp *" or "icmp".
func portsText(p acl.Ports) string {
	switch {
	case !p.Proto.HasPorts():
		return p.Proto.String()
	case p.First == 0 && p.Last == 65535:
		return p.Proto.String() + " *"
	case p.First == p.Last:
		return fmt.Sprintf("%s %d", p.Proto, p.First)
	}
	return fmt.Sprintf("%s %d-%d", p.Proto, p.First, p.Last)
}

// find looks a peer up by name or node id; a name that two peers have finds neither.
func (v *view) find(ref string) (protocol.Peer, error) {
	var found []protocol.Peer
	for _, p := range v.held.content.Peers {
		if string(p.Node) == ref {
			return p, nil
		}
		if strings.EqualFold(p.Name, ref) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return protocol.Peer{}, fmt.Errorf("no peer is called %.80q: either there is none, or the policy allows no flow between it and this node%s", ref, v.hint(" (picket peers lists them)"))
	}
	return protocol.Peer{}, fmt.Errorf("%d peers are called %.80q: name one by its address or node id%s", len(found), ref, v.hint(" (picket peers --json)"))
}

// Trust makes the device key that a refused peer shows now the one it is known by.
func (a api) Trust(ctx context.Context, t localapi.Trust) error {
	var failed error
	err := a.n.do(ctx, func() { failed = a.n.trust(t.Peer) })
	return errors.Join(err, failed)
}

func (n *Node) trust(ref string) error {
	v := &view{held: n.map_.held}
	p, err := v.find(ref)
	if err != nil {
		return err
	}
	k, ok := n.map_.judged.changed[p.Node]
	if !ok {
		return fmt.Errorf("the device key of %s has not changed: there is nothing to trust", p.Name)
	}
	if err := n.id.meet(map[acl.NodeID]key.DevicePublic{p.Node: k}); err != nil {
		return err
	}
	n.log.Warn("a peer's new device key is trusted by the user's word", "peer", p.Node, "device", k.Short())
	_, err = n.enforce()
	return err
}
