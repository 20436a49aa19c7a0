package key

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Certificate binds a node's tunnel and probe keys to its device key for a time.
//
// Signed form, big-endian, Ed25519 signature last:
//
//	offset  size  field
//	0       1     version, 1
//	1       1     length L of the node id, 1 to 64
//	2       L     node id, bytes
//	2+L     8     serial, rises with every certificate of one device
//	10+L    32    tunnel public key (X25519)
//	42+L    32    probe public key (X25519)
//	74+L    8     not before, Unix seconds
//	82+L    8     not after, Unix seconds
//	90+L    64    signature by the device key over all before it, in context "key certificate"
type Certificate struct {
	Node      string // the node id the coordinator gave
	Serial    uint64 // a later certificate of the same device has a larger one
	Tunnel    TunnelPublic
	Probe     ProbePublic
	NotBefore time.Time // whole seconds
	NotAfter  time.Time // whole seconds
}

const (
	certificateVersion = 1
	certificateContext = Context("key certificate")
	maxCertificateNode = 64
	certificateFixed   = 2 + 8 + 2*Size + 2*8
	signatureSize      = 64
	maxCertificateTime = 253402300799 // end of the year 9999; beyond, Go's times would wrap round
)

// MaxCertificateSize bounds a signed certificate, in bytes.
const MaxCertificateSize = certificateFixed + maxCertificateNode + signatureSize

var (
	// ErrCertificate is wrapped by every refusal of a certificate.
	ErrCertificate = errors.New("key certificate refused")
	// ErrCertificateTime is wrapped, beside ErrCertificate, when only the time of day stands against it.
	ErrCertificateTime = errors.New("outside its validity")
)

// Sign returns the signed form. It panics when the node id is empty or longer than 64 bytes: the caller made it.
func (c Certificate) Sign(k DevicePrivate) []byte {
	if len(c.Node) == 0 || len(c.Node) > maxCertificateNode {
		panic("key certificate: node id must have 1 to 64 bytes")
	}
	b := make([]byte, 0, MaxCertificateSize)
	b = append(b, certificateVersion, byte(len(c.Node)))
	b = append(b, c.Node...)
	b = binary.BigEndian.AppendUint64(b, c.Serial)
	b = append(b, c.Tunnel[:]...)
	b = append(b, c.Probe[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.NotBefore.Unix()))
	b = binary.BigEndian.AppendUint64(b, uint64(c.NotAfter.Unix()))
	return append(b, k.Sign(certificateContext, b)...)
}

// OpenCertificate verifies a signed certificate of node under device at time now and returns it.
// Every error wraps ErrCertificate and comes with the zero Certificate, except that one which is only too early or too late is returned
// beside an error that also wraps ErrCertificateTime.
func OpenCertificate(signed []byte, node string, device DevicePublic, now time.Time) (Certificate, error) {
	var c Certificate
	if len(signed) < 2 || signed[0] != certificateVersion {
		return c, fmt.Errorf("%w: not a version %d certificate", ErrCertificate, certificateVersion)
	}
	n := int(signed[1])
	if n == 0 || n > maxCertificateNode || len(signed) != certificateFixed+n+signatureSize {
		return c, fmt.Errorf("%w: wrong length", ErrCertificate)
	}
	body, sig := signed[:len(signed)-signatureSize], signed[len(signed)-signatureSize:]
	if !device.Verify(certificateContext, body, sig) {
		return c, fmt.Errorf("%w: not signed by %s", ErrCertificate, device.Short())
	}
	c.Node = string(body[2 : 2+n])
	rest := body[2+n:]
	c.Serial = binary.BigEndian.Uint64(rest)
	copy(c.Tunnel[:], rest[8:])
	copy(c.Probe[:], rest[8+Size:])
	notBefore, notAfter := binary.BigEndian.Uint64(rest[8+2*Size:]), binary.BigEndian.Uint64(rest[16+2*Size:])
	if notBefore > maxCertificateTime || notAfter > maxCertificateTime {
		return Certificate{}, fmt.Errorf("%w: a time out of range", ErrCertificate)
	}
	c.NotBefore, c.NotAfter = time.Unix(int64(notBefore), 0), time.Unix(int64(notAfter), 0)
	if c.Node != node {
		return Certificate{}, fmt.Errorf("%w: it names another node", ErrCertificate)
	}
	if c.Tunnel.IsZero() || c.Probe.IsZero() {
		return Certificate{}, fmt.Errorf("%w: it lacks a key", ErrCertificate)
	}
	if now.Before(c.NotBefore) || !now.Before(c.NotAfter) {
		return c, fmt.Errorf("%w: %w (%s to %s)", ErrCertificate, ErrCertificateTime, c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	}
	return c, nil
}
