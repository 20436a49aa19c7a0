// Package relay carries datagrams between nodes that have no direct path: frames, pass, server and client, over any net.Conn.
//
// # Who is who
//
// A relay knows a node by its Address, which is derived from its device key, so that it stays when the tunnel key is rotated. A client proves its device key
// by a signature over the server's fresh nonce, and shows a Pass: the coordinator's signed word, good for minutes, that the device belongs to the network and
// which addresses it may meet. Datagrams go from a to b only while both are connected and the pass of each names the other. The sender of a
// datagram is the key that was proved on its connection, never a field of a frame.
//
// A relay is not trusted: it sees ciphertext, and what it says of a sender binds nothing (package path). It tells nobody who is there:
// what is for somebody absent, and what is for somebody forbidden, is dropped alike, without a word to the sender.
//
// # Frames
//
// A frame is its type (1 byte), the length of its payload (3 bytes, big-endian) and the payload:
//
//	type           way   payload
//	1  challenge   s->c  version (1), nonce (32)
//	2  login       c->s  signature (64), signed pass
//	3  welcome     s->c  version (1)
//	4  renew       c->s  a newer signed pass of the same device
//	5  datagram    c->s  to (32), datagram;  s->c  from (32), datagram
//	6  ping        both  8 bytes
//	7  pong        both  the ping's
//	8  refuse      s->c  code (1), text; then the connection ends
//
// The signature of a login is the device key's, in the context "relay login", over nonce, the length of the relay's name (1), the name, and the
// SHA-256 of the signed pass: shown to one relay, it is of no use at another.
package relay

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"picket.internal/wgtun/key"
)

// Address is where a node is found at any relay of its network.
type Address [32]byte

// AddressOf is the address of a device.
func AddressOf(network string, device key.DevicePublic) Address {
	h := sha256.New()
	fmt.Fprintf(h, "picket relay address v1\n%s\n", network)
	h.Write(device[:])
	return Address(h.Sum(nil))
}

// short is what a pass says of an address.
func (a Address) short() uint64 { return binary.BigEndian.Uint64(a[:]) }

// MaxDatagram bounds a datagram, in bytes: what a jumbo frame carries, and some more.
const MaxDatagram = 9216

const version = 1

// kind is a frame's type.
type kind byte

const (
	kindChallenge kind = 1 + iota
	kindLogin
	kindWelcome
	kindRenew
	kindDatagram
	kindPing
	kindPong
	kindRefuse
)

const (
	headerSize    = 4
	nonceSize     = 32
	addressSize   = 32
	signatureSize = 64
	pingSize      = 8
	maxRefusal    = 200
)

// sizes are the least and the greatest payload of each kind, in bytes.
func (k kind) sizes() (least, most int, known bool) {
	switch k {
	case kindChallenge:
		return 1 + nonceSize, 1 + nonceSize, true
	case kindLogin:
		return signatureSize + 1, signatureSize + MaxPass, true
	case kindWelcome:
		return 1, 1, true
	case kindRenew:
		return 1, MaxPass, true
	case kindDatagram:
		return addressSize + 1, addressSize + MaxDatagram, true
	case kindPing, kindPong:
		return pingSize, pingSize, true
	case kindRefuse:
		return 1, 1 + maxRefusal, true
	}
	return 0, 0, false
}

// ErrFrame is wrapped by every refusal of a frame's form.
var ErrFrame = errors.New("malformed relay frame")

// appendFrame appends a frame whose payload is the parts.
func appendFrame(b []byte, k kind, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b = append(b, byte(k), byte(n>>16), byte(n>>8), byte(n))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// keepPayload is the longest payload whose memory is kept for the next: a datagram's.
const keepPayload = addressSize + MaxDatagram

// reader reads frames. It holds a buffer only while something is there to be read, so that idle connections cost little.
type reader struct {
	r       io.Reader
	only    func(kind) bool // kinds that may come; asked before anything is allocated
	more    func(n int)     // told before n bytes are allocated; nil for nobody
	reads   int             // of the connection, so far
	before  func() error    // called before the connection is read, which may wait; nil for nothing
	payload []byte          // of the newest frame
	head    [headerSize]byte
	buffer  *bufio.Reader // nil while idle
}

// Read reads from the connection.
func (r *reader) Read(b []byte) (int, error) {
	if r.before != nil {
		if err := r.before(); err != nil {
			return 0, err
		}
	}
	r.reads++
	return r.r.Read(b)
}

// next returns a frame. The payload is good until the next call. The error wraps ErrFrame, or is the connection's.
func (r *reader) next() (kind, []byte, error) {
	if cap(r.payload) > 2*keepPayload { // a large pass is not held on to
		r.payload = nil
	}
	if r.buffer != nil && r.buffer.Buffered() == 0 {
		buffers.Put(r.buffer)
		r.buffer = nil
	}
	rest := r.head[:]
	if r.buffer == nil {
		// One byte is waited for without a buffer.
		if _, err := io.ReadFull(r, r.head[:1]); err != nil {
			return 0, nil, err
		}
		r.buffer = buffers.Get().(*bufio.Reader)
		r.buffer.Reset(r)
		rest = r.head[1:]
	}
	if n, err := io.ReadFull(r.buffer, rest); err != nil {
		if n == 0 && len(rest) == headerSize {
			return 0, nil, err
		}
		return 0, nil, torn(err)
	}
	k, n := kind(r.head[0]), int(r.head[1])<<16|int(r.head[2])<<8|int(r.head[3])
	least, most, known := k.sizes()
	switch {
	case !known || !r.only(k):
		return 0, nil, fmt.Errorf("%w: type %d does not belong here", ErrFrame, k)
	case n < least || n > most:
		return 0, nil, fmt.Errorf("%w: %d bytes in one of type %d", ErrFrame, n, k)
	}
	if n <= r.buffer.Buffered() { // as is the rule under load: it stays where it is
		payload, _ := r.buffer.Peek(n)
		_, _ = r.buffer.Discard(n)
		return k, payload, nil
	}
	if err := r.fill(n); err != nil {
		return 0, nil, torn(err)
	}
	return k, r.payload, nil
}

// fill reads a payload of n bytes. Memory follows what has come: who only says that it will send a large pass has us hold little.
func (r *reader) fill(n int) error {
	r.payload = r.payload[:0]
	for have := 0; have < n; have = len(r.payload) {
		step := min(n-have, max(have, keepPayload))
		if r.more != nil {
			r.more(step)
		}
		r.payload = slices.Grow(r.payload, step)[:have+step]
		if _, err := io.ReadFull(r.buffer, r.payload[have:]); err != nil {
			return err
		}
	}
	return nil
}

// release gives the buffer back for good.
func (r *reader) release() {
	if r.buffer != nil {
		r.buffer.Reset(nil)
		buffers.Put(r.buffer)
		r.buffer = nil
	}
}

func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends in the middle", ErrFrame)
	}
	return err
}
