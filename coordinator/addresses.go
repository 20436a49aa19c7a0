package coordinator

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Addresses are chosen at random, so that what a departed node had is not the next one's, and held for addressHold after a node's removal,
// or for as long as its newest certificate runs: until then some peer could still believe the old key under that address. They are never
// given out earlier, not even when the range is exhausted.

// addressHold is how long at least an address rests.
const addressHold = 30 * 24 * time.Hour

// reservedLow is how many addresses at the start of a range of /24 and larger are left for what the network itself may need.
const reservedLow = 16

// overlays are the network's ranges.
func overlays(c Config) []netip.Prefix { return []netip.Prefix{c.Overlay4, c.Overlay6} }

// freeAddresses picks an IPv4 address, and the IPv6 address that ends in the same 32 bits.
func (ch *change) freeAddresses() ([]netip.Addr, error) {
	v4, err := ch.freeAddress4()
	if err != nil {
		return nil, err
	}
	v6 := ch.c.config.Overlay6.Addr().As16()
	low := v4.As4()
	for i := range low {
		v6[12+i] |= low[i] // Overlay6 is at most a /96: these bits are its hosts'
	}
	return []netip.Addr{v4, netip.AddrFrom16(v6)}, nil
}

func (ch *change) freeAddress4() (netip.Addr, error) {
	pool := ch.c.config.Overlay4
	for range 64 { // nearly always the first fits
		a := nth(pool, rand.Uint32N(size(pool)))
		if !assignable(pool, a) {
			continue
		}
		if taken, err := ch.AddressTaken(a); err != nil || !taken {
			return a, err
		}
	}
	all, err := ch.TakenAddresses()
	if err != nil {
		return netip.Addr{}, err
	}
	taken := make(map[netip.Addr]bool, len(all))
	for _, a := range all {
		taken[a] = true
	}
	start := rand.Uint32N(size(pool))
	for i := range size(pool) {
		if a := nth(pool, (start+i)%size(pool)); assignable(pool, a) && !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, refuse(protocol.CodeExhausted, "every address of %s is in use, or rests for 30 days after its node was removed: start the coordinator with a larger --addresses4 that holds this range", pool)
}

// size is how many addresses an IPv4 range has.
func size(p netip.Prefix) uint32 { return 1 << (32 - p.Bits()) }

// nth is the i-th address of an IPv4 range.
func nth(p netip.Prefix, i uint32) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+i)
	return netip.AddrFrom4(b)
}

// assignable leaves out the first and last address of the range, those that end in .0 or .255, which some programs take for a network or a
// broadcast, and the reserved ones.
func assignable(p netip.Prefix, a netip.Addr) bool {
	b, first := a.As4(), p.Addr().As4()
	i := binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(first[:])
	switch {
	case i == 0 || i == size(p)-1 || b[3] == 0 || b[3] == 255:
		return false
	case p.Bits() <= 24 && i < reservedLow:
		return false
	}
	return true
}

// heldUntil is when the addresses of a node removed now may be given out again.
func heldUntil(n NodeRow, now time.Time) time.Time {
	until := now.Add(addressHold)
	cert, err := key.OpenCertificate(n.Certificate, string(n.ID), n.Device, now)
	if err == nil && cert.NotAfter.After(until) {
		until = cert.NotAfter
	}
	next, err := key.OpenCertificate(n.Next, string(n.ID), n.Device, now)
	if err == nil && next.NotAfter.After(until) {
		until = next.NotAfter
	}
	return until
}
