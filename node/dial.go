package node

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	c, err := a.n.view.Load().dial(ctx, aim{peer: d.Peer, port: d.Port, proto: acl.TCP})
	if err != nil {
		return nil, err
	}
	conn, ok := c.(localapi.Conn)
	if !ok {
		c.Close()
		return nil, errors.New("that connection cannot be carried over the socket")
	}
	return conn, nil
}

// aim is what somebody wants to reach.
type aim struct {
	peer    string // name, node id or overlay address
	port    uint16
	proto   acl.Proto // TCP or UDP
	version int       // of IP: 4, 6, or 0 for either
}

func (v *view) dial(ctx context.Context, d aim) (net.Conn, error) {
	to, err := v.dialable(d, time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, streamTime)
	defer cancel()
	open := v.overlay.Dial
	if d.proto == acl.UDP {
		open = v.overlay.DialUDP
	}
	c, err := open(ctx, to)
	if err != nil {
		return nil, v.explainDial(d, to, err)
	}
	return c, nil
}

// dialable is the address to dial: one of a peer, and nothing that lies behind one.
func (v *view) dialable(d aim, now time.Time) (to netip.AddrPort, err error) {
	switch {
	case v.overlay == nil || v.state != localapi.StateRunning:
		return to, errors.New("nothing can be reached: " + v.problem())
	case d.port == 0:
		return to, errors.New("0 is no port: write a number from 1 to 65535")
	}
	host, err := v.ofVersion(v.relative(d.peer), d.version)
	if err != nil {
		return to, err
	}
	flow, err := v.flow("", question{host: host, proto: d.proto, port: d.port})
	if err != nil {
		return to, err
	}
	if slices.Contains(v.held.content.Self.Addresses, flow.Dst) {
		if v.embedded {
			return to, errors.New("that is this node itself")
		}
		return to, errors.New("that is this node itself: its services are at 127.0.0.1")
	}
	if !slices.ContainsFunc(v.held.content.Peers, func(p protocol.Peer) bool { return slices.Contains(p.Addresses, flow.Dst) }) {
		return to, fmt.Errorf("%s is no peer's own address: this way only peers are reached, not what lies behind them", flow.Dst)
	}
	if verdict := v.judged.rules.Allows(flow, now); !verdict.Allow {
		return to, &dialError{"refused by the policy: " + v.named(verdict.Reason), syscall.EACCES}
	}
	return netip.AddrPortFrom(flow.Dst, d.port), nil
}

// ofVersion is the address of that IP version that a host has, the host as it is for 0.
func (v *view) ofVersion(host string, version int) (string, error) {
	if version == 0 {
		return host, nil
	}
	s, exact, err := v.subject(host)
	if err != nil {
		return "", err
	}
	if !exact.IsValid() {
		exact, _ = addressFor(s, map[int]netip.Addr{4: netip.IPv4Unspecified(), 6: netip.IPv6Unspecified()}[version])
	}
	if !exact.IsValid() || exact.Is4() != (version == 4) {
		return "", fmt.Errorf("%.80s is no IPv%d address, nor the name of a peer that has one", host, version)
	}
	return exact.String(), nil
}

// dialError says to people what came of dialling, and wraps what programs tell apart.
type dialError struct {
	text string
	err  error
}

func (e *dialError) Error() string { return e.text }
func (e *dialError) Unwrap() error { return e.err }

const refusedThere = "refused: nothing listens there, or its own rules are not these yet"

func (v *view) explainDial(d aim, to netip.AddrPort, err error) error {
	var answered string
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		answered = refusedThere
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		answered = "no answer in time"
		if v.pathTo(to.Addr()) == "" {
			answered = "no path to it was found" + v.hint(": `picket ping` and `picket netcheck` say more")
		}
	default:
		answered = err.Error()
	}
	return &dialError{fmt.Sprintf("%.80s port %d: %s", d.peer, d.port, answered), err}
}
