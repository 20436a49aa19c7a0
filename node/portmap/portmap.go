// Package portmap has the default gateway lead a UDP port of its outside address to this host: by PCP (RFC 6887), NAT-PMP (RFC 6886) or
// UPnP (Internet Gateway Device, WANIPConnection).
//
// Only the gateway is asked, and only what comes from it is believed; all it says is bounded in time and size. What it says is good for nothing but
// a hint to peers, who believe no address before their probe of it is answered. A mapping is borrowed for two hours, renewed after one, and
// given back when Run ends.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Times of mappings.
const (
	life       = 2 * time.Hour    // asked for
	leastLife  = 2 * time.Minute  // a shorter one is taken for this long, lest a gateway have us ask all the time
	again      = 10 * time.Minute // after nothing was to be had
	askTime    = 3 * time.Second  // for each protocol
	renewAgain = time.Minute      // after a renewal was not answered
	releaseFor = time.Second      // for giving back when the agent ends
)

// errKept says that a mapping could not be renewed now and holds for a while yet.
var errKept = errors.New("the mapping is not renewed yet")

// Gateway is the host's way out.
type Gateway struct {
	Router netip.Addr // IPv4
	Own    netip.Addr // of this host, towards it
}

// Config of a Mapper.
type Config struct {
	// Gateway returns the default IPv4 gateway; an error when there is none.
	Gateway func() (Gateway, error)
	// Control is put to every socket: net.Dialer.Control. May be nil.
	Control func(network, address string, c syscall.RawConn) error
	// Usable reports whether an outside address may be told to peers.
	Usable func(netip.AddrPort) bool
	// Changed is called when Status may say something else; it may block until ctx ends.
	Changed func(ctx context.Context)
	Logger  *slog.Logger
}

// Status is what is mapped.
type Status struct {
	Protocol string         // "PCP", "NAT-PMP", "UPnP"; empty when nothing is
	Outside  netip.AddrPort // leads to our port
	Until    time.Time
	Failed   error // why nothing is mapped
}

// Mapper keeps one mapping. Its methods are safe for concurrent use.
type Mapper struct {
	config    Config
	protocols []protocol
	wake      chan struct{} // room for one

	mu     sync.Mutex
	port   uint16 // 0: none is wanted
	status Status

	lease lease // owned by Run
}

// protocol is one way to ask a gateway.
type protocol interface {
	name() string
	// open asks for the port, or renews it; like names the outside port that is wanted, if it is free.
	open(ctx context.Context, g Gateway, port, like uint16) (lease, error)
	// close gives a lease back.
	close(ctx context.Context, l lease) error
	// probe reports whether the gateway speaks it.
	probe(ctx context.Context, g Gateway) error
}

// lease is a mapping had.
type lease struct {
	by      protocol // nil: none
	gateway Gateway
	port    uint16 // inside
	outside netip.AddrPort
	life    time.Duration
	since   time.Time
	detail  any // the protocol's own
}

// New returns a Mapper that wants no port; it starts nothing.
func New(c Config) *Mapper {
	d := dialer{c.Control}
	return &Mapper{config: c, protocols: []protocol{newPCP(d), natPMP{d}, upnp{d}}, wake: make(chan struct{}, 1)}
}

// SetPort says which UDP port of this host is to be reached; 0 for none, and then what was mapped is given back.
func (m *Mapper) SetPort(port uint16) {
	m.mu.Lock()
	same := m.port == port
	m.port = port
	m.mu.Unlock()
	if !same {
		m.Refresh()
	}
}

// Refresh asks again at once: the host's network has changed.
func (m *Mapper) Refresh() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Status returns what is mapped now.
func (m *Mapper) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	if s.Protocol != "" && !time.Now().Before(s.Until) {
		return Status{Failed: errors.New("the mapping has expired")}
	}
	return s
}

// Run keeps the mapping until ctx ends, gives it back, and returns nil.
func (m *Mapper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseFor)
			defer cancel()
			m.release(rctx)
			return nil
		case <-timer.C:
		case <-m.wake:
		}
		timer.Reset(m.keep(ctx))
	}
}

