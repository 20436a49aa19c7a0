package wgtun

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/device"

	"picket.internal/wgtun/filter"
)

// outward has the peers woken that outgoing packets go to. It belongs to the goroutine that reads the TUN, and remembers where the last
// packets went, so that a packet to a peer that is awake costs a look at one slot.
type outward struct {
	filter *filter.Filter
	roster *roster
	mtu    int // of the TUN
	recent [256]slot
}

// slot is where a packet went, and how long datagrams there may be; nil while all packets fit.
type slot struct {
	destination
	limit *atomic.Int32
}

// destination is an address whose peer was awake at an epoch of the roster.
type destination struct {
	hi, lo uint64
	epoch  uint64 // plus one: the zero destination is none
}

// ready reports whether the device has the peer of a packet that the filter has passed; it is woken if need be. It is false when the
// packet's peer has left, or changed its addresses, since the filter looked. mtu is how long packets there may be, in bytes.
func (o *outward) ready(packet []byte) (mtu int, ok bool) {
	d := destinationOf(packet)
	at := o.slot(d)
	d.epoch = o.roster.epoch.Load() + 1
	if at.lo != d.lo || at.hi != d.hi || at.epoch != d.epoch {
		node, ok := o.filter.NodeAt(addressOf(packet))
		if !ok || !o.roster.wakeNode(node) {
			return 0, false
		}
		if in, ok := o.roster.of(node); ok {
			o.roster.rekeying.await(in.peer.Tunnel)
		}
		at.destination, at.limit = d, nil
		if o.mtu > DefaultMTU {
			at.limit = o.roster.limit(node)
		}
	}
	if at.limit == nil {
		return o.mtu, true
	}
	return min(o.mtu, PacketIn(int(at.limit.Load()))), true
}

func (o *outward) slot(d destination) *slot { return &o.recent[(d.hi^d.lo)*0x9e3779b97f4a7c15>>56] }

// PacketIn is the length of the longest packet that a datagram of so many bytes of UDP payload carries through a tunnel. WireGuard pads to multiples of 16 (whitepaper section 5.4.6).
func PacketIn(datagram int) int {
	return (datagram - device.MessageTransportSize) &^ (device.PaddingMultiple - 1)
}

// destinationOf reads a packet that the filter has found sound.
func destinationOf(packet []byte) destination {
	if packet[0]>>4 == 4 {
		// In the range of IPv6 multicast, which never passes.
		return destination{hi: ^uint64(0), lo: uint64(binary.BigEndian.Uint32(packet[16:]))}
	}
	return destination{hi: binary.BigEndian.Uint64(packet[24:]), lo: binary.BigEndian.Uint64(packet[32:])}
}

func addressOf(packet []byte) netip.Addr {
	if packet[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(packet[16:20]))
	}
	return netip.AddrFrom16([16]byte(packet[24:40]))
}
