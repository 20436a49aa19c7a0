package path

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"

	"picket.internal/wgtun/key"
)

// Sizes and offsets of a probe; see the package documentation.
const (
	hintSize = 8
	bodySize = 76

	offsetHint  = 4
	offsetNonce = offsetHint + hintSize
	offsetBody  = offsetNonce + chacha20poly1305.NonceSizeX

	probeSize = offsetBody + bodySize + chacha20poly1305.Overhead
)

var magic = []byte{'p', 'k', 't', 2}

// keyInfo begins the info of the key derivation, so that no other use of the same secret gives the same key.
const keyInfo = "picket probe v2"

// hint tells the receiver of a probe whose key to try.
type hint [hintSize]byte

// transaction ties a pong to its ping.
type transaction [12]byte

func newTransaction() (t transaction) {
	_, _ = rand.Read(t[:]) // never fails: it ends the program instead (Go 1.24)
	return t
}

// messageType is what a probe is.
type messageType byte

const (
	ping messageType = 1
	pong messageType = 2
)

// flagGreets is in the second byte of a pong's body.
const flagGreets = 1

// message is the body of a probe.
type message struct {
	kind        messageType
	transaction transaction
	sequence    uint64         // of a ping
	observed    netip.AddrPort // in a pong: where the ping came from
	size        uint16         // of a ping that is padded: the datagram's length in bytes; in a pong: that of the ping it answers
	// tunnel is the sender's tunnel key in a ping; in a pong the newest one of the ping's sender that the answerer knows.
	tunnel key.TunnelPublic
	greets bool // in a pong: the answerer has just taken the ping's tunnel key over, and begins the handshake
}

// append adds m's 76 bytes to b.
func (m message) append(b []byte) []byte {
	var flags byte
	if m.greets {
		flags = flagGreets
	}
	b = append(b, byte(m.kind), flags, 0, 0)
	b = append(b, m.transaction[:]...)
	b = binary.BigEndian.AppendUint64(b, m.sequence)
	var addr [16]byte
	if m.observed.IsValid() {
		addr = m.observed.Addr().As16()
	}
	b = append(b, addr[:]...)
	b = binary.BigEndian.AppendUint16(b, m.observed.Port())
	b = binary.BigEndian.AppendUint16(b, m.size)
	return append(b, m.tunnel[:]...)
}

// length is that of the datagram which carries it, in bytes.
func (m message) length() int {
	if m.kind == ping {
		return max(probeSize, int(m.size))
	}
	return probeSize
}

// parseMessage reads a body of 76 bytes; false when its type is unknown.
func parseMessage(b []byte) (m message, ok bool) {
	m.kind = messageType(b[0])
	m.transaction = transaction(b[4:16])
	m.size = binary.BigEndian.Uint16(b[42:])
	m.tunnel = key.TunnelPublic(b[44:])
	switch m.kind {
	case ping:
		m.sequence = binary.BigEndian.Uint64(b[16:])
	case pong:
		m.greets = b[1]&flagGreets != 0
		m.observed = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])).Unmap(), binary.BigEndian.Uint16(b[40:]))
	default:
		return message{}, false
	}
	return m, true
}

// looksLikeProbe reports whether a datagram is meant as a probe, of this version or another.
func looksLikeProbe(b []byte) bool { return len(b) >= len(magic) && bytes.Equal(b[:3], magic[:3]) }

// looksLikeWireGuard reports whether a datagram has the beginning of a WireGuard message (whitepaper section 5.4).
func looksLikeWireGuard(b []byte) bool {
	return len(b) >= 32 && b[0] >= 1 && b[0] <= 4 && b[1] == 0 && b[2] == 0 && b[3] == 0
}

// identity is this node to its peers' probes: by its probe key alone, since the tunnel key changes.
type identity struct {
	probe  key.ProbePrivate
	public key.ProbePublic // of probe
}

