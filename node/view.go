package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/dns"
	"picket.internal/node/localapi"
	"picket.internal/node/statefile"
	"picket.internal/wgtun/key"
)

// view is the node's state at one moment, for whoever asks. It is never changed; over is closed when a newer one is there.
type view struct {
	over     chan struct{}
	names    *dns.Service
	kept     *keptPorts
	state    localapi.State
	version  string
	id       statefile.Node // without private halves
	key      key.TunnelPublic
	held     held
	judged   judgement
	online   map[acl.NodeID]bool
	caught   map[acl.NodeID]bypass
	trouble  trouble
	contact  contact
	login    *localapi.Login
	overlay  overlay // nil when none
	leaseEnd time.Time
	offset   time.Duration
	embedded bool // in a program
}

// publish makes the state as it is now the one that others see.
func (n *Node) publish() {
	n.useRelays()
	n.tellNames()
	v := &view{
		over: make(chan struct{}), names: n.names, kept: n.passages.kept, state: n.state(), version: n.config.Version, id: public(n.id.node), held: n.map_.held, judged: n.map_.judged,
		online: make(map[acl.NodeID]bool), caught: maps.Clone(n.map_.caught), trouble: n.trouble, contact: n.contact, login: n.login, leaseEnd: n.leaseEnd(), offset: n.clock.offset,
		embedded: n.config.Listeners != nil,
	}
	v.key = n.id.node.Tunnel.Public()
	v.id.Routing = n.routed()
	for node, hint := range n.map_.hints {
		v.online[node] = hint.Online
	}
	if n.overlay != nil {
		v.overlay = n.overlay.overlay
	}
	if was := n.view.Swap(v); was != nil {
		if was.state != v.state {
			n.log.Info("state", "state", v.state, "was", was.state)
		}
		close(was.over)
	}
}

// public is n without its private keys, which no reader of a view needs.
func public(n statefile.Node) statefile.Node {
	empty := statefile.Node{}
	n.Device, n.Tunnel, n.Probe = empty.Device, empty.Tunnel, empty.Probe
	if n.Next != nil {
		n.Next = &statefile.NextKey{Certificate: n.Next.Certificate}
	}
	return n
}

// state says in one word how things are. Packets pass in StateRunning alone.
func (n *Node) state() localapi.State {
	id := n.id.node
	switch {
	case n.login != nil:
		return localapi.StateLogin
	case id.Ended == endRemoved:
		return localapi.StateRemoved
	case id.Ended == endExpired:
		return localapi.StateExpired
	case id.Node == "":
		return localapi.StateLoggedOut
	case !id.WantUp:
		return localapi.StateDown
	case n.trouble.clock != "" || n.trouble.overlay != "":
		return localapi.StateRefused
	case n.map_.held.isZero():
		return localapi.StateStarting
	case !n.clock.now().Before(n.leaseEnd()):
		return localapi.StateLapsed
	case n.map_.inForce:
		return localapi.StateRunning
	case n.trouble.refused != "":
		return localapi.StateRefused
	}
	return localapi.StateStarting
}

// problem is one sentence on what keeps packets from passing, "" when nothing does.
func (v *view) problem() string {
	switch v.state {
	case localapi.StateRemoved:
		return "an operator removed this node from the network: " + v.again("to join anew")
	case localapi.StateExpired:
		return "this node's login ended: " + v.again("to log in again")
	case localapi.StateLapsed:
		return fmt.Sprintf("the coordinator was not reached before the lease ended at %s, so nothing passes until it is: %s",
			v.leaseEnd.UTC().Format(time.RFC3339), v.linkTrouble())
	case localapi.StateRefused:
		for _, s := range []string{v.trouble.clock, v.trouble.overlay, v.trouble.refused} {
			if s != "" {
				return s
			}
		}
	case localapi.StateStarting:
		return v.trouble.link
	case localapi.StateDown:
		return "the tunnel was stopped: " + v.again("to start it")
	case localapi.StateLoggedOut:
		return "this node has not joined a network: run picket up --coordinator JOIN"
	}
	return ""
}

