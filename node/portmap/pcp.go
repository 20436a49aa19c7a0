package portmap

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// PCP messages (RFC 6887 sections 7.1, 7.2 and 11.1), numbers big-endian:
//
//	offset  bytes
//	     0      1  version 2
//	     1      1  opcode (0 announce, 1 map); in a response with the highest bit
//	     2      2  zero; in a response byte 3 is the result, 0 for success
//	     4      4  lifetime, seconds
//	     8     16  request: our address, IPv4 as IPv4-mapped; response: epoch, zeros
//	    24     12  mapping nonce
//	    36      1  protocol, 17 for UDP
//	    37      3  zero
//	    40      2  inside port
//	    42      2  outside port: wanted, assigned
//	    44     16  outside address: wanted, assigned
const (
	pcpVersion  = 2
	pcpAnnounce = 0
	pcpMap      = 1
	pcpHeader   = 24
	pcpMapSize  = 60
	udpProtocol = 17
)

// pcp keeps one nonce, by which a gateway knows a renewal for the same host's (RFC 6887 section 11.1).
type pcp struct {
	dialer
	nonce [12]byte
}

func newPCP(d dialer) *pcp {
	p := &pcp{dialer: d}
	_, _ = rand.Read(p.nonce[:])
	return p
}

func (*pcp) name() string { return "PCP" }

func pcpQuestion(opcode byte, g Gateway, lifetime time.Duration) []byte {
	b := []byte{pcpVersion, opcode, 0, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(lifetime/time.Second))
	own := g.Own.As16()
	return append(b, own[:]...)
}

func (p *pcp) mapping(g Gateway, port, like uint16, lifetime time.Duration) []byte {
	b := append(pcpQuestion(pcpMap, g, lifetime), p.nonce[:]...)
	b = append(b, udpProtocol, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, like)
	none := netip.IPv4Unspecified().As16()
	return append(b, none[:]...)
}

// fits reports whether b answers a question for a mapping of port.
func (p *pcp) fits(b []byte, port uint16) bool {
	return len(b) >= pcpMapSize && len(b)%4 == 0 && b[0] == pcpVersion && b[1] == 0x80|pcpMap && [12]byte(b[24:36]) == p.nonce &&
		b[36] == udpProtocol && binary.BigEndian.Uint16(b[40:]) == port
}

// refusal reports an answer that says no without repeating the question, as who does not know the version or opcode gives (section 8.2).
func refusal(b []byte) bool {
	return len(b) >= 4 && (b[0] != pcpVersion || len(b) >= pcpHeader && b[1]&0x80 != 0 && b[3] != 0)
}

func (p *pcp) open(ctx context.Context, g Gateway, port, like uint16) (lease, error) {
	b, err := p.exchange(ctx, g.Router, p.mapping(g, port, like, life), func(b []byte) bool { return p.fits(b, port) || refusal(b) })
	if err != nil {
		return lease{}, err
	}
	return p.read(b, port)
}

func (p *pcp) read(b []byte, port uint16) (lease, error) {
	if !p.fits(b, port) || b[3] != 0 {
		return lease{}, fmt.Errorf("the gateway refuses (version %d, result %d)", b[0], b[min(3, len(b)-1)])
	}
	seconds := binary.BigEndian.Uint32(b[4:])
	if seconds == 0 {
		return lease{}, fmt.Errorf("the gateway gives a mapping without a life")
	}
	outside := netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[44:60])).Unmap(), binary.BigEndian.Uint16(b[42:]))
	return lease{outside: outside, life: time.Duration(seconds) * time.Second}, nil
}

func (p *pcp) close(ctx context.Context, l lease) error {
	_, err := p.exchange(ctx, l.gateway.Router, p.mapping(l.gateway, l.port, l.outside.Port(), 0), func(b []byte) bool { return p.fits(b, l.port) || refusal(b) })
	return err
}

func (p *pcp) probe(ctx context.Context, g Gateway) error {
	b, err := p.exchange(ctx, g.Router, pcpQuestion(pcpAnnounce, g, 0), func(b []byte) bool {
		return len(b) >= pcpHeader && b[0] == pcpVersion && b[1] == 0x80|pcpAnnounce || refusal(b)
	})
	switch {
	case err != nil:
		return err
	case b[0] != pcpVersion || b[3] != 0:
		return fmt.Errorf("the gateway refuses (version %d, result %d)", b[0], b[3])
	}
	return nil
}
