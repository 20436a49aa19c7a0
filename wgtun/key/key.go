// Package key holds one type for each role a key plays, so that a key of one role cannot be handed to code that expects another.
//
// Text forms are "ROLE:" followed by lower-case hexadecimal; private halves print as redacted and are written out only by MarshalText.
package key

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/curve25519"
)

// Size is the length in bytes of every public key and every private seed or scalar here.
const Size = 32

// ErrMalformed is returned when a key's text or bytes are not of its form.
var ErrMalformed = errors.New("malformed key")

// DevicePublic is the public half of a node's lasting Ed25519 identity.
type DevicePublic [Size]byte

// DevicePrivate signs everything a node says about itself.
type DevicePrivate struct{ signing }

// TunnelPublic is a WireGuard static public key (X25519).
type TunnelPublic [Size]byte

// TunnelPrivate is a WireGuard static private key (X25519, clamped).
type TunnelPrivate struct{ k [Size]byte }

// ProbePublic seals path probes to a node (X25519).
type ProbePublic [Size]byte

// ProbePrivate opens path probes (X25519, clamped).
type ProbePrivate struct{ k [Size]byte }

// CoordinatorPublic verifies maps and audit checkpoints (Ed25519).
type CoordinatorPublic [Size]byte

// CoordinatorPrivate signs maps and audit checkpoints (Ed25519).
type CoordinatorPrivate struct{ signing }

// signing is an Ed25519 private key as crypto/ed25519 has it, seed and then public half, so that signing need not derive the latter again.
// It is an array, not a slice, so that keys compare and copy.
type signing [ed25519.PrivateKeySize]byte

func newSigning(seed [Size]byte) (s signing) {
	copy(s[:], ed25519.NewKeyFromSeed(seed[:]))
	return s
}

func (s *signing) parse(role string, b []byte) error {
	var seed [Size]byte
	if err := parse(role, b, &seed); err != nil {
		return err
	}
	*s = newSigning(seed)
	return nil
}

func (s *signing) seed() [Size]byte { return [Size]byte(s[:Size]) }

func (s *signing) public() [Size]byte { return [Size]byte(s[Size:]) }

func (s *signing) sign(msg []byte) []byte { return ed25519.Sign(s[:], msg) }

// Fingerprint is the SHA-256 of a coordinator's public key, as carried after the # of a join string.
type Fingerprint [sha256.Size]byte

// Context separates what a signature is for: a signature made in one context verifies in no other.
type Context string

// message prefixes msg with its context; the NUL cannot occur in a context, so no two pairs collide.
func (c Context) message(msg []byte) []byte {
	out := make([]byte, 0, len("picket/1 ")+len(c)+1+len(msg))
	out = append(out, "picket/1 "...)
	out = append(out, c...)
	out = append(out, 0)
	return append(out, msg...)
}

func randomSeed() (s [Size]byte) {
	_, _ = rand.Read(s[:]) // crypto/rand.Read never fails: it ends the program instead (Go 1.24)
	return s
}

// NewDevice makes a fresh device key.
func NewDevice() DevicePrivate { return DevicePrivate{newSigning(randomSeed())} }

// NewCoordinator makes a fresh coordinator key.
func NewCoordinator() CoordinatorPrivate { return CoordinatorPrivate{newSigning(randomSeed())} }

// NewTunnel makes a fresh tunnel key.
func NewTunnel() TunnelPrivate { return TunnelPrivate{clamp(randomSeed())} }

// NewProbe makes a fresh probe key.
func NewProbe() ProbePrivate { return ProbePrivate{clamp(randomSeed())} }

