package cluster

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// memory is a network in memory that loses datagrams, for rings in fake time.
type memory struct {
	loss float64

	mu    sync.Mutex
	ports map[string]*port
	rand  *rand.Rand
	gone  map[string]bool // addresses that nothing comes from or goes to
}

func newMemory(loss float64) *memory {
	return &memory{loss: loss, ports: map[string]*port{}, rand: rand.New(rand.NewPCG(1, 2)), gone: map[string]bool{}}
}

// port is one address's transport.
type port struct {
	net     *memory
	at      netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

const delay = 20 * time.Millisecond

var errDown = errors.New("nobody is there")

func (m *memory) port(at netip.AddrPort) *port {
	p := &port{net: m, at: at, packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn), closed: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports[at.String()] = p
	return p
}

// between is the port that p reaches at an address; nil when there is none, or a datagram is lost.
func (m *memory) between(p *port, addr string, datagram bool) *port {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone[p.at.String()] || m.gone[addr] || datagram && m.rand.Float64() < m.loss {
		return nil
	}
	return m.ports[addr]
}

// die has an address fall silent.
func (m *memory) die(at netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone[at.String()] = true
}

func (p *port) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return p.at.Addr().AsSlice(), int(p.at.Port()), nil
}

func (p *port) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	if to := p.net.between(p, addr, true); to != nil {
		packet := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(p.at)}
		time.AfterFunc(delay, func() {
			packet.Timestamp = time.Now()
			select {
			case to.packets <- packet:
			default:
			}
		})
	}
	return now, nil
}

func (p *port) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := p.net.between(p, addr, false)
	if to == nil {
		select {
		case <-time.After(timeout):
		case <-p.closed:
		}
		return nil, errDown
	}
	here, there := net.Pipe()
	select {
	case to.streams <- &conn{there, p.at}:
		return &conn{here, to.at}, nil
	case <-to.closed:
	case <-p.closed:
	}
	return nil, errDown
}

func (p *port) PacketCh() <-chan *memberlist.Packet { return p.packets }
func (p *port) StreamCh() <-chan net.Conn           { return p.streams }
func (p *port) Shutdown() error                     { p.once.Do(func() { close(p.closed) }); return nil }

// conn has an address that says who is at the other end.
type conn struct {
	net.Conn
	far netip.AddrPort
}

func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.far) }
