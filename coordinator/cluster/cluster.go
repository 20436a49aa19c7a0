// Package cluster tells which coordinators and relays of a network are alive, as they hear it from each other.
//
// It is memberlist (SWIM with suspicion: each member asks another each second, and others about one that does not answer) with nothing
// in it but presence. Whoever holds the key may say anything of anybody, so all of this is hints: for operators to read, and for nodes
// to ask a relay that may be dead. Policy, keys and admission know nothing of it.
//
//	in   datagram or stream -> memberlist: label, key -> members.NotifyAlive: what is said of a member, read strictly -> members.note
//	out  Run: joins, again while none of the members to join is alive; says the number of clients anew; tells changes
//
// What a member says of itself, numbers big-endian:
//
//	offset  bytes
//	     0      1  version: 1
//	     1      1  role: 1 coordinator, 2 relay
//	     2      4  clients: nodes connected to its relay
//	     6      1  length of the name, n
//	     7      1  length of the version, v: at most 64
//	     8      n  name, as protocol.CheckName takes it
//	   8+n      v  version, printable ASCII
//
// The label of all datagrams and streams is the network's id, so that two networks that share a key by mistake stay apart.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// joinEvery is how often those to join are looked for while none of them is alive, and the number of clients is told anew.
	joinEvery = 10 * time.Second
	// lookUpTime bounds one look-up of names to join, and maxJoin the addresses of one name that are tried.
	lookUpTime = 5 * time.Second
	maxJoin    = 2
	// streamTime bounds a stream, and so how long joining somebody who does not answer takes.
	streamTime = 3 * time.Second
	// leaveTime bounds how long leaving may take.
	leaveTime = 2 * time.Second
	// A member that does not answer for askTime, to us nor to three others, is suspected, and gone 3 s (suspicion) later unless it denies that, or 6 s (twice as
	// much, lonely) when nobody else says so. In a ring of ten that is within 10 s of its death, most of the time within 5.
	askEvery  = time.Second
	askTime   = 800 * time.Millisecond
	suspicion = 3
	lonely    = 2
	// A member to whom many do not answer suspects itself, and asks half as often: more than that would be long where there are few.
	selfDoubt = 2
	// An address is free for another member of the name so long after the former one was gone: a relay that moves.
	reclaimAfter = 10 * time.Second
)

// Config of a Cluster.
type Config struct {
	Network string // the network's id
	Self    Meta   // without Clients
	Listen  netip.AddrPort
	Public  bool // members may have addresses that are not private
	Join    []string
	Key     Key
	// Clients is the number of nodes connected now; it is called by Run's goroutine. Nil: always 0.
	Clients func() int
	// Changed is told by Run's goroutine who has come or is gone. Nil: nobody is told.
	Changed func(Member)
	Logger  *slog.Logger

	transport memberlist.Transport // for tests; nil: UDP and TCP at Listen
}

// CheckAddress refuses an address that no member may have: one that is not a host's, and unless public is said one that is neither private nor loopback.
func CheckAddress(a netip.Addr, public bool) error {
	switch {
	case !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%v is no address of a host's own", a)
	case !public && !a.IsPrivate() && !a.IsLoopback():
		return fmt.Errorf("%v is a public address", a)
	}
	return nil
}

// Cluster is one member of a ring.
type Cluster struct {
	config  Config
	members *members
	list    *memberlist.Memberlist
	clients atomic.Uint32
}

// Open checks the configuration and takes the port, at which it answers from then on. The caller must Run it, or Close it.
func Open(c Config) (*Cluster, error) {
	c.Listen = netip.AddrPortFrom(c.Listen.Addr().Unmap(), c.Listen.Port())
	c.Self.Clients = 0
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Network == "" || len(c.Network) > memberlist.LabelMaxSize:
		return nil, errors.New("cluster: no network")
	case c.Key == (Key{}):
		return nil, errors.New("cluster: no key")
	case c.Self.check() != nil:
		return nil, fmt.Errorf("cluster: %v", c.Self.check())
	}
	if err := CheckAddress(c.Listen.Addr(), c.Public); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	x := &Cluster{config: c, members: newMembers(c.Self.id(), c.Public)}
	list, err := memberlist.Create(x.settings())
	if err != nil {
		return nil, fmt.Errorf("the cluster's address %s cannot be had: %v", c.Listen, err)
	}
	x.list = list
	return x, nil
}

