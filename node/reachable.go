package node

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/path"
)

// reachability is how this node is found by others; wgtun.Tunnel documents each.
type reachability interface {
	SetReflectors(reflectors []path.Reflector, keep bool)
	Reflect()
	Reflections() []path.Reflection
	Reflexive() []netip.AddrPort
	Observed(least int) []netip.AddrPort
	Hairpin(ctx context.Context, own netip.AddrPort) bool
	Reprobe()
	Sought(acl.NodeID)
	Port() uint16
}

// mirrored is which reflectors the overlay was told of.
type mirrored struct {
	by      *running    // the overlay
	said    []reflector // by the map
	keep    bool
	since   time.Time
	looking bool // names are being looked up
}

// reflector is one that the map names.
type reflector struct {
	protocol.Reflector
	relay string // whose it is; empty: the coordinator's
}

// maxAskedRelays bounds the relays whose reflectors are asked: a second address shows what a NAT does by the remote address, and two of them confirm each other.
const maxAskedRelays = 2

// reflectorsOf are those that a map names: the coordinator's, and then those of the first relays that have some.
func reflectorsOf(c protocol.Content) (out []reflector) {
	for _, r := range c.Network.Reflectors {
		out = append(out, reflector{r, ""})
	}
	asked := 0
	for _, r := range c.Relays {
		if len(r.Reflect) == 0 || asked == maxAskedRelays {
			continue
		}
		asked++
		for _, f := range r.Reflectors() {
			out = append(out, reflector{f, r.Name})
		}
	}
	return out
}

const (
	lookUpTime  = 5 * time.Second
	lookUpEvery = 10 * time.Minute // names may come to mean other addresses
	lookUpAgain = 30 * time.Second // after a failure
)

// mirror has the overlay ask the reflectors that the map names, as long as there are peers that may want to reach this node.
func (n *Node) mirror(ctx context.Context) {
	m := &n.mirrored
	if n.overlay == nil || m.looking {
		return
	}
	said, keep := reflectorsOf(n.map_.held.content), len(n.map_.judged.peers) > 0
	if m.by == n.overlay && slices.Equal(m.said, said) && m.keep == keep && time.Since(m.since) < lookUpEvery {
		return
	}
	*m = mirrored{by: n.overlay, said: said, keep: keep, since: time.Now()}
	if len(said) == 0 {
		n.overlay.overlay.SetReflectors(nil, keep)
		return
	}
	m.looking = true
	at, by := n.id.node.URL, n.overlay
	n.tasks.Go(func() {
		found := lookUp(ctx, at, said)
		_ = n.do(ctx, func() { n.found(by, found) })
	})
}

// found hands the overlay what the reflectors' names mean.
func (n *Node) found(by *running, found []path.Reflector) {
	n.mirrored.looking = false
	if by != n.overlay || by == nil {
		return
	}
	if len(found) == 0 {
		n.log.Warn("the reflectors' names mean no address now: it is tried again")
		n.mirrored.since = time.Now().Add(lookUpAgain - lookUpEvery)
		return
	}
	by.overlay.SetReflectors(found, n.mirrored.keep)
}

// lookUp returns the addresses of reflectors, of each name one of each IP version. What a false name service says can only be useless: who answers
// there tells where he sees us, and peers believe no address before its probe is answered.
func lookUp(ctx context.Context, coordinator string, reflectors []reflector) (out []path.Reflector) {
	ctx, cancel := context.WithTimeout(ctx, lookUpTime)
	defer cancel()
	known := make(map[string][]netip.Addr)
	for _, r := range reflectors {
		host := r.Host
		if u, err := url.Parse(coordinator); host == "" && err == nil {
			host = u.Hostname()
		}
		if _, ok := known[host]; !ok {
			known[host] = oneOfEach(ctx, host)
		}
		for _, a := range known[host] {
			out = append(out, path.Reflector{At: netip.AddrPortFrom(a, r.Port), Relay: r.relay})
		}
	}
	return out
}

// oneOfEach is a name's first address of each IP version.
func oneOfEach(ctx context.Context, host string) (out []netip.Addr) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}
	}
	found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host) // none is a result like any other
	for _, a := range found {
		a = a.Unmap()
		if !slices.ContainsFunc(out, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			out = append(out, a)
		}
	}
	return out
}

// public is where this node is seen from outside: by reflectors, and by peers as far as a reflector or a second peer says the same of the host.
// One peer alone could otherwise have all others ping whom it likes.
func (n *Node) public(o overlay) []netip.AddrPort {
	out := slices.Clone(o.Reflexive())
	if n.mapper != nil {
		if s := n.mapper.Status(); s.Protocol != "" && !slices.Contains(out, s.Outside) {
			out = append(out, s.Outside)
		}
	}
	for _, a := range slices.Concat(o.Observed(2), o.Observed(1)) {
		known := slices.ContainsFunc(out, func(b netip.AddrPort) bool { return a.Addr() == b.Addr() })
		agreed := slices.Contains(o.Observed(2), a)
		if (known || agreed) && !slices.Contains(out, a) && len(out) < maxPublic {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// maxPublic bounds the addresses that are not the host's own.
const maxPublic = 8

// onReflected reports the new addresses. It runs on a goroutine of the tunnel's.
func (n *Node) onReflected(ctx context.Context) {
	_ = n.do(ctx, func() { n.report(false) })
}

// onSeek asks the coordinator to have a peer ping this node. It runs on a goroutine of the tunnel's.
func (n *Node) onSeek(ctx context.Context, node acl.NodeID) {
	_ = n.do(ctx, func() {
		if n.session != nil && n.contact.connected {
			n.session.session.Seek(node)
		}
	})
}

// OnSought pings a peer that seeks this node, if it is one.
func (h *handler) OnSought(s protocol.Sought) {
	h.do(func() {
		n := h.n
		n.contact.last = time.Now()
		if n.overlay == nil || !slices.ContainsFunc(n.map_.held.content.Peers, func(p protocol.Peer) bool { return p.Node == s.Node }) {
			return
		}
		n.takeHints(protocol.Hints{Hints: []protocol.Hint{{Node: s.Node, Endpoints: s.Endpoints, Online: true, Relay: n.map_.hints[s.Node].Relay}}})
		n.overlay.overlay.Sought(s.Node)
		n.relaying.set.Check() // it may be our home that is dead
	})
}
