package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// SOCKS5, RFC 1928:
//
//	client   05 N METHOD*N            proxy  05 00 (none needed) or 05 FF
//	client   05 CMD 00 ATYP ADDR PORT proxy  05 REP 00 01 0.0.0.0 0 (of UDP ASSOCIATE: the relay's ATYP ADDR PORT)

const (
	socksVersion   = 5
	socksConnect   = 1
	socksAssociate = 3
	methodNone     = 0
	methodRefuse   = 0xff

	addrIPv4 = 1
	addrName = 3
	addrIPv6 = 4
)

// Replies, RFC 1928 section 6.
const (
	replyOK         = 0
	replyFailed     = 1
	replyNotAllowed = 2
	replyRefused    = 5
	replyCommand    = 7
	replyAddrType   = 8
)

// socksError is a refusal with the reply that says so.
type socksError struct {
	reply byte
	cause error
}

func (e *socksError) Error() string { return e.cause.Error() }

func serveSOCKS5(ctx context.Context, p *Proxy, c net.Conn) error {
	if err := greet(c); err != nil {
		return err
	}
	command, host, port, err := readRequest(c)
	if err != nil {
		return answerError(c, err)
	}
	if command == socksAssociate {
		return associate(ctx, p, c, host, port)
	}
	to, err := p.target(host, port)
	if err != nil {
		return answerError(c, &socksError{replyNotAllowed, err})
	}
	far, err := p.dial(ctx, to)
	if err != nil {
		return answerError(c, &socksError{replyRefused, err})
	}
	if err := answerSOCKS(c, replyOK); err != nil {
		far.Close()
		return err
	}
	splice(ctx, c, far)
	return nil
}

// greet reads the methods offered and picks "no authentication", the only one: the listener is on loopback.
func greet(c io.ReadWriter) error {
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	if head[0] != socksVersion {
		return errors.New("not SOCKS5")
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(c, methods); err != nil {
		return err
	}
	for _, m := range methods {
		if m == methodNone {
			_, err := c.Write([]byte{socksVersion, methodNone})
			return err
		}
	}
	_, _ = c.Write([]byte{socksVersion, methodRefuse}) // refused either way
	return errors.New("the client insists on authentication")
}

// readRequest reads a request of a command that is served; a *socksError is to be answered.
func readRequest(r io.Reader) (command byte, host string, port uint16, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", 0, err
	}
	if head[0] != socksVersion || head[2] != 0 {
		return 0, "", 0, errors.New("not a SOCKS5 request")
	}
	host, port, err = readDestination(r, head[3])
	if err != nil {
		return 0, "", 0, err
	}
	if head[1] != socksConnect && head[1] != socksAssociate {
		return 0, "", 0, &socksError{replyCommand, fmt.Errorf("command %d is neither CONNECT nor UDP ASSOCIATE", head[1])}
	}
	return head[1], host, port, nil
}

func readDestination(r io.Reader, kind byte) (host string, port uint16, err error) {
	if host, err = readAddr(r, kind); err != nil {
		return "", 0, err
	}
	var p [2]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return "", 0, err
	}
	return host, binary.BigEndian.Uint16(p[:]), nil
}

func readAddr(r io.Reader, kind byte) (string, error) {
	var length [1]byte
	switch kind {
	case addrIPv4:
		length[0] = 4
	case addrIPv6:
		length[0] = 16
	case addrName:
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return "", err
		}
	default:
		return "", &socksError{replyAddrType, fmt.Errorf("unknown address type %d", kind)}
	}
	b := make([]byte, length[0])
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	if kind == addrName {
		return string(b), nil
	}
	a, _ := netip.AddrFromSlice(b)
	return a.String(), nil
}

func answerError(c io.Writer, err error) error {
	var refused *socksError
	if errors.As(err, &refused) {
		_ = answerSOCKS(c, refused.reply) // the client may be gone
	}
	return err
}

func answerSOCKS(c io.Writer, reply byte) error {
	return answerBound(c, reply, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
}

// answerBound answers with the address that the proxy took for the client.
func answerBound(c io.Writer, reply byte, at netip.AddrPort) error {
	_, err := c.Write(appendAddr([]byte{socksVersion, reply, 0}, at))
	return err
}

// appendAddr appends ATYP ADDR PORT: 7 bytes, or 19.
func appendAddr(b []byte, at netip.AddrPort) []byte {
	kind := byte(addrIPv6)
	if at.Addr().Is4() {
		kind = addrIPv4
	}
	b = append(append(b, kind), at.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(b, at.Port())
}
