package userspace

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Bounds of what waits for the program, shared among peers (see share). What is beyond them is refused (connections) or lost (datagrams).
const (
	maxBacklog   = 128 // connections of one listener, until Accept has them
	maxDatagrams = 256 // of one PacketConn, at most 64 KiB each, until ReadFrom has them
)

// Ports that are chosen for Listen with port 0 (RFC 6335 section 6).
const (
	firstDynamicPort = 49152
	portTries        = 100
)

// Listeners are the ports that a program serves on the overlay. They outlive stacks: each is handed what comes in by the stack that serves
// them now, and nothing while there is none. Listeners are safe for concurrent use.
type Listeners struct {
	own   func(netip.Addr) bool
	stack atomic.Pointer[Stack] // that serves them; nil for none

	mu      sync.Mutex                               // guards what follows
	open    map[string]map[uint16][]receiver         // by transport, "tcp" or "udp", and port
	callers map[netip.AddrPort]map[*waiting]struct{} // connections that are not closed yet, by their far end
	closed  bool
}

// receiver is who holds a port.
type receiver interface {
	at() place
	Close() error
}

// NewListeners returns none that are open. own tells this node's overlay addresses, which one may listen at.
func NewListeners(own func(netip.Addr) bool) *Listeners {
	return &Listeners{own: own, open: map[string]map[uint16][]receiver{"tcp": {}, "udp": {}}, callers: make(map[netip.AddrPort]map[*waiting]struct{})}
}

// Serve hands inbound connections and datagrams to the listeners until ctx ends; then every connection is reset and nil returned. A port that
// none of them holds is refused to the peer as a kernel would. Nothing of this host is reached. holder names whose an address is now, for Callers.
// Only one call of this or ForwardInbound may run at a time.
func (s *Stack) Serve(ctx context.Context, l *Listeners, holder func(netip.Addr) string) error {
	if !l.stack.CompareAndSwap(nil, s) {
		return errors.New("serve listeners: another stack serves them")
	}
	defer l.stack.Store(nil)
	return s.forward(ctx, program{l, holder})
}

// Listen takes connections to a port. network is "tcp", "tcp4" or "tcp6"; address is HOST:PORT, with a HOST that is empty or unspecified for
// every address of the node (of one IP version with "tcp4" and "tcp6"), or one of its addresses. Port 0 takes a free one. Names are not resolved.
// A port that is held already is an error that matches syscall.EADDRINUSE.
func (l *Listeners) Listen(network, address string) (net.Listener, error) {
	return open(l, "tcp", network, address, func(p place) *listener {
		return &listener{owner: l, place: p, waiting: newShare(maxBacklog), queue: make(chan accepted, maxBacklog), closed: make(chan struct{})}
	})
}

// ListenPacket is Listen for datagrams: "udp", "udp4" or "udp6". WriteTo takes a *net.UDPAddr with an overlay address.
func (l *Listeners) ListenPacket(network, address string) (net.PacketConn, error) {
	return open(l, "udp", network, address, func(p place) *packetConn {
		return &packetConn{owner: l, place: p, waiting: newShare(maxDatagrams), queue: make(chan datagram, maxDatagrams), closed: make(chan struct{}), deadline: newDeadline()}
	})
}

// open gives a place on the overlay to a new receiver.
func open[R receiver](l *Listeners, transport, network, address string, fresh func(place) R) (none R, err error) {
	fail := func(err error) (R, error) {
		return none, fmt.Errorf("listen %s %.80s: %w", network, address, err)
	}
	p, err := parsePlace(transport, network, address)
	if err != nil {
		return fail(err)
	}
	if p.addr.IsValid() && !l.own(p.addr) {
		return fail(errors.New("that is not this node's address: leave the host out, or name one of its overlay addresses"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fail(net.ErrClosed)
	}
	free := func(port uint16) bool {
		return !slices.ContainsFunc(l.open[transport][port], func(r receiver) bool { return r.at().overlaps(p) })
	}
	for try := 0; p.port == 0; try++ {
		if port := uint16(firstDynamicPort + rand.IntN(1<<16-firstDynamicPort)); free(port) {
			p.port = port
		} else if try == portTries {
			return fail(errors.New("no free port was found: name one"))
		}
	}
	if !free(p.port) {
		return fail(fmt.Errorf("this program listens there already: %w", syscall.EADDRINUSE))
	}
	r := fresh(p)
	l.open[transport][p.port] = append(l.open[transport][p.port], r)
	return r, nil
}

// Close closes all of them, and those to be opened are refused.
func (l *Listeners) Close() {
	l.mu.Lock()
	l.closed = true
	var all []receiver
	for _, ports := range l.open {
		for _, list := range ports {
			all = append(all, list...)
		}
	}
	l.mu.Unlock()
	for _, r := range all {
		_ = r.Close()
	}
}

// program is the destination that hands peers to a program's listeners.
type program struct {
	*Listeners
	holder func(netip.Addr) string
}

// note remembers a connection until forgetCaller.
func (l *Listeners) note(w *waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.callers[w.from] == nil {
		l.callers[w.from] = make(map[*waiting]struct{})
	}
	l.callers[w.from][w] = struct{}{}
}

func (l *Listeners) forgetCaller(w *waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.callers[w.from], w); len(l.callers[w.from]) == 0 {
		delete(l.callers, w.from)
	}
}

// Callers are those who had an address when they opened the connections from it that are not closed yet; connections that have ended and still
// hold what came before that are among them.
func (l *Listeners) Callers(from netip.AddrPort) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for w := range l.callers[from] {
		all = append(all, w.holder)
	}
	return all
}

// forget takes a place back.
func (l *Listeners) forget(transport string, r receiver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ports, port := l.open[transport], r.at().port
	ports[port] = slices.DeleteFunc(ports[port], func(other receiver) bool { return other == r })
	if len(ports[port]) == 0 {
		delete(ports, port)
	}
}

// find is who holds the place that a packet is for; nil for nobody.
func (l *Listeners) find(transport string, to netip.AddrPort) receiver {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.open[transport][to.Port()] {
		if r.at().takes(to.Addr()) {
			return r
		}
	}
	return nil
}

// remoteOf is the far end of an inbound flow.
func remoteOf(id stack.TransportEndpointID) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(id.RemoteAddress.AsSlice())
	return netip.AddrPortFrom(addr, id.RemotePort)
}

// localOf is the own end of an inbound flow.
func localOf(id stack.TransportEndpointID) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return netip.AddrPortFrom(addr, id.LocalPort)
}
