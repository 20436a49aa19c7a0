package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
	"picket.internal/node/proxy"
)

// Forward listens on loopback and leads what comes to peers until ctx ends. Each connection is dialled as `picket nc` does: the peer is looked up
// then, what the policy refuses is said in its words, and the filter judges all the same.
func (a api) Forward(ctx context.Context, q localapi.AskForward, emit func(localapi.PassageEvent)) error {
	for _, f := range q.Forwards {
		if err := checkForward(f, localapi.Caller(ctx)); err != nil {
			return err
		}
	}
	free, err := a.n.passages.take(len(q.Forwards))
	if err != nil {
		return err
	}
	defer free()
	p := newPassage()
	tasks, err := openAll(ctx, p, q.Forwards, a.openForward)
	if err != nil {
		return err
	}
	for _, f := range q.Forwards {
		log := a.n.log.With("user", localapi.Caller(ctx), "listen", f.Listen, "peer", protocol.Printable(f.Peer), "port", f.Port, "udp", f.UDP)
		log.Info("a forward has begun")
		defer log.Info("a forward has ended")
	}
	p.run(ctx, emit, tasks)
	return nil
}

// checkForward refuses what must not be opened. caller is the user who asks, -1 where the system does not tell: there its own rules for ports
// below 1024 must do. Elsewhere they are root's, whatever the agent itself may open.
func checkForward(f localapi.Forward, caller int) error {
	at := f.Listen.Addr()
	switch {
	case f.Listen.Port() == 0 || f.Port == 0:
		return errors.New("0 is no port: write a number from 1 to 65535")
	case !at.IsLoopback() || at.Is4In6():
		return fmt.Errorf("the address %s is not on loopback: whoever reaches it acts as this node, so use 127.0.0.1:%d", f.Listen, f.Listen.Port())
	case f.Listen.Port() < firstFreePort && caller > 0:
		return fmt.Errorf("port %d is one of root's: name one from %d up", f.Listen.Port(), firstFreePort)
	case f.Peer == "" || len(f.Peer) > maxPeerName:
		return errors.New("no peer is named, or by no name that one can have: write LOCALPORT:PEER:PORT")
	}
	return nil
}

// maxPeerName is that of a DNS name, in bytes (RFC 1035 section 2.3.4).
const maxPeerName = 255

// firstFreePort is the least one that is not root's.
const firstFreePort = 1024

// openForward opens the listener, which the task closes.
func (a api) openForward(ctx context.Context, f localapi.Forward, p *passage) (func(context.Context) error, error) {
	proto := acl.TCP
	if f.UDP {
		proto = acl.UDP
	}
	leave := a.n.inbound.entrances.enter(service{proto, f.Listen.Port()})
	k := &kept{passage: localapi.Passage{Proto: proto.String(), Listen: f.Listen, To: forwardTo(f)}}
	g := a.forwardGate(f, p, k)
	var serve func(context.Context) error
	var err error
	var lc net.ListenConfig
	if f.UDP {
		var c net.PacketConn
		if c, err = lc.ListenPacket(ctx, "udp", f.Listen.String()); err == nil {
			serve = func(ctx context.Context) error { return g.ServeUDP(ctx, c.(*net.UDPConn)) }
		}
	} else {
		var l net.Listener
		if l, err = lc.Listen(ctx, "tcp", f.Listen.String()); err == nil {
			serve = func(ctx context.Context) error { return g.ServeTCP(ctx, l) }
		}
	}
	if err != nil {
		leave()
		return nil, fmt.Errorf("open %s port %d at %s: another program has it, or it needs privilege: name another port", proto, f.Listen.Port(), f.Listen.Addr())
	}
	p.tell(localapi.PassageEvent{Kind: localapi.PassageOpen, Proto: proto.String(), Listen: f.Listen, To: forwardTo(f)})
	return a.n.passages.kept.during(k, func(ctx context.Context) error {
		defer leave() // after all that came in has ended
		return serve(ctx)
	}), nil
}

func forwardTo(f localapi.Forward) string {
	return net.JoinHostPort(protocol.Printable(f.Peer), fmt.Sprint(f.Port))
}

func (a api) forwardGate(f localapi.Forward, p *passage, k *kept) *proxy.Gate {
	d := localapi.Dial{Peer: f.Peer, Port: f.Port}
	e := localapi.PassageEvent{Proto: "tcp", Listen: f.Listen, To: forwardTo(f)}
	dial := func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		c, err := a.Dial(ctx, d)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	if f.UDP {
		e.Proto = "udp"
		dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { return a.dialUDP(ctx, d) }
	}
	g := p.gate(a.n, e, k)
	g.Dial = dial
	return g
}

// gate tells of who passes, and counts it in k; e is what its events have in common. The caller sets Dial.
func (p *passage) gate(n *Node, e localapi.PassageEvent, k *kept) *proxy.Gate {
	return &proxy.Gate{
		Budget: n.passages.outward, FromPeer: n.inbound.entrances.fromPeer,
		Opened: func(from, to netip.AddrPort, err error) {
			e := e
			e.Kind, e.From, e.Who, e.Address = localapi.PassageBegan, from, n.view.Load().nameAt(from.Addr()), to
			if err != nil {
				e.Kind, e.Reason = localapi.PassageRefused, err.Error()
			} else {
				k.open.Add(1)
			}
			p.tell(e)
		},
		Ended: func(from netip.AddrPort, passed proxy.Bytes, err error) {
			k.open.Add(-1)
			e := e
			e.Kind, e.From, e.Who = localapi.PassageEnded, from, n.view.Load().nameAt(from.Addr())
			e.Sent, e.Received, e.Reason = passed.Sent, passed.Received, endText(err)
			p.tell(e)
		},
	}
}

// dialUDP is Dial for datagrams; it waits for nobody.
func (a api) dialUDP(ctx context.Context, d localapi.Dial) (net.Conn, error) {
	return a.n.view.Load().dial(ctx, aim{peer: d.Peer, port: d.Port, proto: acl.UDP})
}