// keyed is the first bytes of a keyed BLAKE2s of label and data.
func keyed(k key.ProbePublic, label string, data []byte) (out hint) {
	h, err := blake2s.New256(k[:])
	if err != nil {
		panic("blake2s refused a key of 32 bytes: " + err.Error())
	}
	h.Write([]byte(label))
	h.Write(data)
	var sum [blake2s.Size]byte
	copy(out[:], h.Sum(sum[:0]))
	return out
}

// hintFor is what a probe from sender to receiver carries, unmasked.
func hintFor(receiver, sender key.ProbePublic) hint {
	return keyed(receiver, "hint", sender[:])
}

// mask covers h, or uncovers it, in a probe to receiver under nonce.
func (h hint) mask(receiver key.ProbePublic, nonce []byte) (out hint) {
	m := keyed(receiver, "mask", nonce)
	for i := range out {
		out[i] = h[i] ^ m[i]
	}
	return out
}

// hintIn uncovers the hint of a probe of full size sent to receiver.
func hintIn(probe []byte, receiver key.ProbePublic) hint {
	return hint(probe[offsetHint:offsetNonce]).mask(receiver, probe[offsetNonce:offsetBody])
}

// box seals probes to one peer and opens those from it. It is immutable and safe for concurrent use.
type box struct {
	to   key.ProbePublic
	hint hint // ours, to that peer
	out  cipher.AEAD
	in   cipher.AEAD
}

// newBox derives the keys between self and a peer. It fails when the peer's key is of low order: any secret with it is public.
func newBox(self identity, probe key.ProbePublic) (*box, error) {
	scalar := self.probe.Bytes()
	secret, err := curve25519.X25519(scalar[:], probe[:])
	if err != nil {
		return nil, fmt.Errorf("agree on a probe key: %w", err)
	}
	out, err := direction(secret, self.public, probe)
	if err != nil {
		return nil, err
	}
	in, err := direction(secret, probe, self.public)
	if err != nil {
		return nil, err
	}
	return &box{to: probe, hint: hintFor(probe, self.public), out: out, in: in}, nil
}

// direction is the cipher for probes of one sender to one receiver.
func direction(secret []byte, sender, receiver key.ProbePublic) (cipher.AEAD, error) {
	info := []byte(keyInfo)
	info = append(info, sender[:]...)
	info = append(info, receiver[:]...)
	k, err := hkdf.Key(sha256.New, secret, nil, string(info), chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive a probe key: %w", err)
	}
	return chacha20poly1305.NewX(k)
}

// seal makes a probe under a fresh nonce.
func (b *box) seal(m message) []byte {
	var nonce [chacha20poly1305.NonceSizeX]byte
	_, _ = rand.Read(nonce[:])
	return b.sealWith(nonce, m)
}

func (b *box) sealWith(nonce [chacha20poly1305.NonceSizeX]byte, m message) []byte {
	p := make([]byte, 0, probeSize)
	p = append(p, magic...)
	masked := b.hint.mask(b.to, nonce[:])
	p = append(p, masked[:]...)
	p = append(p, nonce[:]...)
	return b.out.Seal(p, nonce[:], m.append(make([]byte, 0, bodySize)), p[:offsetNonce])
}

// open reads a probe without padding from the peer, destroying it. False when it is not the peer's work, or of no known type.
func (b *box) open(probe []byte) (message, bool) {
	body, err := b.in.Open(probe[offsetBody:offsetBody], probe[offsetNonce:offsetBody], probe[offsetBody:], probe[:offsetNonce])
	if err != nil {
		return message{}, false
	}
	return parseMessage(body)
}

// window remembers which of the newest 64 sequence numbers were taken.
type window struct {
	newest uint64
	taken  uint64 // bit i: newest-i
}

// take reports whether sequence is new, and remembers it. Zero is never new.
func (w *window) take(sequence uint64) bool {
	if sequence == 0 {
		return false
	}
	if sequence > w.newest {
		w.taken = w.taken<<(sequence-w.newest) | 1 // a shift of 64 or more gives 0
		w.newest = sequence
		return true
	}
	behind := w.newest - sequence
	if behind >= 64 || w.taken&(1<<behind) != 0 {
		return false
	}
	w.taken |= 1 << behind
	return true
}
