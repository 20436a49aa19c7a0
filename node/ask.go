package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
	"picket.internal/wgtun"
)

// Why says whether a flow is allowed. A node knows the rules between itself and its peers only.
func (a api) Why(_ context.Context, w localapi.Why) (localapi.WhyAnswer, error) {
	return a.n.view.Load().why(w, time.Now())
}

func (v *view) why(w localapi.Why, now time.Time) (localapi.WhyAnswer, error) {
	q, err := parseQuestion(w.Dst)
	if err != nil {
		return localapi.WhyAnswer{}, err
	}
	if v.held.isZero() {
		return localapi.WhyAnswer{}, errors.New("no map is held, so nothing is allowed: " + v.problem())
	}
	flow, err := v.flow(w.Src, q)
	answer := localapi.WhyAnswer{Src: orSelf(w.Src, v), Dst: w.Dst, Policy: policyName(v.held.content.Network.Policy)}
	var refused *refusedError
	if errors.As(err, &refused) {
		answer.Reason = refused.Error()
		return answer, nil
	}
	if err != nil {
		return localapi.WhyAnswer{}, err
	}
	if v.state != localapi.StateRunning {
		answer.Reason = fmt.Sprintf("nothing passes while the node is %s: %s", v.state, v.problem())
		return answer, nil
	}
	d := v.judged.rules.Allows(flow, now)
	answer.Allow, answer.Reason = d.Allow, v.named(d.Reason)
	if d.Rule != nil {
		answer.Rule = d.Rule.Ref.String()
	}
	return answer, nil
}