// clamp fixes the bits RFC 7748 section 5 fixes.
func clamp(k [Size]byte) [Size]byte {
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// Public returns the public half.
func (k DevicePrivate) Public() DevicePublic {
	return DevicePublic(k.public())
}

// Public returns the public half.
func (k CoordinatorPrivate) Public() CoordinatorPublic {
	return CoordinatorPublic(k.public())
}

// Public returns the public half.
func (k TunnelPrivate) Public() TunnelPublic { return TunnelPublic(basePoint(k.k)) }

// Public returns the public half.
func (k ProbePrivate) Public() ProbePublic { return ProbePublic(basePoint(k.k)) }

func basePoint(k [Size]byte) (out [Size]byte) {
	p, err := curve25519.X25519(k[:], curve25519.Basepoint)
	if err != nil {
		panic("x25519 of the base point failed: " + err.Error())
	}
	copy(out[:], p)
	return out
}

// Bytes returns the 32-byte scalar, for the WireGuard device and the state file only.
func (k TunnelPrivate) Bytes() [Size]byte { return k.k }

// Bytes returns the 32-byte scalar, for the probe box only.
func (k ProbePrivate) Bytes() [Size]byte { return k.k }

// Sign signs msg in context c; 64 bytes.
func (k DevicePrivate) Sign(c Context, msg []byte) []byte {
	return k.sign(c.message(msg))
}

// Verify reports whether sig is k's signature of msg in context c. The zero key verifies nothing.
func (k DevicePublic) Verify(c Context, msg, sig []byte) bool {
	return !k.IsZero() && ed25519.Verify(k[:], c.message(msg), sig)
}

// Sign signs msg in context c; 64 bytes.
func (k CoordinatorPrivate) Sign(c Context, msg []byte) []byte {
	return k.sign(c.message(msg))
}

// Verify reports whether sig is k's signature of msg in context c. The zero key verifies nothing.
func (k CoordinatorPublic) Verify(c Context, msg, sig []byte) bool {
	return !k.IsZero() && ed25519.Verify(k[:], c.message(msg), sig)
}

// X509 returns the key as a signer for the coordinator's certificate authority.
// A certificate's to-be-signed part begins with a DER sequence byte, a message of ours with "picket/1": neither passes for the other.
func (k CoordinatorPrivate) X509() crypto.Signer { return ed25519.PrivateKey(k.signing[:]) }

// Fingerprint is what join strings carry.
func (k CoordinatorPublic) Fingerprint() Fingerprint { return sha256.Sum256(k[:]) }

// Equal compares in constant time.
func (f Fingerprint) Equal(g Fingerprint) bool { return subtle.ConstantTimeCompare(f[:], g[:]) == 1 }

// IsZero reports an unset fingerprint.
func (f Fingerprint) IsZero() bool { return f == Fingerprint{} }

// String is base64url without padding, 43 characters.
func (f Fingerprint) String() string { return base64.RawURLEncoding.EncodeToString(f[:]) }

// ParseFingerprint reads String's form; ErrMalformed otherwise.
func ParseFingerprint(s string) (f Fingerprint, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(f) || len(s) != base64.RawURLEncoding.EncodedLen(len(f)) { // the decoder skips line ends
		return f, fmt.Errorf("coordinator key fingerprint is not 43 characters of base64url: %w", ErrMalformed)
	}
	return Fingerprint(b), nil
}

// IsZero reports an unset key.
func (k DevicePublic) IsZero() bool { return k == DevicePublic{} }

// IsZero reports an unset key.
func (k TunnelPublic) IsZero() bool { return k == TunnelPublic{} }

// IsZero reports an unset key.
func (k ProbePublic) IsZero() bool { return k == ProbePublic{} }

// IsZero reports an unset key.
func (k CoordinatorPublic) IsZero() bool { return k == CoordinatorPublic{} }

// IsZero reports an unset key.
func (k DevicePrivate) IsZero() bool { return k == DevicePrivate{} }

// IsZero reports an unset key.
func (k TunnelPrivate) IsZero() bool { return k == TunnelPrivate{} }

// IsZero reports an unset key.
func (k ProbePrivate) IsZero() bool { return k == ProbePrivate{} }

// IsZero reports an unset key.
func (k CoordinatorPrivate) IsZero() bool { return k == CoordinatorPrivate{} }

// Roles as they stand before the colon of a key's text.
const (
	roleDevice             = "device"
	roleTunnel             = "tunnel"
	roleProbe              = "probe"
	roleCoordinator        = "coordinator"
	roleDevicePrivate      = "device-private"
	roleTunnelPrivate      = "tunnel-private"
	roleProbePrivate       = "probe-private"
	roleCoordinatorPrivate = "coordinator-private"
)

func text(role string, k [Size]byte) string { return role + ":" + hex.EncodeToString(k[:]) }

// short is the form for logs and tables: role and the first 8 digits.
func short(role string, k [Size]byte) string { return role + ":" + hex.EncodeToString(k[:4]) }

// parse never puts the text into its error: it may be a private key under the wrong role.
func parse(role string, b []byte, k *[Size]byte) error {
	digits, ok := strings.CutPrefix(string(b), role+":")
	if !ok || len(digits) != 2*Size || strings.ToLower(digits) != digits {
		return fmt.Errorf("not a %s key (%s: and 64 lower-case hexadecimal digits): %w", role, role, ErrMalformed)
	}
	if _, err := hex.Decode(k[:], []byte(digits)); err != nil {
		return fmt.Errorf("not a %s key: %w", role, ErrMalformed)
	}
	return nil
}

func (k DevicePublic) String() string      { return text(roleDevice, k) }
func (k TunnelPublic) String() string      { return text(roleTunnel, k) }
func (k ProbePublic) String() string       { return text(roleProbe, k) }
func (k CoordinatorPublic) String() string { return text(roleCoordinator, k) }

func (DevicePrivate) String() string      { return roleDevicePrivate + ":redacted" }
func (TunnelPrivate) String() string      { return roleTunnelPrivate + ":redacted" }
func (ProbePrivate) String() string       { return roleProbePrivate + ":redacted" }
func (CoordinatorPrivate) String() string { return roleCoordinatorPrivate + ":redacted" }

// GoString keeps %#v from printing the secret.
func (k DevicePrivate) GoString() string { return k.String() }

// GoString keeps %#v from printing the secret.
func (k TunnelPrivate) GoString() string { return k.String() }

// GoString keeps %#v from printing the secret.
func (k ProbePrivate) GoString() string { return k.String() }

// GoString keeps %#v from printing the secret.
func (k CoordinatorPrivate) GoString() string { return k.String() }

// Short is for logs and tables.
func (k DevicePublic) Short() string { return short(roleDevice, k) }

// Short is for logs and tables.
func (k TunnelPublic) Short() string { return short(roleTunnel, k) }

// Short is for logs and tables.
func (k CoordinatorPublic) Short() string { return short(roleCoordinator, k) }

func (k DevicePublic) MarshalText() ([]byte, error)      { return []byte(k.String()), nil }
func (k TunnelPublic) MarshalText() ([]byte, error)      { return []byte(k.String()), nil }
func (k ProbePublic) MarshalText() ([]byte, error)       { return []byte(k.String()), nil }
func (k CoordinatorPublic) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k *DevicePublic) UnmarshalText(b []byte) error {
	return parse(roleDevice, b, (*[Size]byte)(k))
}
func (k *TunnelPublic) UnmarshalText(b []byte) error {
	return parse(roleTunnel, b, (*[Size]byte)(k))
}
func (k *ProbePublic) UnmarshalText(b []byte) error {
	return parse(roleProbe, b, (*[Size]byte)(k))
}
func (k *CoordinatorPublic) UnmarshalText(b []byte) error {
	return parse(roleCoordinator, b, (*[Size]byte)(k))
}