// settings are memberlist's.
func (c *Cluster) settings() *memberlist.Config {
	s := memberlist.DefaultLANConfig()
	s.Name, s.Label = c.config.Self.id(), c.config.Network
	s.BindAddr, s.BindPort = c.config.Listen.Addr().String(), int(c.config.Listen.Port())
	s.AdvertiseAddr, s.AdvertisePort = s.BindAddr, s.BindPort
	s.Transport = c.config.transport
	s.SecretKey = c.config.Key[:]
	s.GossipVerifyIncoming, s.GossipVerifyOutgoing = true, true
	s.EnableCompression = false // what we say is short
	s.TCPTimeout, s.ProbeInterval, s.ProbeTimeout, s.SuspicionMult = streamTime, askEvery, askTime, suspicion
	s.SuspicionMaxTimeoutMult = lonely
	s.AwarenessMaxMultiplier, s.DeadNodeReclaimTime = selfDoubt, reclaimAfter
	s.DNSConfigPath = "" // names are looked up here, and it is given addresses
	s.Delegate, s.Alive, s.Events, s.Conflict = (*delegate)(c), c.members, c.members, c.members
	s.Logger = log.New(debug{c.config.Logger}, "", 0)
	return s
}

// debug writes memberlist's lines to the log. They name members and their addresses, and never the key.
type debug struct{ logger *slog.Logger }

// maxLine bounds what is logged of one line, in bytes: names in it may be of anybody's making.
const maxLine = 500

func (d debug) Write(b []byte) (int, error) {
	d.logger.Debug("memberlist", "says", string(bytes.TrimSpace(b[:min(len(b), maxLine)])))
	return len(b), nil
}

// Members lists the others, alive or gone, by role and name.
func (c *Cluster) Members() []Member { return c.members.list() }

// Counts returns a snapshot.
func (c *Cluster) Counts() Counts {
	c.members.mu.Lock()
	defer c.members.mu.Unlock()
	return c.members.counts
}

// Close leaves without a word.
func (c *Cluster) Close() { _ = c.list.Shutdown() }

// Run takes part until ctx ends; then it says good-bye, within seconds, and returns nil.
func (c *Cluster) Run(ctx context.Context) error {
	defer c.Close()
	tick := time.NewTicker(joinEvery)
	defer tick.Stop()
	c.join(ctx)
	var said Counts
	for {
		select {
		case <-ctx.Done():
			if err := c.list.Leave(leaveTime); err != nil {
				c.config.Logger.Debug("left the cluster without a word", "reason", err)
			}
			return nil
		case <-c.members.wake:
			for _, m := range c.members.take() {
				c.tell(m)
			}
		case <-tick.C:
			c.join(ctx)
			c.update()
			if now := c.Counts(); now != said {
				said = now
				c.config.Logger.Warn("the cluster drops what its members may not say", "hostile", now.Hostile, "full", now.Full, "conflicts", now.Conflicts,
					"foreign", now.Foreign, "changes", now.News)
			}
		}
	}
}

func (c *Cluster) tell(m Member) {
	word := "gone"
	if m.Alive {
		word = "alive"
	}
	c.config.Logger.Info("cluster", "role", m.Role.String(), "name", m.Name, "is", word, "version", m.Version)
	if c.config.Changed != nil {
		c.config.Changed(m)
	}
}

// update says the number of clients anew when it has changed.
func (c *Cluster) update() {
	if c.config.Clients == nil {
		return
	}
	n := uint32(max(0, c.config.Clients()))
	if c.clients.Swap(n) != n {
		_ = c.list.UpdateNode(leaveTime) // what is not told now is told with the next
	}
}

// join joins each member to join that is not alive. Somebody else may be there, or it may have been away for longer than the ring remembers it.
func (c *Cluster) join(ctx context.Context) {
	for _, at := range c.config.Join {
		addresses, err := lookUp(ctx, at)
		if err != nil {
			c.config.Logger.Warn("whom to join in the cluster is not known: it is tried again", "at", at, "reason", err)
			continue
		}
		if c.members.lives(addresses) {
			continue
		}
		for _, a := range addresses[:min(len(addresses), maxJoin)] {
			if ctx.Err() != nil || a == c.config.Listen {
				continue
			}
			if _, err := c.list.Join([]string{a.String()}); err != nil {
				c.config.Logger.Debug("nobody joined in the cluster: it is tried again", "at", a, "reason", err)
			}
		}
	}
}

func lookUp(ctx context.Context, at string) ([]netip.AddrPort, error) {
	host, text, err := net.SplitHostPort(at)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if err != nil || portErr != nil {
		return nil, fmt.Errorf("%q is no HOST:PORT", at)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), uint16(port))}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTime)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	out := make([]netip.AddrPort, len(found))
	for i, a := range found {
		out[i] = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	return out, err
}

// delegate is what memberlist asks of a member. Nothing travels but presence.
type delegate Cluster

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte {
	m := d.config.Self
	m.Clients = d.clients.Load()
	return m.append(nil)
}

// NotifyMsg implements memberlist.Delegate.
func (d *delegate) NotifyMsg([]byte) { d.members.foreign() }

// GetBroadcasts implements memberlist.Delegate.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState(b []byte, _ bool) {
	if len(b) > 0 {
		d.members.foreign()
	}
}
