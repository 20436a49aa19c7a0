package node

import (
	"net/netip"
	"sync"
	"time"

	"picket.internal/acl"
)

// service is a port of this host.
type service struct {
	proto acl.Proto // TCP or UDP
	port  uint16
}

// entrances are where programs of this host come into the overlay as this node: the proxies, and the listeners of forwards.
//
// They are not for peers. Without a network interface a peer who may open a port of this node is joined to the same port of 127.0.0.1; if that
// were an entrance he would go on from it to all that this node may reach, under its name. So an entrance's port is entered before its
// socket is bound and taken out after that is closed with all that came in by it, and whoever joins a peer to a port asks contains before he
// connects and again after: then no order of events lets a peer in.
//
// That is not enough for UDP, where one may be joined to a port that nobody has yet, and the system may then give that very port to the relay
// of a SOCKS5 association. So the sources of peers' sockets are noted before anything is sent from them, and whoever leads datagrams into the
// overlay drops those that come from one. It is safe for concurrent use; the zero one is empty.
type entrances struct {
	mu      sync.Mutex
	ports   map[service]int // how many entrances have the port, at different addresses
	sources map[netip.AddrPort]source
	prune   int // forget closed sources at that many
}

// source is the local address of sockets that were opened for peers.
type source struct {
	open  int
	until time.Time // when it is forgotten, once none is open
}

const (
	// lingerTime is how long a source is kept after its socket was closed: what it sent last may still wait to be read.
	lingerTime = 10 * time.Second
	// fewSources are not worth looking through.
	fewSources = 1024
)

// enter takes a port in, before it is bound; leave takes it out, and may be called again.
func (e *entrances) enter(s service) (leave func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ports == nil {
		e.ports = make(map[service]int)
	}
	e.ports[s]++
	return sync.OnceFunc(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.ports[s]--; e.ports[s] == 0 {
			delete(e.ports, s)
		}
	})
}

// contains reports whether an entrance has that port, at whatever address.
func (e *entrances) contains(s service) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ports[s] > 0
}

// note remembers the local address of a UDP socket that was opened for a peer, before anything is sent from it; forget is called when
// it is closed, and may be called again.
func (e *entrances) note(from netip.AddrPort) (forget func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sources == nil {
		e.sources = make(map[netip.AddrPort]source)
	}
	if len(e.sources) >= max(e.prune, fewSources) {
		e.forgetClosed()
	}
	s := e.sources[from]
	s.open++
	e.sources[from] = s
	return sync.OnceFunc(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		s := e.sources[from]
		s.open, s.until = s.open-1, time.Now().Add(lingerTime)
		e.sources[from] = s
	})
}

func (e *entrances) forgetClosed() {
	now := time.Now()
	for from, s := range e.sources {
		if s.open == 0 && !now.Before(s.until) {
			delete(e.sources, from)
		}
	}
	e.prune = 2 * len(e.sources)
}

// fromPeer reports whether a datagram that came from there may be a peer's.
func (e *entrances) fromPeer(from netip.AddrPort) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.sources[netip.AddrPortFrom(from.Addr().Unmap(), from.Port())]
	return ok && (s.open > 0 || time.Now().Before(s.until))
}