// keep makes the mapping what it is to be, and returns when to look again.
func (m *Mapper) keep(ctx context.Context) time.Duration {
	m.mu.Lock()
	port, before := m.port, m.status
	m.mu.Unlock()
	gateway, err := m.config.Gateway()
	if m.lease.by != nil && (port != m.lease.port || err != nil || gateway != m.lease.gateway) {
		rctx, cancel := context.WithTimeout(ctx, releaseFor)
		m.release(rctx) // in vain if the gateway is not ours any more
		cancel()
	}
	if port == 0 {
		m.tell(ctx, before, Status{})
		return time.Hour
	}
	if err == nil {
		err = m.ask(ctx, gateway, port)
	}
	if ctx.Err() != nil { // it was not asked to the end
		return again
	}
	if errors.Is(err, errKept) {
		return renewAgain
	}
	if err != nil {
		m.lease = lease{}
		m.tell(ctx, before, Status{Failed: err})
		return again
	}
	l := m.lease
	m.tell(ctx, before, Status{Protocol: l.by.name(), Outside: l.outside, Until: l.since.Add(l.life)})
	return l.life / 2
}

// ask tries the protocol that served last, then each.
func (m *Mapper) ask(ctx context.Context, g Gateway, port uint16) error {
	order, like := m.protocols, port
	if m.lease.by != nil {
		order, like = append([]protocol{m.lease.by}, order...), m.lease.outside.Port()
	}
	var failed error
	for i, p := range order {
		if i > 0 && m.lease.by != nil && p.name() == m.lease.by.name() {
			continue // it was first
		}
		actx, cancel := context.WithTimeout(ctx, askTime)
		l, err := p.open(actx, g, port, like)
		cancel()
		if i == 0 && m.lease.by != nil && errors.Is(err, errSilent) && time.Since(m.lease.since) < m.lease.life {
			return errKept
		}
		if err == nil && !m.config.Usable(l.outside) {
			err = fmt.Errorf("the outside address %s is none that a peer could reach", l.outside)
			m.giveBack(ctx, p, l)
		}
		if err == nil {
			l.by, l.gateway, l.port, l.since = p, g, port, time.Now()
			l.life = min(max(l.life, leastLife), life)
			m.lease = l
			return nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", p.name(), err))
	}
	return failed
}

func (m *Mapper) giveBack(ctx context.Context, p protocol, l lease) {
	rctx, cancel := context.WithTimeout(ctx, releaseFor)
	defer cancel()
	_ = p.close(rctx, l) // it ends by itself else
}

func (m *Mapper) release(ctx context.Context) {
	if m.lease.by == nil {
		return
	}
	if err := m.lease.by.close(ctx, m.lease); err != nil {
		m.config.Logger.Debug("a port mapping could not be given back", "reason", err)
	}
	m.lease = lease{}
}

// tell makes the status known, and says so when peers are concerned.
func (m *Mapper) tell(ctx context.Context, before, now Status) {
	m.mu.Lock()
	m.status = now
	m.mu.Unlock()
	if before.Outside == now.Outside {
		return
	}
	if now.Protocol != "" {
		m.config.Logger.Info("the gateway maps a port", "protocol", now.Protocol, "outside", now.Outside)
	}
	m.config.Changed(ctx)
}

// Found is whether the gateway speaks a protocol.
type Found struct {
	Protocol string
	Error    error // nil: it does
}

// Probe asks the gateway what it speaks, all at once, within 3 s.
func (m *Mapper) Probe(ctx context.Context) ([]Found, error) {
	g, err := m.config.Gateway()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	out := make([]Found, len(m.protocols))
	var tasks sync.WaitGroup
	for i, p := range m.protocols {
		tasks.Go(func() { out[i] = Found{p.name(), p.probe(ctx, g)} })
	}
	tasks.Wait()
	return out, nil
}
