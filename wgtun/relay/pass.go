package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"picket.internal/wgtun/key"
)

const (
	// PassLife is how long a pass is good for.
	PassLife = 10 * time.Minute
	// PassEarly dates a pass back, for relays whose clocks are a little behind.
	PassEarly = 5 * time.Minute
	// MaxPeers bounds the addresses that a pass names.
	MaxPeers = 65536
	// MaxPass bounds a signed pass, in bytes.
	MaxPass = passFixed + maxNetwork + 8*MaxPeers + signatureSize

	passFixed   = 1 + 1 + 32 + 8 + 8 + 4
	maxNetwork  = 64
	passVersion = 1

	contextPass  = key.Context("relay pass")
	contextLogin = key.Context("relay login")
)

// ErrPass is wrapped by every refusal of a pass.
var ErrPass = errors.New("relay pass refused")

// Pass is the coordinator's word that a device may use the network's relays, and whom it may meet there. Its binary form is
//
//	version (1), length of network (1), network, device (32), not before (8), not after (8), count (4), count times the first 8 bytes of a
//	peer's address, strictly rising; numbers big-endian, times in Unix seconds
//
// followed by the coordinator key's signature over all that in the context "relay pass".
type Pass struct {
	Network   string
	Device    key.DevicePublic
	NotBefore time.Time // whole seconds
	NotAfter  time.Time
	peers     []uint64
}

// NewPass makes a pass of PassLife from now. Peers beyond MaxPeers are left out.
func NewPass(network string, device key.DevicePublic, peers []Address, now time.Time) Pass {
	p := Pass{
		Network: network, Device: device,
		NotBefore: now.Add(-PassEarly).Truncate(time.Second), NotAfter: now.Add(PassLife).Truncate(time.Second),
	}
	for _, a := range peers {
		p.peers = append(p.peers, a.short())
	}
	slices.Sort(p.peers)
	p.peers = slices.Compact(p.peers)
	p.peers = p.peers[:min(len(p.peers), MaxPeers)]
	return p
}

// Names reports whether the pass names an address.
func (p *Pass) Names(a Address) bool {
	_, ok := slices.BinarySearch(p.peers, a.short())
	return ok
}

// Holds reports whether the pass is good at a time.
func (p *Pass) Holds(now time.Time) bool { return !now.Before(p.NotBefore) && now.Before(p.NotAfter) }

// Address is that of the pass's device.
func (p *Pass) Address() Address { return AddressOf(p.Network, p.Device) }

// Sign returns the signed pass. It panics on a network's name that no pass can hold, which is a mistake of the caller's.
func (p *Pass) Sign(k key.CoordinatorPrivate) []byte {
	if len(p.Network) == 0 || len(p.Network) > maxNetwork {
		panic("relay: the network's name does not fit into a pass")
	}
	be := binary.BigEndian
	b := make([]byte, 0, passFixed+len(p.Network)+8*len(p.peers)+signatureSize)
	b = append(b, passVersion, byte(len(p.Network)))
	b = append(b, p.Network...)
	b = append(b, p.Device[:]...)
	b = be.AppendUint64(b, uint64(p.NotBefore.Unix()))
	b = be.AppendUint64(b, uint64(p.NotAfter.Unix()))
	b = be.AppendUint32(b, uint32(len(p.peers)))
	for _, x := range p.peers {
		b = be.AppendUint64(b, x)
	}
	return append(b, k.Sign(contextPass, b)...)
}

// OpenPass verifies a signed pass of a network under its coordinator's key, at a time. The error wraps ErrPass.
func OpenPass(signed []byte, k key.CoordinatorPublic, network string, now time.Time) (*Pass, error) {
	be := binary.BigEndian
	n := len(network)
	switch {
	case len(signed) < passFixed+n+signatureSize, len(signed) > MaxPass:
		return nil, fmt.Errorf("%w: wrong length", ErrPass)
	case signed[0] != passVersion:
		return nil, fmt.Errorf("%w: version %d", ErrPass, signed[0])
	case int(signed[1]) != n || string(signed[2:2+n]) != network:
		return nil, fmt.Errorf("%w: it is of another network", ErrPass)
	}
	body, signature := signed[:len(signed)-signatureSize], signed[len(signed)-signatureSize:]
	if !k.Verify(contextPass, body, signature) {
		return nil, fmt.Errorf("%w: the coordinator has not signed it", ErrPass)
	}
	rest := body[2+n:]
	p := &Pass{Network: network, Device: key.DevicePublic(rest[:32])}
	from, to, count := be.Uint64(rest[32:]), be.Uint64(rest[40:]), be.Uint32(rest[48:])
	rest = rest[52:]
	const latest = 1 << 40 // far beyond, and no overflow in time.Time
	if from > latest || to > latest || uint64(len(rest)) != 8*uint64(count) || count > MaxPeers || p.Device.IsZero() {
		return nil, fmt.Errorf("%w: malformed", ErrPass)
	}
	p.NotBefore, p.NotAfter = time.Unix(int64(from), 0), time.Unix(int64(to), 0)
	if !p.Holds(now) {
		return nil, fmt.Errorf("%w: it is good from %s to %s", ErrPass, p.NotBefore.UTC().Format(time.RFC3339), p.NotAfter.UTC().Format(time.RFC3339))
	}
	p.peers = make([]uint64, count)
	for i := range p.peers {
		p.peers[i] = be.Uint64(rest[8*i:])
		if i > 0 && p.peers[i] <= p.peers[i-1] {
			return nil, fmt.Errorf("%w: its addresses are out of order", ErrPass)
		}
	}
	return p, nil
}

// loginText is what a login's signature is over.
func loginText(nonce []byte, relay string, passDigest [32]byte) []byte {
	b := append([]byte{}, nonce...)
	b = append(b, byte(len(relay)))
	b = append(b, relay...)
	return append(b, passDigest[:]...)
}
