package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// Program is a node as the program sees it that it runs in.
type Program struct{ api api }

// Program is for a node with Config.Listeners; run is the context that Run was called with.
func (n *Node) Program(run context.Context) Program { return Program{api{n, run}} }

// Coordinator is the URL of the network's that the node is or was in, "" for none.
func (p Program) Coordinator() string { return p.api.n.view.Load().id.URL }

// Admitted reports whether the node belongs to a network, so that Up needs no person and no auth key.
func (p Program) Admitted() bool {
	id := p.api.n.view.Load().id
	return id.Node != "" && id.Ended == ""
}

// Up is `picket up`: it returns once packets may pass, or an error that says what stands against it. emit is called for each event before that.
func (p Program) Up(ctx context.Context, u localapi.Up, emit func(localapi.UpEvent)) error {
	_, err := p.api.up(ctx, u, emit)
	return err
}

// Addresses are this node's on the overlay; none before the first map.
func (p Program) Addresses() []netip.Addr {
	return slices.Clone(p.api.n.view.Load().held.content.Self.Addresses)
}

// Problem is one sentence on what keeps packets from passing, "" when nothing does.
func (p Program) Problem() string {
	v := p.api.n.view.Load()
	if v.state == localapi.StateRunning {
		return ""
	}
	if s := v.problem(); s != "" {
		return s
	}
	return "the node is " + string(v.state)
}

// Dial opens a connection to a peer. network is "tcp" or "udp", with 4 or 6 behind it for one IP version; address is HOST:PORT, with a HOST that is a
// peer's name, short or whole, its node id or its overlay address. Nothing else is resolved or dialled. What the policy refuses is said in its
// words before anything is sent, by an error that matches syscall.EACCES; the filter judges all the same.
func (p Program) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	d, err := parseAim(network, address)
	if err != nil {
		return nil, err
	}
	return p.api.n.view.Load().dial(ctx, d)
}

func parseAim(network, address string) (d aim, err error) {
	protos := map[string]acl.Proto{"tcp": acl.TCP, "udp": acl.UDP}
	version := map[string]int{"": 0, "4": 4, "6": 6}
	base := network[:min(len(network), 3)]
	proto, ok := protos[base]
	v, versionOK := version[network[len(base):]]
	if !ok || !versionOK {
		return d, net.UnknownNetworkError(network)
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return d, fmt.Errorf("%.80q is not PEER:PORT, such as db:5432", address)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return d, fmt.Errorf("%.20q is no port: write a number from 1 to 65535", text)
	}
	return aim{peer: host, port: uint16(port), proto: proto, version: v}, nil
}

// WhoIs is the peer that has an address, by the map in force. Whoever that map does not name, or names but refuses, is nobody. With a port, of
// the far end of connections that the program has accepted, it is nobody unless it opened them all: an address may have gone to another since.
func (p Program) WhoIs(at netip.AddrPort) (protocol.Peer, error) {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	v := p.api.n.view.Load()
	peer, err := v.whoIs(at.Addr())
	if err != nil {
		return peer, err
	}
	// The filter may be ahead of this view: then it lets the next holder in already.
	if node, ok := v.overlay.NodeAt(at.Addr()); !ok || node != peer.Node {
		return protocol.Peer{}, fmt.Errorf("the address %s is changing hands", at.Addr())
	}
	for _, node := range p.api.n.config.Listeners.Callers(at) {
		if node != string(peer.Node) {
			return protocol.Peer{}, fmt.Errorf("the address %s is another peer's than when it called: close the connection", at.Addr())
		}
	}
	return peer, nil
}

func (v *view) whoIs(a netip.Addr) (none protocol.Peer, err error) {
	if v.state != localapi.StateRunning {
		return none, errors.New("nobody is known while no map is in force: " + v.problem())
	}
	for _, peer := range v.held.content.Peers {
		if !slices.Contains(peer.Addresses, a) {
			continue
		}
		if err := v.refusal(peer); err != nil {
			return none, err
		}
		return peer, nil
	}
	if slices.Contains(v.held.content.Self.Addresses, a) {
		return none, errors.New("that is this node itself")
	}
	for _, peer := range v.held.content.Peers {
		if slices.ContainsFunc(peer.Routes, func(r netip.Prefix) bool { return !protocol.IsExit(r) && r.Contains(a) }) {
			return none, fmt.Errorf("%s lies in a network behind the peer %s: who is there is not known", a, peer.Name)
		}
	}
	return none, fmt.Errorf("no peer has the address %s", a)
}
