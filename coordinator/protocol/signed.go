package protocol

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

// ErrSignature is wrapped when something is not signed by the key it must be signed by.
var ErrSignature = errors.New("signature refused")

// Canonical bytes. Numbers are big-endian. A "field" is its length in 2 bytes and then its bytes, so that no two different values
// have the same bytes.
//
// ChallengeBytes, signed by the coordinator in ContextChallenge and by the node in ContextProof:
//
//	size   field
//	4      Hello.Version
//	field  Challenge.Network
//	field  Hello.Node
//	32     Hello.Device
//	32     Challenge.Coordinator
//	field  Hello.Nonce
//	field  Challenge.Nonce
//	8      Hello.Generation
//	field  Hello.Digest
//	8      Challenge.Time, Unix milliseconds
//
// ReceiptBytes, signed by the node in ContextReceipt:
//
//	size   field
//	field  network
//	field  node
//	8      Receipt.Generation
//	field  Receipt.Digest
//	8      Receipt.Applied, nanoseconds
//	8      Receipt.Cut

// field appends b with its length. Everything that reaches it was bounded far below 64 KiB when it was read or made.
func field[T ~string | ~[]byte](out []byte, b T) []byte {
	if len(b) > math.MaxUint16 {
		panic(fmt.Sprintf("protocol: a field of %d bytes was let through to be signed", len(b)))
	}
	return append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...)
}

// ChallengeBytes is what coordinator and node sign at the start of a session: both nonces, both keys, the network and the node, so that
// neither signature is of use in another session, to another coordinator or for another node. The report of a Proof is not under it.
func ChallengeBytes(h Hello, c Challenge) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(h.Version))
	b = field(b, c.Network)
	b = field(b, h.Node)
	b = append(b, h.Device[:]...)
	b = append(b, c.Coordinator[:]...)
	b = field(b, h.Nonce)
	b = field(b, c.Nonce)
	b = binary.BigEndian.AppendUint64(b, h.Generation)
	b = field(b, h.Digest)
	return binary.BigEndian.AppendUint64(b, uint64(c.Time.UnixMilli()))
}

// ReceiptBytes is what a node signs to say which generation it enforces.
func ReceiptBytes(network NetworkID, node acl.NodeID, r Receipt) []byte {
	b := field(nil, network)
	b = field(b, node)
	b = binary.BigEndian.AppendUint64(b, r.Generation)
	b = field(b, r.Digest)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Applied))
	return binary.BigEndian.AppendUint64(b, uint64(r.Cut))
}

// Sign fills the signature for the Hello it answers.
func (c *Challenge) Sign(h Hello, k key.CoordinatorPrivate) {
	c.Signature = k.Sign(ContextChallenge, ChallengeBytes(h, *c))
}

// Open checks that a challenge answers h and comes from the coordinator k of network. Errors wrap ErrSignature or ErrForeign.
func (c Challenge) Open(h Hello, k key.CoordinatorPublic, network NetworkID) error {
	if c.Coordinator != k || !k.Verify(ContextChallenge, ChallengeBytes(h, c), c.Signature) {
		return fmt.Errorf("%w: the challenge is not from the coordinator's key %s", ErrSignature, k.Short())
	}
	if c.Network != network {
		return fmt.Errorf("%w: the challenge is of another network", ErrForeign)
	}
	return nil
}

// Sign fills the signature that answers c.
func (p *Proof) Sign(h Hello, c Challenge, k key.DevicePrivate) {
	p.Signature = k.Sign(ContextProof, ChallengeBytes(h, c))
}

// Open checks that a proof answers the challenge c, which this side made for h, with h's device key. The caller looks the device key up
// among its nodes: this proves possession, not membership.
func (p Proof) Open(h Hello, c Challenge) error {
	if !h.Device.Verify(ContextProof, ChallengeBytes(h, c), p.Signature) {
		return fmt.Errorf("%w: the proof is not from %s", ErrSignature, h.Device.Short())
	}
	return nil
}

// Sign fills the signature.
func (r *Receipt) Sign(network NetworkID, node acl.NodeID, k key.DevicePrivate) {
	r.Signature = k.Sign(ContextReceipt, ReceiptBytes(network, node, *r))
}

