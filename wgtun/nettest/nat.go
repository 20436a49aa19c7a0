package nettest

import (
	"net/netip"
	"slices"
	"time"
)

// Behaviour is how a NAT's mapping or filtering depends on the other side (RFC 4787 sections 4.1 and 5).
type Behaviour int

const (
	// EndpointIndependent uses one mapping for all destinations, or lets anybody in.
	EndpointIndependent Behaviour = iota
	// AddressDependent uses one mapping for each remote address, or lets in whom the inside has sent to, from any port.
	AddressDependent
	// AddressAndPortDependent uses one mapping for each remote address and port ("symmetric"), or lets in exactly whom the
	// inside has sent to.
	AddressAndPortDependent
)

// NATConfig is how a NAT behaves. The zero NATConfig is the most permissive kind ("full cone").
type NATConfig struct {
	Mapping, Filtering Behaviour
	Timeout            time.Duration // of a mapping and of a permission without outward traffic; 0 means 2 minutes
	PreservePort       bool          // keep the inside port where it is free
	Hairpin            bool          // let the inside reach the inside by the outside address
}

// NAT is a gateway between an inside realm and the internet or another NAT's inside.
type NAT struct {
	network *Network
	config  NATConfig
	outside *realm
	inside  *realm

	// Guarded by network.mu.
	addrs    []netip.Addr
	mappings map[mappingKey]*mapping
	byPublic map[netip.AddrPort]*mapping
	nextPort uint16
}

// mappingKey names a mapping; remote is zero, or only an address, as far as Mapping does not depend on it.
type mappingKey struct {
	inside, remote netip.AddrPort
}

// mapping is one outside port lent to an inside one.
type mapping struct {
	key     mappingKey
	public  netip.AddrPort
	used    time.Time
	allowed map[netip.AddrPort]time.Time // keys cut as Filtering cuts them
}

// firstMapped is where a NAT's own choice of ports begins.
const firstMapped = 20000

// defaultTimeout is the least that RFC 4787 section 4.3 asks for.
const defaultTimeout = 2 * time.Minute

// NAT adds a NAT with these outside addresses, at most one for each IP version, to the internet.
func (n *Network) NAT(c NATConfig, outside ...netip.Addr) *NAT {
	return n.newNAT(n.internet, c, outside)
}

// NAT adds a NAT behind this one, as a carrier's does.
func (t *NAT) NAT(c NATConfig, outside ...netip.Addr) *NAT {
	return t.network.newNAT(t.inside, c, outside)
}

// Host adds a host behind the NAT.
func (t *NAT) Host(addrs ...netip.Addr) *Host { return t.network.newHost(t.inside, addrs) }

// Forget drops all mappings, as a rebooted router does.
func (t *NAT) Forget() {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	clear(t.mappings)
	clear(t.byPublic)
}

func (n *Network) newNAT(outside *realm, c NATConfig, addrs []netip.Addr) *NAT {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	t := &NAT{
		network: n, config: c, outside: outside, addrs: slices.Clone(addrs), nextPort: firstMapped,
		mappings: make(map[mappingKey]*mapping), byPublic: make(map[netip.AddrPort]*mapping),
	}
	t.inside = &realm{network: n, gateway: t, places: make(map[netip.Addr]Place)}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		outside.claimLocked(a, t)
	}
	return t
}

// cut keeps of a remote end what b depends on.
func (b Behaviour) cut(remote netip.AddrPort) netip.AddrPort {
	switch b {
	case EndpointIndependent:
		return netip.AddrPort{}
	case AddressDependent:
		return netip.AddrPortFrom(remote.Addr(), 0)
	default:
		return remote
	}
}

// outwardLocked translates a source on its way out, and lets answers in. It reports false when the NAT has no outside address of
// that IP version, or when the destination is the NAT itself and it does not hairpin.
func (t *NAT) outwardLocked(from, to netip.AddrPort) (netip.AddrPort, bool) {
	if !t.config.Hairpin && slices.Contains(t.addrs, to.Addr()) {
		return netip.AddrPort{}, false
	}
	now := time.Now()
	key := mappingKey{inside: from, remote: t.config.Mapping.cut(to)}
	m := t.mappings[key]
	if m == nil || now.Sub(m.used) > t.config.Timeout {
		public, ok := t.lendLocked(from)
		if !ok {
			return netip.AddrPort{}, false
		}
		if m != nil {
			delete(t.byPublic, m.public)
		}
		m = &mapping{key: key, public: public, allowed: make(map[netip.AddrPort]time.Time)}
		t.mappings[key], t.byPublic[public] = m, m
	}
	m.used = now
	m.allowed[t.config.Filtering.cut(to)] = now
	return m.public, true
}

// lendLocked picks a free outside port.
func (t *NAT) lendLocked(inside netip.AddrPort) (netip.AddrPort, bool) {
	i := slices.IndexFunc(t.addrs, func(a netip.Addr) bool { return a.Is4() == inside.Addr().Is4() })
	if i < 0 {
		return netip.AddrPort{}, false
	}
	if same := netip.AddrPortFrom(t.addrs[i], inside.Port()); t.config.PreservePort && t.byPublic[same] == nil {
		return same, true
	}
	for {
		public := netip.AddrPortFrom(t.addrs[i], t.nextPort)
		if t.nextPort++; t.nextPort < firstMapped {
			t.nextPort = firstMapped
		}
		if t.byPublic[public] == nil {
			return public, true
		}
	}
}

// arriveLocked translates inward, or drops.
func (t *NAT) arriveLocked(d Datagram) {
	m := t.byPublic[d.To]
	if m == nil || !t.admitsLocked(m, d.From) {
		t.network.stats.Filtered++
		return
	}
	d.To = m.key.inside
	to, ok := t.inside.places[d.To.Addr()]
	if !ok {
		t.network.stats.NoRoute++
		return
	}
	to.arriveLocked(d)
}

func (t *NAT) admitsLocked(m *mapping, remote netip.AddrPort) bool {
	now := time.Now()
	allowed, ok := m.allowed[t.config.Filtering.cut(remote)]
	return ok && now.Sub(m.used) <= t.config.Timeout && now.Sub(allowed) <= t.config.Timeout
}
