package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"picket.internal/acl"
	"picket.internal/node/localapi"
	"picket.internal/node/proxy"
)

// Expose leads peers whom the policy lets reach a port of this node to a port of 127.0.0.1 until ctx ends. With a network interface it listens at
// the node's overlay addresses for that; without one, peers' connections come out in this process anyway. What is allowed is the filter's to say.
func (a api) Expose(ctx context.Context, q localapi.AskExpose, emit func(localapi.PassageEvent)) error {
	for _, x := range q.Exposed {
		if err := a.checkExpose(x, localapi.Caller(ctx)); err != nil {
			return err
		}
	}
	free, err := a.n.passages.take(len(q.Exposed))
	if err != nil {
		return err
	}
	defer free()
	p := newPassage()
	tasks, err := openAll(ctx, p, q.Exposed, a.openExposed)
	if err != nil {
		return err
	}
	tasks = append(tasks, func(ctx context.Context) error { return a.watchExposed(ctx, q.Exposed, p) })
	for _, x := range q.Exposed {
		log := a.n.log.With("user", localapi.Caller(ctx), "port", x.Port, "to", x.To, "udp", x.UDP)
		log.Info("a port is exposed to peers")
		defer log.Info("a port is no longer exposed")
	}
	p.run(ctx, emit, tasks)
	return nil
}

// maxPerPeer bounds the connections that one address of the overlay has at one exposed port, with a network interface.
const maxPerPeer = 64

func (a api) withInterface() bool { return a.n.config.TUN != Userspace }

// checkExpose refuses what cannot be exposed; caller is as in checkForward.
func (a api) checkExpose(x localapi.Expose, caller int) error {
	switch {
	case x.Port == 0 || x.To == 0:
		return errors.New("0 is no port: write a number from 1 to 65535")
	case a.withInterface() && x.UDP:
		return errors.New("with a network interface datagrams are not led on: have the service listen at this node's own address " +
			"(picket status shows it) or at all, or run the agent with --tun=userspace")
	case a.withInterface() && x.Port < firstFreePort && caller > 0:
		return fmt.Errorf("port %d is one of root's: name one from %d up", x.Port, firstFreePort)
	}
	_, to := exposedService(x)
	return a.n.inbound.closed(to)
}

// exposedService is what peers open, and where that leads.
func exposedService(x localapi.Expose) (at, to service) {
	proto := acl.TCP
	if x.UDP {
		proto = acl.UDP
	}
	return service{proto, x.Port}, service{proto, x.To}
}

// openExposed opens the port; the task closes it.
func (a api) openExposed(ctx context.Context, x localapi.Expose, p *passage) (func(context.Context) error, error) {
	at, to := exposedService(x)
	e := localapi.PassageEvent{Proto: at.proto.String(), Port: x.Port, To: fmt.Sprintf("127.0.0.1:%d", x.To)}
	k := &kept{passage: localapi.Passage{Proto: e.Proto, Port: e.Port, To: e.To}, exposed: true}
	g := p.gate(a.n, e, k)
	g.Budget, g.PerClient = a.n.passages.inward, maxPerPeer
	if a.withInterface() {
		g.Dial = func(ctx context.Context, from netip.AddrPort) (net.Conn, error) {
			if !a.n.view.Load().isPeer(from.Addr()) { // the filter let it in, or it never met it
				return nil, errors.New("it is not a peer's address")
			}
			return a.n.inbound.connect(ctx, to)
		}
		d := &listeners{n: a.n, port: x.Port, gate: g, event: e, passage: p, open: make(map[netip.Addr]*listening), trouble: make(map[netip.Addr]string)}
		if err := d.first(ctx); err != nil {
			return nil, err
		}
		return a.n.passages.kept.during(k, d.run), nil
	}
	hide, err := a.n.inbound.expose(at, &exposure{to: to, opened: g.Opened, ended: g.Ended})
	if err != nil {
		return nil, err
	}
	e.Kind = localapi.PassageOpen
	p.tell(e)
	return a.n.passages.kept.during(k, func(ctx context.Context) error {
		<-ctx.Done()
		hide()
		return nil
	}), nil
}

// isPeer reports whether an address is a peer's, or behind one.
func (v *view) isPeer(a netip.Addr) bool {
	node := v.nodeAt(a)
	return node != "" && node != v.held.content.Self.Node
}

// ownAddresses are where peers reach this node now.
func (v *view) ownAddresses() (out []netip.Addr) {
	if v.overlay == nil || v.state != localapi.StateRunning {
		return nil
	}
	for _, a := range v.held.content.Self.Addresses {
		if slices.ContainsFunc(v.held.content.Network.Overlay, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, a)
		}
	}
	return out
}

// listeners are those of one exposed port at this node's overlay addresses, and at no other. One goroutine has them.
type listeners struct {
	n       *Node
	port    uint16
	gate    *proxy.Gate
	event   localapi.PassageEvent // what all of its events have in common
	passage *passage
	open    map[netip.Addr]*listening
	trouble map[netip.Addr]string // what was told of addresses where it cannot listen
}

// listening is one of them.
type listening struct {
	listener net.Listener
	stop     func()
	done     chan struct{}
}