// Open checks a receipt of node in network against the device key it is known by.
func (r Receipt) Open(network NetworkID, node acl.NodeID, k key.DevicePublic) error {
	if !k.Verify(ContextReceipt, ReceiptBytes(network, node, r), r.Signature) {
		return fmt.Errorf("%w: the receipt is not from %s", ErrSignature, k.Short())
	}
	return nil
}

// SignInfo makes an Info.
func SignInfo(b InfoBody, k key.CoordinatorPrivate) (Info, error) {
	body, err := Marshal(b)
	if err != nil {
		return Info{}, err
	}
	return Info{Body: body, Signature: k.Sign(ContextInfo, body)}, nil
}

// OpenInfo checks that an Info answers the nonce client and is signed by the key it names, whose fingerprint is want (the zero
// fingerprint takes any key: the caller pins it). On a wrong key the body is returned beside an ErrSignature, for the error's words
// alone. It does not judge Version and Time.
func OpenInfo(i Info, client []byte, want key.Fingerprint) (InfoBody, error) {
	var b InfoBody
	if err := unmarshal(i.Body, &b, "info"); err != nil {
		return InfoBody{}, err
	}
	if !b.Coordinator.Verify(ContextInfo, i.Body, i.Signature) {
		return InfoBody{}, fmt.Errorf("%w: the coordinator's answer is not signed by the key it names", ErrSignature)
	}
	if !bytes.Equal(b.Client, client) {
		return InfoBody{}, fmt.Errorf("%w: the coordinator's answer is to another question", ErrSignature)
	}
	if !want.IsZero() && !b.Coordinator.Fingerprint().Equal(want) {
		return b, fmt.Errorf("%w: the coordinator has another key", ErrSignature)
	}
	err := first(CheckNetworkID(b.Network), sized("nonce", b.Nonce, minNonce, maxText), sane(b.Time))
	if err != nil {
		return InfoBody{}, fmt.Errorf("%w: info: %w", ErrMalformed, err)
	}
	return b, nil
}

// SignEnrol makes an Enrol.
func SignEnrol(b EnrolBody, k key.DevicePrivate) (Enrol, error) {
	body, err := Marshal(b)
	if err != nil {
		return Enrol{}, err
	}
	return Enrol{Body: body, Signature: k.Sign(ContextEnrol, body)}, nil
}

// OpenEnrol checks that an Enrol is signed by the device key it names and is meant for this coordinator and network. The caller checks
// the nonce: that it is one of its own, not older than NonceLife, and not used before. Errors wrap ErrMalformed, ErrSignature or ErrForeign.
func OpenEnrol(e Enrol, k key.CoordinatorPublic, network NetworkID) (EnrolBody, error) {
	var b EnrolBody
	if err := unmarshal(e.Body, &b, "enrol"); err != nil {
		return EnrolBody{}, err
	}
	if !b.Device.Verify(ContextEnrol, e.Body, e.Signature) {
		return EnrolBody{}, fmt.Errorf("%w: the request is not signed by the device key it names", ErrSignature)
	}
	if b.Coordinator != k || b.Network != network {
		return EnrolBody{}, fmt.Errorf("%w: the request is meant for another coordinator or network", ErrForeign)
	}
	if err := first(b.Facts.check(), texts(maxText, b.AuthKey), sized("nonce", b.Nonce, minNonce, maxText)); err != nil {
		return EnrolBody{}, fmt.Errorf("%w: enrol: %w", ErrMalformed, err)
	}
	return b, nil
}

// ParseClientNonce reads the query parameter "nonce" of PathInfo: base64url without padding of 16 to 32 bytes; ErrMalformed otherwise.
func ParseClientNonce(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < minNonce || len(b) > nonceSize || FormatClientNonce(b) != s { // the decoder skips line ends
		return nil, fmt.Errorf("%w: the nonce is not base64url of %d to %d bytes", ErrMalformed, minNonce, nonceSize)
	}
	return b, nil
}

// FormatClientNonce is the inverse of ParseClientNonce.
func FormatClientNonce(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// ClockOff reports how far local is ahead of the coordinator's signed time, and whether that is more than MaxClockSkew either way.
func ClockOff(local, signed time.Time) (ahead time.Duration, off bool) {
	ahead = local.Sub(signed)
	return ahead, ahead > MaxClockSkew || ahead < -MaxClockSkew
}
