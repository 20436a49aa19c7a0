package path

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

// Home is where a peer is found through relays: the relay it is connected to, by name, and its address there.
type Home struct {
	Relay   string // "" when it has none
	Address [32]byte
	// Spare is another relay to try at the same address: it may have gone there without our having heard of it. "" for none.
	Spare string
}

// Carrier carries datagrams through relays.
type Carrier interface {
	// Send hands a copy of a datagram to a relay, for whoever has an address there; false when it was dropped. It never blocks.
	Send(to Home, datagram []byte) bool
}

const (
	directKind = "direct" // what way.kind says of plain UDP
	relayKind  = "relay"

	maxArrivals = 512 // datagrams that came through relays and that WireGuard has not fetched yet
)

// relayed is a way through a relay.
type relayed struct {
	bind  *Bind
	at    Home
	alias netip.AddrPort
}

func (r *relayed) kind() string         { return relayKind }
func (r *relayed) addr() netip.AddrPort { return r.alias }

// send counts what the relay does not take. That is no error of the way's: it asks by its probes whether the relay still carries anything.
func (r *relayed) send(bufs [][]byte) error {
	for _, buf := range bufs {
		if !r.bind.config.Relay.Send(r.at, buf) {
			r.bind.drop(DropRelayBusy, 1)
		}
	}
	return nil
}

func (b *Bind) newRelayed(at Home) *relayed {
	return &relayed{bind: b, at: at, alias: at.alias()}
}

// placeOf names a way for people.
func placeOf(w way) string {
	if r, ok := w.(*relayed); ok {
		return r.at.Relay
	}
	return w.addr().String()
}

// alias stands for a place at a relay wherever the far end of a way is an address. It lies in 100::/8, which is nobody's (IANA's registry of IPv6
// addresses), and is refused wherever it comes from outside. All aliases at one relay share a /64, and so the rate at which strangers' probes are looked at.
func (h Home) alias() netip.AddrPort {
	relay := sha256.Sum256([]byte(h.Relay))
	at := sha256.Sum256(append([]byte(h.Relay+"\x00"), h.Address[:]...))
	a := [16]byte{1}
	copy(a[4:8], relay[:])
	copy(a[8:], at[:])
	return netip.AddrPortFrom(netip.AddrFrom16(a), binary.BigEndian.Uint16(at[8:])|1)
}

// aliases is where all aliases lie.
var aliases = netip.MustParsePrefix("100::/8")

func isAlias(a netip.Addr) bool { return aliases.Contains(a) }

// carried is a datagram of WireGuard's that came through a relay.
type carried struct {
	datagram []byte
	endpoint *Endpoint
}

// Relayed takes a datagram that came through a relay, from whoever the relay says has that address there. That is believed no more than a UDP
// datagram's source: only an authenticated probe binds it to a peer. It never blocks, and keeps nothing of the datagram.
func (b *Bind) Relayed(from Home, datagram []byte) {
	alias := from.alias()
	switch {
	case b.config.Relay == nil || b.port.Load() == 0:
	case looksLikeProbe(datagram):
		b.takeProbe(datagram, alias, func() way { return b.newRelayed(from) })
	case !looksLikeWireGuard(datagram):
		b.drop(DropForeign, 1)
	default:
		now := b.now()
		at, owner := b.table.claimant(alias, now)
		if owner == nil {
			b.drop(DropStranger, 1)
			return
		}
		at.heard.Store(int64(now))
		owner.peer.received.Store(int64(now))
		select {
		case b.arrivals <- carried{bytes.Clone(datagram), owner.endpoint}:
		default:
			b.drop(DropBusy, 1)
		}
	}
}

// receiveRelayed is how WireGuard fetches what came through relays, until closed.
func (b *Bind) receiveRelayed(closed <-chan struct{}) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int, err error) {
		select {
		case <-closed:
			return 0, net.ErrClosed
		case a := <-b.arrivals:
			n = b.deliver(a, bufs, sizes, eps, n)
		}
		for n < len(bufs) {
			select {
			case a := <-b.arrivals:
				n = b.deliver(a, bufs, sizes, eps, n)
			default:
				return n, nil
			}
		}
		return n, nil
	}
}

// deliver puts a datagram at place n, unless its peer was removed meanwhile, and returns the next place.
func (b *Bind) deliver(a carried, bufs [][]byte, sizes []int, eps []conn.Endpoint, n int) int {
	if b.table.peer(a.endpoint.tunnel) == nil || len(a.datagram) > len(bufs[n]) {
		b.drop(DropStranger, 1)
		return n
	}
	sizes[n], eps[n] = copy(bufs[n], a.datagram), a.endpoint
	return n + 1
}