// hint is s, a command to try, for those who have commands: a program has none.
func (v *view) hint(s string) string {
	if v.embedded {
		return ""
	}
	return s
}

// again is how a node comes back to its network.
func (v *view) again(why string) string {
	if v.embedded {
		return "start the program anew " + why
	}
	return "run picket up " + why
}

func (v *view) linkTrouble() string {
	if v.trouble.link == "" {
		return "waiting for the coordinator"
	}
	return v.trouble.link
}

// warnings are sentences on what is wrong but stops nothing by itself.
func (v *view) warnings() []string {
	var out []string
	if !v.contact.connected && v.state == localapi.StateRunning {
		out = append(out, fmt.Sprintf("the coordinator is not reached (%s); what is in force holds until %s", v.linkTrouble(), v.leaseEnd.UTC().Format(time.RFC3339)))
	}
	if v.state != localapi.StateRefused && v.trouble.refused != "" {
		out = append(out, v.trouble.refused)
	}
	if v.trouble.state != "" {
		out = append(out, v.trouble.state)
	}
	names := make(map[acl.NodeID]string)
	for _, p := range v.held.content.Peers {
		names[p.Node] = p.Name
	}
	for _, node := range slices.Sorted(maps.Keys(v.judged.refused)) {
		out = append(out, fmt.Sprintf("the peer %s is refused: %s", names[node], v.judged.refused[node]))
	}
	for _, node := range slices.Sorted(maps.Keys(v.caught)) {
		out = append(out, v.caught[node].sentence(cmp.Or(names[node], string(node))))
	}
	for _, s := range v.held.content.Skipped {
		if s.ID == "dns" {
			out = append(out, "what the coordinator says about names is not used: "+protocol.Printable(s.Reason))
			continue
		}
		out = append(out, fmt.Sprintf("%s of the policy allows nothing here: %s", protocol.Printable(string(s.ID)), protocol.Printable(s.Reason)))
	}
	if v.trouble.forwarding != "" {
		out = append(out, v.trouble.forwarding)
	}
	if t := v.dns().Trouble; t != "" {
		out = append(out, t)
	}
	out = append(out, v.exitTroubles()...)
	if self := v.held.content.Self; self.Quarantined {
		out = append(out, "this node is in quarantine: an operator took every flow from it")
	}
	return out
}

// status is `picket status`. The tunnel is asked for its counters.
func (v *view) status() localapi.Status {
	self, network := v.held.content.Self, v.held.content.Network
	s := localapi.Status{
		State: v.state, Problem: v.problem(), Version: v.version,
		Membership: localapi.Membership{
			Network: string(v.id.Network), Node: v.id.Node, Name: self.Name, Owner: self.Login, Tags: self.Tags, Addresses: self.Addresses,
			Expires: self.Expires, Quarantined: self.Quarantined,
		},
		Contact: localapi.Contact{Coordinator: v.id.URL, Connected: v.contact.connected, LastContact: v.contact.last},
		InForce: localapi.InForce{
			Generation: v.held.header.Generation, LeaseEnds: v.leaseEnd, Policy: policyName(network.Policy), Peers: len(v.judged.peers),
		},
		Warnings: v.warnings(), Routing: v.routing(), TunnelKey: v.rotationState(), DNS: v.dns(), Passages: v.kept.list(),
	}
	if v.login != nil {
		s.LoginURL, s.LoginCode = v.login.URL, v.login.Code
	}
	if v.contact.connected {
		s.LastContact = time.Now()
	}
	if v.overlay == nil {
		return s
	}
	stats := v.overlay.Stats()
	s.Interface, s.Port, s.Flows, s.Denied = v.overlay.Interface(), stats.Port, stats.Filter.Flows, make(map[string]uint64)
	for reason, count := range stats.Filter.EgressDenied {
		s.Denied["egress "+reason] = count
	}
	for reason, count := range stats.Filter.IngressDenied {
		s.Denied["ingress "+reason] = count
	}
	return s
}

func policyName(p protocol.PolicyInfo) string {
	if p.Commit != "" {
		return protocol.Printable(p.Commit)
	}
	return protocol.Printable(p.File)
}
