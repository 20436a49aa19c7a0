package nettest

import (
	"net/netip"
	"slices"

	"golang.zx2c4.com/wireguard/conn"
)

// Host is a machine on the internet or behind a NAT.
type Host struct {
	network *Network

	// Guarded by network.mu.
	realm   *realm
	addrs   []netip.Addr
	sockets map[uint16]*socket
	nextTry uint16
}

// firstEphemeral is the first port given out to those who ask for none (RFC 6335 section 6).
const firstEphemeral = 49152

// Host adds a host with these addresses to the internet. It panics if an address is taken: the test is wrong.
func (n *Network) Host(addrs ...netip.Addr) *Host { return n.newHost(n.internet, addrs) }

func (n *Network) newHost(in *realm, addrs []netip.Addr) *Host {
	h := &Host{network: n, sockets: make(map[uint16]*socket), nextTry: firstEphemeral}
	n.mu.Lock()
	defer n.mu.Unlock()
	h.settleLocked(in, addrs)
	return h
}

// Bind returns a new conn.Bind for UDP on this host, with batches of DefaultBatch.
func (h *Host) Bind() conn.Bind { return h.BindBatch(DefaultBatch) }

// BindBatch is Bind with batches of up to size datagrams.
func (h *Host) BindBatch(size int) conn.Bind { return &bind{host: h, batch: size} }

// SetAddrs replaces the host's addresses, as roaming or a new lease does. Open sockets stay open.
func (h *Host) SetAddrs(addrs ...netip.Addr) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.settleLocked(h.realm, addrs)
}

// MoveTo takes the host behind a NAT, or onto the internet when nat is nil, under new addresses. Open sockets stay open.
func (h *Host) MoveTo(nat *NAT, addrs ...netip.Addr) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	in := h.network.internet
	if nat != nil {
		in = nat.inside
	}
	h.settleLocked(in, addrs)
}

// Addrs returns the host's present addresses.
func (h *Host) Addrs() []netip.Addr {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	return slices.Clone(h.addrs)
}

// Inject sends one datagram with any source address, as an attacker does; it leaves from this host's place in the network.
func (h *Host) Inject(from, to netip.AddrPort, payload []byte) {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	h.network.launchLocked(h, h.realm, Datagram{From: from, To: to, Payload: slices.Clone(payload)})
}

func (h *Host) settleLocked(in *realm, addrs []netip.Addr) {
	for _, a := range h.addrs {
		delete(h.realm.places, a)
	}
	h.realm, h.addrs = in, slices.Clone(addrs)
	for _, a := range addrs {
		in.claimLocked(a, h)
	}
}

func (r *realm) claimLocked(a netip.Addr, p Place) {
	if _, taken := r.places[a]; taken {
		panic("nettest: two places claim address " + a.String())
	}
	r.places[a] = p
}

func (h *Host) arriveLocked(d Datagram) {
	s, ok := h.sockets[d.To.Port()]
	if !ok {
		h.network.stats.NoSocket++
		return
	}
	if !s.queue(d).push(d) {
		h.network.stats.Overflow++
		return
	}
	h.network.stats.Delivered++
}

// sourceLocked picks the address to send from: want when the host still has it, else the first of the destination's family.
func (h *Host) sourceLocked(want, to netip.Addr) (netip.Addr, bool) {
	if slices.Contains(h.addrs, want) && want.Is4() == to.Is4() {
		return want, true
	}
	for _, a := range h.addrs {
		if a.Is4() == to.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}
