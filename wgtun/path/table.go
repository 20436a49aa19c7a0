package path

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"picket.internal/wgtun/key"
)

// table is what the packet path looks up. Its lock is the innermost: nothing else is locked under it. It is written under Bind.mu only.
type table struct {
	mu       sync.RWMutex
	peers    map[key.TunnelPublic]*peer
	hints    map[hint]*peer
	bindings map[netip.AddrPort]*binding
}

// binding is an address that authenticated probes bound to peers: WireGuard's datagrams from there are handed up. As a rule to one
// peer; to two while a device changes its tunnel key, or when somebody forges where a ping of his own comes from.
type binding struct {
	heard  atomic.Int64 // instant of the newest datagram of WireGuard's from there
	claims []*claim     // never empty; the first is whose endpoint datagrams get; guarded by table.mu
}

// claim is one peer's hold on an address.
type claim struct {
	peer     *peer
	endpoint *Endpoint
	proved   bool // by a pong
	until    instant
}

// maxClaims bounds the peers of one address.
const maxClaims = 4

func newTable() table {
	return table{
		peers:    make(map[key.TunnelPublic]*peer),
		hints:    make(map[hint]*peer),
		bindings: make(map[netip.AddrPort]*binding),
	}
}

// peer is nil when unknown.
func (t *table) peer(k key.TunnelPublic) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers[k]
}

func (t *table) byHint(h hint) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.hints[h]
}

// count is the number of peers.
func (t *table) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.hints)
}

// all lists the peers.
func (t *table) all() []*peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Values(t.hints))
}

// claimant is whose an address is; nil when nobody's.
func (t *table) claimant(a netip.AddrPort, now instant) (*binding, *claim) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if b := t.bindings[a]; b != nil {
		for _, c := range b.claims {
			if now < c.until {
				return b, c
			}
		}
	}
	return nil, nil
}

// claims reports whether p claims an address.
func (t *table) claims(a netip.AddrPort, p *peer, now instant) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b := t.bindings[a]
	return b != nil && slices.ContainsFunc(b.claims, func(c *claim) bool { return c.peer == p && now < c.until })
}

// heard is when WireGuard's newest datagram came from an address; 0 for an address that is nobody's.
func (t *table) heard(a netip.AddrPort) instant {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if b := t.bindings[a]; b != nil {
		return load(&b.heard)
	}
	return 0
}

// add enters a new peer; false when another has its hint, which would take 2^64 tries at a key.
func (t *table) add(p *peer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hints[p.hint] != nil {
		return false
	}
	t.peers[p.tunnel] = p
	t.hints[p.hint] = p
	return true
}

// rename gives a peer its next key; it is found under the former one, too, until unalias. False when the next one is another's.
func (t *table) rename(p *peer, next key.TunnelPublic) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[next] != nil {
		return false
	}
	t.peers[next] = p
	p.tunnel = next
	for _, b := range t.bindings {
		for i, c := range b.claims {
			if c.peer == p { // a claim of its own, for who was handed the old one reads it without the lock
				renamed := *c
				renamed.endpoint = &Endpoint{bind: c.endpoint.bind, tunnel: next, from: c.endpoint.from}
				b.claims[i] = &renamed
			}
		}
	}
	return true
}

// unalias ends that a peer is found under a key which it has given up.
func (t *table) unalias(p *peer, former key.TunnelPublic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[former] == p && p.tunnel != former {
		delete(t.peers, former)
	}
}

// reprobe gives a peer another probe key; false when another has its hint.
func (t *table) reprobe(p *peer, probe key.ProbePublic, h hint) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.hints[h]; other != nil && other != p {
		return false
	}
	delete(t.hints, p.hint)
	p.hint, p.probe = h, probe
	t.hints[h] = p
	return true
}

// remove takes a peer out.
func (t *table) remove(p *peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[p.tunnel] == p {
		delete(t.peers, p.tunnel)
		delete(t.hints, p.hint)
	}
}

// bind lets p claim an address until an instant, or renews its claim; it reports whether the claim is proved, now or before, and
// false for ok when the address has too many claims. A claim just proved goes first, an unproved one last: it changes nothing
// for those who were there.
func (t *table) bind(a netip.AddrPort, p *peer, e *Endpoint, proved bool, until instant) (isProved, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.bindings[a]
	if b == nil {
		b = new(binding)
		t.bindings[a] = b
	}
	i := slices.IndexFunc(b.claims, func(c *claim) bool { return c.peer == p })
	if i >= 0 && b.claims[i].proved {
		b.claims[i].until = until
		return true, true
	}
	if i >= 0 {
		b.claims = slices.Delete(b.claims, i, i+1)
	}
	if len(b.claims) == maxClaims {
		if !proved {
			return false, false
		}
		b.claims = b.claims[:maxClaims-1]
	}
	c := &claim{peer: p, endpoint: e, proved: proved, until: until}
	if proved {
		b.claims = slices.Insert(b.claims, 0, c)
	} else {
		b.claims = append(b.claims, c)
	}
	return proved, true
}

// unbind ends p's claim to an address.
func (t *table) unbind(a netip.AddrPort, p *peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.bindings[a]
	if b == nil {
		return
	}
	b.claims = slices.DeleteFunc(b.claims, func(c *claim) bool { return c.peer == p })
	if len(b.claims) == 0 {
		delete(t.bindings, a)
	}
}

// instant is time since an hour before the Bind was made, on the monotonic clock. The hour makes the zero instant "never": long
// before anything.
type instant = time.Duration

func load(a *atomic.Int64) instant { return instant(a.Load()) }