// first listens at the addresses that there are. One where another program listens is refused; what else fails is tried again by run.
func (d *listeners) first(ctx context.Context) error {
	for _, a := range d.n.view.Load().ownAddresses() {
		l, err := d.listen(ctx, a)
		if errors.Is(err, syscall.EADDRINUSE) {
			for _, other := range d.open {
				other.listener.Close()
			}
			return fmt.Errorf("tcp port %d is taken at %s: if its program listens there itself, or at all addresses, peers whom the policy lets in reach it already", d.port, a)
		}
		if err == nil {
			d.open[a] = &listening{listener: l}
		}
	}
	return nil
}

func (d *listeners) listen(ctx context.Context, a netip.Addr) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", netip.AddrPortFrom(a, d.port).String())
}

// run keeps the listeners to the node's addresses until ctx ends, then closes them and resets what came in.
func (d *listeners) run(ctx context.Context) error {
	defer func() {
		for a := range d.open {
			d.shut(a)
		}
	}()
	for a, o := range d.open {
		d.serve(ctx, a, o.listener)
	}
	for ctx.Err() == nil {
		v := d.n.view.Load()
		d.fit(ctx, v.ownAddresses())
		var again <-chan time.Time
		if len(d.trouble) > 0 {
			again = time.After(retryEvery)
		}
		select {
		case <-ctx.Done():
		case <-v.over:
		case <-again:
		}
	}
	return nil
}

// fit closes what is at other addresses, and opens what is missing.
func (d *listeners) fit(ctx context.Context, want []netip.Addr) {
	for a, o := range d.open {
		select {
		case <-o.done: // by itself
			d.shut(a)
			continue
		default:
		}
		if !slices.Contains(want, a) {
			d.shut(a)
			d.passage.tell(d.with(localapi.PassageNote, fmt.Sprintf("this node no longer has the address %s, or its tunnel is closed: nobody comes in there", a)))
		}
	}
	maps.DeleteFunc(d.trouble, func(a netip.Addr, _ string) bool { return !slices.Contains(want, a) })
	for _, a := range want {
		if d.open[a] != nil {
			continue
		}
		l, err := d.listen(ctx, a)
		if err == nil {
			delete(d.trouble, a)
			d.serve(ctx, a, l)
			continue
		}
		if text := endText(err); d.trouble[a] != text && ctx.Err() == nil {
			d.trouble[a] = text
			d.passage.tell(d.with(localapi.PassageWarning, fmt.Sprintf("tcp port %d cannot be had at %s (%s): it is tried again", d.port, a, text)))
		}
	}
}

func (d *listeners) serve(ctx context.Context, a netip.Addr, l net.Listener) {
	ctx, cancel := context.WithCancel(ctx)
	o := &listening{listener: l, stop: cancel, done: make(chan struct{})}
	d.open[a] = o
	go func() {
		defer close(o.done)
		_ = d.gate.ServeTCP(ctx, l) // one that ends by itself is opened again
	}()
	e := d.with(localapi.PassageOpen, "")
	e.Listen = netip.AddrPortFrom(a, d.port)
	d.passage.tell(e)
}

func (d *listeners) shut(a netip.Addr) {
	o := d.open[a]
	delete(d.open, a)
	o.stop()
	<-o.done
}

func (d *listeners) with(kind localapi.PassageKind, reason string) localapi.PassageEvent {
	e := d.event
	e.Kind, e.Reason = kind, reason
	return e
}

// watchExposed says when no rule lets a peer in at an exposed port, and when one does again.
func (a api) watchExposed(ctx context.Context, exposed []localapi.Expose, p *passage) error {
	said := make([]string, len(exposed))
	for i := range said {
		said[i] = comesIn
	}
	var judged *acl.Ruleset
	var state localapi.State
	for first := true; ; first = false {
		v := a.n.view.Load()
		if first || v.judged.rules != judged || v.state != state {
			judged, state = v.judged.rules, v.state
			for i, x := range exposed {
				at, _ := exposedService(x)
				text := v.keptOut(at, time.Now())
				if text == said[i] {
					continue
				}
				said[i] = text
				e := localapi.PassageEvent{Kind: localapi.PassageWarning, Proto: at.proto.String(), Port: at.port, Reason: text}
				if text == comesIn {
					e.Kind, e.Reason = localapi.PassageNote, fmt.Sprintf("a rule lets a peer in at %s %d now", at.proto, at.port)
				}
				p.tell(e)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.over:
		}
	}
}

// comesIn is what keptOut says when somebody may come in.
const comesIn = ""

// keptOut says why no peer can come in at a service of this node, comesIn when one can. What lies behind peers is not asked.
func (v *view) keptOut(s service, now time.Time) string {
	if v.state != localapi.StateRunning || v.judged.rules == nil {
		return fmt.Sprintf("no peer can come in at %s %d now: this node is %s", s.proto, s.port, v.state)
	}
	for _, p := range v.held.content.Peers {
		if v.judged.refused[p.Node] != "" {
			continue
		}
		for _, from := range p.Addresses {
			for _, to := range v.held.content.Self.Addresses {
				if from.Is4() == to.Is4() && v.judged.rules.Allows(acl.Flow{Src: from, Dst: to, Proto: s.proto, Port: s.port}, now).Allow {
					return comesIn
				}
			}
		}
	}
	return fmt.Sprintf("no rule lets a peer in at %s %d now", s.proto, s.port)
}