// MarshalText writes the secret: for files of mode 0600 only.
func (k DevicePrivate) MarshalText() ([]byte, error) {
	return []byte(text(roleDevicePrivate, k.seed())), nil
}

// MarshalText writes the secret: for files of mode 0600 only.
func (k TunnelPrivate) MarshalText() ([]byte, error) {
	return []byte(text(roleTunnelPrivate, k.k)), nil
}

// MarshalText writes the secret: for files of mode 0600 only.
func (k ProbePrivate) MarshalText() ([]byte, error) {
	return []byte(text(roleProbePrivate, k.k)), nil
}

// MarshalText writes the secret: for files of mode 0600 only.
func (k CoordinatorPrivate) MarshalText() ([]byte, error) {
	return []byte(text(roleCoordinatorPrivate, k.seed())), nil
}

func (k *DevicePrivate) UnmarshalText(b []byte) error {
	return k.parse(roleDevicePrivate, b)
}

func (k *TunnelPrivate) UnmarshalText(b []byte) error {
	if err := parse(roleTunnelPrivate, b, &k.k); err != nil {
		return err
	}
	k.k = clamp(k.k)
	return nil
}

func (k *ProbePrivate) UnmarshalText(b []byte) error {
	if err := parse(roleProbePrivate, b, &k.k); err != nil {
		return err
	}
	k.k = clamp(k.k)
	return nil
}

func (k *CoordinatorPrivate) UnmarshalText(b []byte) error {
	return k.parse(roleCoordinatorPrivate, b)
}
