package node

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"picket.internal/acl"
	"picket.internal/node/dns"
	"picket.internal/node/localapi"
)

// tellNames tells the resolver of the map in force: names stand for whom packets may pass to, and for nobody while none may.
func (n *Node) tellNames() {
	on := n.overlay != nil && n.map_.inForce && !n.id.node.DNSOff
	if on == n.told.on && (!on || n.told.judged == n.map_.applied) {
		return
	}
	n.told = told{on, n.map_.applied}
	if !on {
		n.names.Set(dns.Wanted{})
		return
	}
	c := n.map_.held.content
	used := make(map[acl.NodeID]bool, len(n.map_.judged.peers))
	for _, p := range n.map_.judged.peers {
		used[p.Node] = true
	}
	zone := dns.NewZone(c, func(id acl.NodeID) bool { return used[id] }, n.map_.held.header.Generation)
	n.names.Set(dns.Wanted{On: true, Zone: zone, Said: c.DNS, Interface: n.overlay.overlay.Interface()})
}

// told is what the resolver was told last.
type told struct {
	on     bool
	judged uint64 // mapState.applied of then
}

// dialResolver reaches a resolver. One in the overlay is reached through the tunnel or not at all, and so through the policy.
func (n *Node) dialResolver(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	v := n.view.Load()
	inside := slices.ContainsFunc(v.held.content.Network.Overlay, func(p netip.Prefix) bool { return p.Contains(to.Addr().Unmap()) })
	if !inside {
		var d net.Dialer
		return d.DialContext(ctx, network, to.String())
	}
	if v.overlay == nil {
		return nil, errNoOverlay
	}
	if network == "udp" {
		return v.overlay.DialUDP(ctx, to)
	}
	return v.overlay.Dial(ctx, to)
}

// DNS is `picket dns status`.
func (a api) DNS(context.Context) (localapi.DNS, error) { return a.n.view.Load().dns(), nil }

func (v *view) dns() localapi.DNS {
	s := v.names.Status()
	out := localapi.DNS{
		On: s.On, Off: v.id.DNSOff, Domain: s.Domain, Mode: s.Host.Mode, Why: s.Host.Why, Changed: s.Host.Changed, Upstream: s.Upstream, Search: s.Search,
		Records: s.Records, UDPOnly: s.UDPOnly, Trouble: s.Trouble,
	}
	if out.Trouble == "" {
		out.Trouble = s.Host.Trouble
	}
	if s.Listen.IsValid() {
		out.Listen = s.Listen.String()
	}
	for _, split := range s.Split {
		servers := make([]string, len(split.Nameservers))
		for i, n := range split.Nameservers {
			servers[i] = string(n)
		}
		out.Split = append(out.Split, localapi.SplitDNS{Domain: split.Domain, Nameservers: servers})
	}
	return out
}

// QueryDNS is `picket dns query`.
func (a api) QueryDNS(ctx context.Context, q localapi.QueryDNS) (localapi.DNSReply, error) {
	r, err := a.n.names.Query(ctx, q.Name, strings.ToUpper(q.Type))
	return localapi.DNSReply(r), err
}

// setDNS notes whether names of peers are to be resolved by way of the host; nil leaves it as it is.
func (n *Node) setDNS(on *bool) error {
	if on == nil || *on == !n.id.node.DNSOff {
		return nil
	}
	n.id.node.DNSOff = !*on
	err := n.id.save()
	if err != nil {
		n.id.node.DNSOff = *on
	}
	return err
}

// relative is a name without the network's domain.
func (v *view) relative(name string) string {
	name = strings.TrimSuffix(name, ".")
	domain := v.held.content.Network.Domain
	if i := len(name) - len(domain) - 1; domain != "" && i > 0 && name[i] == '.' && strings.EqualFold(name[i+1:], domain) {
		return name[:i]
	}
	return name
}
