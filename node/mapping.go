package node

import (
	"context"
	"net/netip"
	"slices"
	"syscall"

	"picket.internal/node/hostnet"
	"picket.internal/node/portmap"
)

// newMapper makes what asks the gateway for a port.
func (n *Node) newMapper() *portmap.Mapper {
	var mark func(network, address string, c syscall.RawConn) error
	if n.config.TUN != Userspace { // an exit node must not be the way to the gateway
		mark = hostnet.MarkSocket
	}
	return portmap.New(portmap.Config{
		Gateway: func() (portmap.Gateway, error) {
			router, own, err := hostnet.Gateway()
			return portmap.Gateway{Router: router, Own: own}, err
		},
		Control: mark, Usable: n.mayBeOutside, Changed: func(ctx context.Context) { _ = n.do(ctx, func() { n.report(false) }) }, Logger: n.log,
	})
}

// mayBeOutside reports whether a gateway's word for its outside address is one that a peer could send to. Another private network is: the
// gateway may itself be behind a second one, where peers are too.
func (n *Node) mayBeOutside(a netip.AddrPort) bool {
	ip := a.Addr()
	if !ip.IsValid() || !ip.Is4() || a.Port() == 0 || ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip.As4()[0] == 0 || ip.As4()[0] >= 240 {
		return false
	}
	v := n.view.Load()
	return !slices.ContainsFunc(v.held.content.Network.Overlay, func(p netip.Prefix) bool { return p.Contains(ip) })
}