// named puts names in the place of node ids in a sentence of acl's, which knows no names.
func (v *view) named(s string) string {
	pairs := []string{string(v.held.content.Self.Node), v.held.content.Self.Name}
	for _, p := range v.held.content.Peers {
		pairs = append(pairs, string(p.Node), p.Name)
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

func orSelf(src string, v *view) string {
	if src == "" {
		return v.held.content.Self.Name
	}
	return src
}

// question is HOST:PORT[/PROTO] or HOST/icmp, read.
type question struct {
	host  string
	proto acl.Proto
	port  uint16
}

// parseQuestion reads the destination of a Why.
func parseQuestion(s string) (q question, err error) {
	usage := fmt.Errorf("%.80q is no destination: write NAME:PORT, NAME:PORT/udp or NAME/icmp", s)
	at, proto, hasProto := strings.Cut(s, "/")
	if !hasProto {
		proto = "tcp"
	}
	var ok bool
	if q.proto, ok = acl.ParseProto(proto); !ok {
		return q, fmt.Errorf("%.20q is no protocol: write tcp, udp, icmp or a number", proto)
	}
	if !q.proto.HasPorts() {
		q.host = strings.Trim(at, "[]")
		if q.host == "" {
			return q, usage
		}
		return q, nil
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil || host == "" {
		return q, usage
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port || n == 0 {
		return q, fmt.Errorf("%.20q is no port: write a number from 1 to 65535", port)
	}
	q.host, q.port = host, uint16(n)
	return q, nil
}

// refusedError says that a peer is known but left out.
type refusedError struct{ name, why string }

func (e *refusedError) Error() string {
	return fmt.Sprintf("the peer %s is refused: %s", e.name, e.why)
}

// flow turns names into addresses of one family.
func (v *view) flow(src string, q question) (acl.Flow, error) {
	from := v.held.content.Self.Subject
	var err error
	if src != "" {
		if from, _, err = v.subject(src); err != nil {
			return acl.Flow{}, err
		}
	}
	to, exact, err := v.subject(q.host)
	if err != nil {
		return acl.Flow{}, err
	}
	self := v.held.content.Self.Node
	if from.Node != self && to.Node != self {
		return acl.Flow{}, errors.New("this node knows only of flows of its own: ask on one of the two, or the coordinator's operator")
	}
	if !exact.IsValid() {
		exact = to.Addresses[0]
		if q.proto == acl.ICMPv6 || q.proto == acl.ICMP {
			if a, ok := addressFor(to, map[bool]netip.Addr{true: netip.IPv6Unspecified(), false: netip.IPv4Unspecified()}[q.proto == acl.ICMPv6]); ok {
				exact = a
			}
		}
	}
	source, ok := addressFor(from, exact)
	if !ok {
		return acl.Flow{}, errors.New("the two ends have no address of one family")
	}
	return acl.Flow{Src: source, Dst: exact, Proto: q.proto, Port: q.port}, nil
}

// subject finds a node by name, node id or address; exact is the address when one was given.
func (v *view) subject(ref string) (s acl.Subject, exact netip.Addr, err error) {
	self := v.held.content.Self
	if strings.EqualFold(ref, self.Name) || ref == string(self.Node) {
		return self.Subject, exact, nil
	}
	if a, err := netip.ParseAddr(ref); err == nil {
		a = a.Unmap()
		if slices.Contains(self.Addresses, a) {
			return self.Subject, a, nil
		}
		for _, p := range v.held.content.Peers {
			if slices.Contains(p.Addresses, a) {
				return p.Subject, a, v.refusal(p)
			}
		}
		if s, ok := v.router(a); ok {
			return s, a, nil
		}
		return s, a, fmt.Errorf("no peer has the address %s: either there is none, or the policy allows no flow between it and this node", a)
	}
	p, err := v.find(ref)
	if err != nil {
		return s, exact, err
	}
	return p.Subject, exact, v.refusal(p)
}

// router is who serves the way to an address that no node has, by the routes in use: this node, or a peer.
func (v *view) router(a netip.Addr) (acl.Subject, bool) {
	if v.judged.rules == nil {
		return acl.Subject{}, false
	}
	s, routed := v.judged.rules.SubjectOf(a)
	if s == nil || !routed {
		return acl.Subject{}, false
	}
	return *s, true
}

func (v *view) refusal(p protocol.Peer) error {
	if why := v.judged.refused[p.Node]; why != "" {
		return &refusedError{p.Name, why}
	}
	return nil
}

// maxPing bounds how long one ping may wait.
const maxPing = 30 * time.Second

// Ping sends one echo through tunnel and filters, and a probe along the path beside it. A refusal is answered at once.
func (a api) Ping(ctx context.Context, p localapi.Ping) (localapi.PingAnswer, error) {
	v := a.n.view.Load()
	if v.overlay == nil || v.state != localapi.StateRunning {
		return localapi.PingAnswer{}, errors.New("nothing can be pinged: " + v.problem())
	}
	flow, name, err := v.pingFlow(p.Target)
	if err != nil {
		return localapi.PingAnswer{}, err
	}
	answer := localapi.PingAnswer{Name: name, Addr: flow.Dst}
	if d := v.judged.rules.Allows(flow, time.Now()); !d.Allow {
		answer.Error = "refused by the policy: " + v.named(d.Reason)
		return answer, nil
	}
	if p.Timeout <= 0 || p.Timeout > maxPing {
		p.Timeout = maxPing
	}
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() {
		rtt, err := v.overlay.Echo(ctx, flow.Src, flow.Dst)
		if answer.RTT = rtt; err != nil {
			answer.Error = err.Error()
		}
		cancel() // the path probe had its chance
	})
	both.Go(func() {
		rtt, at, err := v.overlay.Ping(ctx, v.nodeAt(flow.Dst))
		if err != nil {
			return
		}
		answer.PathRTT = rtt
		if at.IsValid() { // else it went through a relay
			answer.Path = "direct " + at.String()
		}
	})
	both.Wait()
	if answer.Path == "" {
		answer.Path = v.pathTo(flow.Dst)
	}
	return answer, nil
}

func (v *view) pingFlow(target string) (acl.Flow, string, error) {
	s, exact, err := v.subject(target)
	if err != nil {
		return acl.Flow{}, "", err
	}
	q := question{host: target, proto: acl.ICMP}
	if exact.Is6() {
		q.proto = acl.ICMPv6
	}
	if s.Node == v.held.content.Self.Node {
		return acl.Flow{}, "", errors.New("that is this node itself")
	}
	flow, err := v.flow("", q)
	if err != nil {
		return acl.Flow{}, "", err
	}
	if flow.Dst.Is6() {
		flow.Proto = acl.ICMPv6
	}
	for _, p := range v.held.content.Peers {
		if p.Node == s.Node {
			return flow, p.Name, nil
		}
	}
	return flow, target, nil
}

func (v *view) nodeAt(a netip.Addr) acl.NodeID {
	for _, p := range v.held.content.Peers {
		if slices.Contains(p.Addresses, a) {
			return p.Node
		}
	}
	s, _ := v.router(a)
	return s.Node
}

// nameAt is the name of the peer that has an address, "" when none has.
func (v *view) nameAt(a netip.Addr) string {
	for _, p := range v.held.content.Peers {
		if slices.Contains(p.Addresses, a) {
			return p.Name
		}
	}
	return ""
}

// pathTo is the path the tunnel knows of, in words.
func (v *view) pathTo(a netip.Addr) string {
	stats := v.overlay.Stats().Peers
	i := slices.IndexFunc(stats, func(s wgtun.PeerStats) bool { return s.Node == v.nodeAt(a) })
	if i < 0 {
		return ""
	}
	return stats[i].Path.String()
}

// overlayNetwork is what the proxies dial.
type overlayNetwork struct{ n *Node }

// Resolve knows the names of peers that are used, short and whole, and the operator's records.
func (o overlayNetwork) Resolve(name string) (netip.Addr, error) {
	v := o.n.view.Load()
	p, err := v.find(v.relative(name))
	if a := o.n.names.Addresses(name); err != nil && len(a) > 0 { // a record
		return a[0], nil
	}
	if err != nil {
		return netip.Addr{}, err
	}
	if err := v.refusal(p); err != nil {
		return netip.Addr{}, err
	}
	return p.Addresses[0], nil
}

// Overlay leaves this node's own addresses out: what is sent there comes out at this host's services.
func (o overlayNetwork) Overlay(a netip.Addr) bool {
	c := o.n.view.Load().held.content
	return !slices.Contains(c.Self.Addresses, a) && slices.ContainsFunc(c.Network.Overlay, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (o overlayNetwork) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	v := o.n.view.Load()
	if v.overlay == nil {
		return nil, errNoOverlay
	}
	return v.overlay.Dial(ctx, to)
}

func (o overlayNetwork) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	v := o.n.view.Load()
	if v.overlay == nil {
		return nil, errNoOverlay
	}
	return v.overlay.DialUDP(ctx, to)
}

func (o overlayNetwork) FromPeer(from netip.AddrPort) bool {
	return o.n.inbound.entrances.fromPeer(from)
}
