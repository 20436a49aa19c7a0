package portmap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// NAT-PMP messages (RFC 6886 sections 3.2 and 3.3), numbers big-endian. Questions are {version 0, opcode}, and for a mapping two zeros, inside port,
// wanted outside port, and lifetime in 4 bytes. Answers are {version 0, opcode with the highest bit, result in 2 bytes, epoch in 4 bytes} and
// the outside address, or inside port, outside port and lifetime.
const (
	pmpAddress = 0
	pmpMapUDP  = 1
)

type natPMP struct{ dialer }

func (natPMP) name() string { return "NAT-PMP" }

func pmpQuestion(port, like uint16, lifetime time.Duration) []byte {
	b := []byte{0, pmpMapUDP, 0, 0}
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, like)
	return binary.BigEndian.AppendUint32(b, uint32(lifetime/time.Second))
}

// pmpFits reports whether b answers an opcode, with success or not; only a success has to be whole.
func pmpFits(b []byte, opcode byte, size int) bool {
	return len(b) >= 4 && b[0] == 0 && b[1] == 0x80|opcode && (len(b) >= size || binary.BigEndian.Uint16(b[2:]) != 0)
}

func pmpResult(b []byte) error {
	if r := binary.BigEndian.Uint16(b[2:]); r != 0 {
		return fmt.Errorf("the gateway refuses (result %d)", r)
	}
	return nil
}

// address asks for the outside address.
func (p natPMP) address(ctx context.Context, g Gateway) (netip.Addr, error) {
	b, err := p.exchange(ctx, g.Router, []byte{0, pmpAddress}, func(b []byte) bool { return pmpFits(b, pmpAddress, 12) })
	if err != nil {
		return netip.Addr{}, err
	}
	if err := pmpResult(b); err != nil {
		return netip.Addr{}, err
	}
	return netip.AddrFrom4([4]byte(b[8:12])), nil
}

func (p natPMP) open(ctx context.Context, g Gateway, port, like uint16) (lease, error) {
	outside, err := p.address(ctx, g)
	if err != nil {
		return lease{}, err
	}
	b, err := p.exchange(ctx, g.Router, pmpQuestion(port, like, life), func(b []byte) bool {
		return pmpFits(b, pmpMapUDP, 16) && (len(b) < 16 || binary.BigEndian.Uint16(b[8:]) == port)
	})
	if err != nil {
		return lease{}, err
	}
	return pmpRead(b, outside)
}

func pmpRead(b []byte, outside netip.Addr) (lease, error) {
	if err := pmpResult(b); err != nil {
		return lease{}, err
	}
	seconds := binary.BigEndian.Uint32(b[12:])
	if seconds == 0 {
		return lease{}, errors.New("the gateway gives a mapping without a life")
	}
	return lease{outside: netip.AddrPortFrom(outside, binary.BigEndian.Uint16(b[10:])), life: time.Duration(seconds) * time.Second}, nil
}

func (p natPMP) close(ctx context.Context, l lease) error {
	_, err := p.exchange(ctx, l.gateway.Router, pmpQuestion(l.port, 0, 0), func(b []byte) bool { return pmpFits(b, pmpMapUDP, 16) })
	return err
}

func (p natPMP) probe(ctx context.Context, g Gateway) error {
	_, err := p.address(ctx, g)
	return err
}
