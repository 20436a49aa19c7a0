package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// A datagram of an association, RFC 1928 section 7, both ways:
//
//	00 00 FRAG ATYP ADDR PORT DATA
//
// Fragments (FRAG not 0) are dropped, as the section allows. From the client ADDR is where to; in an answer it is the peer's address.

// maxDatagramHead is the length of an answer's head, in bytes, of an IPv6 address.
const maxDatagramHead = 3 + 1 + 16 + 2

// association is the relay of one client's datagrams.
type association struct {
	proxy *Proxy
	relay *net.UDPConn
	host  netip.Addr // of the client
	// client is where the datagrams come from and the answers go. Its port is 0 until the first one came; then it never changes.
	client  netip.AddrPort
	carrier carrier
}

// associate serves UDP ASSOCIATE as long as the control connection c lives. host and port are where the client will send from, as far as it says.
func associate(ctx context.Context, p *Proxy, c net.Conn, host string, port uint16) error {
	near, far := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	// A name, such as "0" of clients that do not know, is not looked up.
	if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() && a.Unmap() != far.Addr() {
		return answerError(c, &socksError{replyNotAllowed, fmt.Errorf("datagrams are taken from the client itself, %s, alone", far.Addr())})
	}
	relay, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(near.Addr(), 0)))
	if err != nil {
		return answerError(c, &socksError{replyFailed, errors.New("no socket for an association can be had")})
	}
	a := &association{proxy: p, relay: relay, host: far.Addr(), client: netip.AddrPortFrom(far.Addr(), port)}
	a.carrier = carrier{pool: &p.flows, room: maxDatagramHead, dial: p.network.DialUDP, answer: a.answer, opened: a.opened, ended: a.ended}
	defer a.carrier.end()
	done := make(chan struct{})
	defer func() { <-done }()
	defer relay.Close()
	go func() {
		defer close(done)
		defer c.Close() // an association without its relay is over
		a.carry(ctx)
	}()
	if err := answerBound(c, replyOK, addrPort(relay.LocalAddr())); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, c) // ends with the client, or with ctx, which closes c
	return nil
}

// carry leads the client's datagrams into the overlay until the relay is closed.
func (a *association) carry(ctx context.Context) {
	b := make([]byte, maxDatagram)
	for {
		n, from, err := a.relay.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if from.Addr() != a.host || (a.client.Port() != 0 && from != a.client) || a.proxy.network.FromPeer(from) {
			continue
		}
		host, port, data, err := readDatagram(b[:n])
		if err != nil {
			continue
		}
		if a.client.Port() == 0 {
			a.client = from // before the first answer can come
		}
		to, err := a.proxy.target(host, port)
		if err != nil {
			a.proxy.logger.Debug("proxy refused", "proxy", a.proxy.name, "reason", err)
			continue
		}
		a.carrier.send(ctx, to, data)
	}
}

// readDatagram parts a datagram; data lies in b.
func readDatagram(b []byte) (host string, port uint16, data []byte, err error) {
	if len(b) < 4 || b[0] != 0 || b[1] != 0 {
		return "", 0, nil, errors.New("not a datagram of SOCKS5")
	}
	if b[2] != 0 {
		return "", 0, nil, errors.New("a fragment")
	}
	r := bytes.NewReader(b[4:])
	if host, port, err = readDestination(r, b[3]); err != nil {
		return "", 0, nil, err
	}
	return host, port, b[len(b)-r.Len():], nil
}

// answer puts the head before a peer's datagram.
func (a *association) answer(from netip.AddrPort, b []byte) {
	head := appendAddr(make([]byte, 3, maxDatagramHead), from)
	b = b[maxDatagramHead-len(head):]
	copy(b, head)
	_, _ = a.relay.WriteToUDPAddrPort(b, a.client) // too long a one is lost
}

func (a *association) opened(to netip.AddrPort, _ net.Conn, err error) {
	if err != nil {
		a.proxy.logger.Debug("proxy refused", "proxy", a.proxy.name, "to", to, "reason", err)
	}
}

func (a *association) ended(to netip.AddrPort, _ Bytes, err error) { a.opened(to, nil, err) }

// addrPort is the zero one when a is no socket's address.
func addrPort(a net.Addr) netip.AddrPort {
	if at, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return netip.AddrPortFrom(at.AddrPort().Addr().Unmap(), at.AddrPort().Port())
	}
	return netip.AddrPort{}
}
