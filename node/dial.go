package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// streamTime bounds how long a peer may take to answer who dials it over the socket.
const streamTime = 30 * time.Second

// Dial opens a TCP connection to a peer. What the policy refuses is said in its words before anything is sent; the filter judges all the same.
func (a api) Dial(ctx context.Context, d localapi.Dial) (localapi.Conn, error) {
	v := a.n.view.Load()
	to, err := v.dialable(d, acl.TCP, time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, streamTime)
	defer cancel()
	c, err := v.overlay.Dial(ctx, to)
	if err != nil {
		return nil, v.explainDial(d, to, err)
	}
	conn, ok := c.(localapi.Conn)
	if !ok {
		c.Close()
		return nil, errors.New("that connection cannot be carried over the socket")
	}
	return conn, nil
}

// dialable is the address to dial: one of a peer, and nothing that lies behind one.
func (v *view) dialable(d localapi.Dial, proto acl.Proto, now time.Time) (to netip.AddrPort, err error) {
	switch {
	case v.overlay == nil || v.state != localapi.StateRunning:
		return to, errors.New("nothing can be reached: " + v.problem())
	case d.Port == 0:
		return to, errors.New("0 is no port: write a number from 1 to 65535")
	}
	flow, err := v.flow("", question{host: d.Peer, proto: proto, port: d.Port})
	if err != nil {
		return to, err
	}
	if slices.Contains(v.held.content.Self.Addresses, flow.Dst) {
		return to, errors.New("that is this node itself: its services are at 127.0.0.1")
	}
	if !slices.ContainsFunc(v.held.content.Peers, func(p protocol.Peer) bool { return slices.Contains(p.Addresses, flow.Dst) }) {
		return to, fmt.Errorf("%s is no peer's own address: over the socket only peers are reached, not what lies behind them", flow.Dst)
	}
	if verdict := v.judged.rules.Allows(flow, now); !verdict.Allow {
		return to, errors.New("refused by the policy: " + v.named(verdict.Reason))
	}
	return netip.AddrPortFrom(flow.Dst, d.Port), nil
}

const refusedThere = "refused: nothing listens there, or its own rules are not these yet"

func (v *view) explainDial(d localapi.Dial, to netip.AddrPort, err error) error {
	var answered string
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		answered = refusedThere
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		answered = "no answer in time"
		if v.pathTo(to.Addr()) == "" {
			answered = "no path to it was found: `picket ping` and `picket netcheck` say more"
		}
	default:
		answered = err.Error()
	}
	return fmt.Errorf("%.80s port %d: %s", d.Peer, d.Port, answered)
}
