// Package node is the agent on a machine: it joins a network, keeps the tunnel to what the coordinator's signed maps say, and stops it when
// they no longer say so.
//
// One goroutine, in Run, owns everything that changes; others hand it functions (do) and read an immutable view of the last state. Its
// tasks are the session with the coordinator, the overlay (tunnel and host network), the socket for the command line, the proxies and a
// watch on the host's network.
//
// Deadlines use the coordinator's signed time, carried on by the monotonic clock. That clock stands still while a machine sleeps on some
// systems, and so does the lease until the coordinator is heard again.
package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/dns"
	"picket.internal/node/hostnet"
	"picket.internal/node/localapi"
	"picket.internal/node/portmap"
	"picket.internal/node/proxy"
	"picket.internal/node/statefile"
	"picket.internal/wgtun/userspace"
)

// Config of a Node.
type Config struct {
	State     *statefile.Dir
	Version   string
	TUN       string       // name of the interface, or Userspace
	Port      uint16       // UDP; 0 lets the system choose
	MTU       int          // of the interface, in bytes; 0 for wgtun.DefaultMTU, AutoMTU for the most that this host's links carry
	Socket    net.Listener // for the command line; Run closes it
	SOCKS5    net.Listener // on loopback; nil for none; Run closes it
	HTTPProxy net.Listener // on loopback; nil for none; Run closes it
	// ExposedOnly has peers reach nothing but what is exposed; without an interface.
	ExposedOnly bool
	// Listeners are those of the program that this node is part of, nil for an agent. They take all inbound flows; TUN is Userspace then, and there
	// is neither socket nor proxy.
	Listeners *userspace.Listeners
	// DNS answers the host's programs; the zero one answers `picket dns query` and the proxies alone.
	DNS DNS
	// Join has it join at the start; nil waits for `picket up`.
	Join *Joining
	// Loopback tells the coordinator loopback addresses, too: for several nodes on one host.
	Loopback bool
	// PortMapping asks the default gateway to lead a port to the tunnel.
	PortMapping bool
	Logger      *slog.Logger
}

// DNS says how the host's programs are to learn of peers' names.
type DNS struct {
	Host   dns.Host       // nil for none
	Listen netip.AddrPort // the zero one for none
}

// Node is the agent.
type Node struct {
	config Config
	log    *slog.Logger
	reach  reach // how it reaches the world; replaced in tests
	calls  chan call
	view   atomic.Pointer[view]
	upTurn chan struct{} // of one: held by the Up that runs
	// capturing holds one for each Capture that runs.
	capturing chan struct{}
	tasks     sync.WaitGroup
	names     *dns.Service
	inbound   inbound
	passages  passages

	// owned by Run
	id       *identity
	clock    clock
	map_     mapState
	session  *running // nil when none
	overlay  *running // nil when none
	joining  bool     // an Up is enrolling: the overlay is opened ahead
	handover handover
	rotation rotation
	trouble  trouble
	login    *localapi.Login
	contact  contact
	mirrored mirrored
	relaying *relaying
	moves    moves
	changed  chan struct{}   // of one: the host's network has changed, or is to be looked at again
	mapper   *portmap.Mapper // nil: the gateway is asked for nothing
	timer    *time.Timer     // of the next deadline
	told     told            // to names
	blocked  bool            // an overlay that is closed may have left the host as it was
}

// mapState is the map held, what of it is used, and what is known beside it.
type mapState struct {
	held    held
	judged  judgement
	hints   map[acl.NodeID]protocol.Hint
	caught  map[acl.NodeID]bypass // nil while there is none
	inForce bool                  // the tunnel was given it
	applied uint64                // how often it was given one
	owed    time.Time             // when the map came for which a receipt is owed; zero when none is
	took    time.Duration         // from then until it was in force
}

// trouble is what stands in the way, a sentence each; empty when nothing does.
type trouble struct {
	clock   string // this host's clock cannot be trusted: no tunnel
	overlay string // the tunnel, or its place on the host, could not be made
	link    string // why the coordinator is not reached
	state   string // something could not be written to disk
	refused string // a map that was refused

	forwarding string // what this node serves is not reached
}

// contact is what is known of the connection to the coordinator.
type contact struct {
	connected bool
	last      time.Time // by this host's clock
	endpoints []netip.AddrPort
}

// running is a task that can be stopped: the overlay, or the session.
type running struct {
	overlay overlay
	session session
	stop    context.CancelFunc
	done    chan struct{} // closed when it has ended
}

// retryEvery is how often what failed is tried again, and what others may have taken away is looked at.
const retryEvery = 5 * time.Second

// New checks the configuration and reads the state directory, making keys on the first start; it starts nothing.
func New(c Config) (*Node, error) {
	if c.State == nil || (c.Socket == nil && c.Listeners == nil) || c.Logger == nil || c.TUN == "" {
		return nil, errors.New("node: a state directory, a socket, a logger and an interface are needed")
	}
	if c.Listeners != nil && (c.TUN != Userspace || c.Socket != nil || c.SOCKS5 != nil || c.HTTPProxy != nil) {
		return nil, errors.New("node: one inside a program has no interface, no socket and no proxy")
	}
	id, err := loadIdentity(c.State, c.Logger)
	if err != nil {
		return nil, err
	}
	n := &Node{
		config: c, log: c.Logger, reach: realReach(c.Logger, c.TUN), id: id, clock: newClock(0),
		calls: make(chan call), upTurn: make(chan struct{}, 1), capturing: make(chan struct{}, maxCaptures), passages: newPassages(), timer: time.NewTimer(time.Hour),
	}
	n.inbound.only = c.ExposedOnly
	for _, l := range []net.Listener{c.SOCKS5, c.HTTPProxy} { // no peer can be joined to them before there is an overlay
		if l != nil {
			n.inbound.entrances.enter(service{acl.TCP, addrPort(l.Addr()).Port()})
		}
	}
	n.relaying = n.newRelaying()
	n.changed = make(chan struct{}, 1)
	if c.PortMapping {
		n.mapper = n.newMapper()
	}
	if c.DNS.Host == nil {
		c.DNS.Host = dns.NoHost("the agent was not told to change anything")
	}
	n.names = dns.NewService(dns.Config{Host: c.DNS.Host, Listen: c.DNS.Listen, Dial: n.dialResolver, Logger: c.Logger})
	if err := n.loadMap(); err != nil {
		return nil, err
	}
	n.publish()
	return n, nil
}

// Run is the agent; it blocks until ctx ends, then takes everything back, and returns nil. It must be called once.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer n.tasks.Wait()
	n.startTasks(ctx, cancel, n.changed)
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	n.reconcile(ctx)
	n.publish()
	for {
		select {
		case <-ctx.Done():
			n.stopSession()
			n.saveFlows()
			n.stopOverlay()
			n.saveMap() // for the newest hints
			n.saveNewest()
			cause := context.Cause(ctx)
			if errors.Is(cause, context.Canceled) {
				return nil
			}
			return cause
		case c := <-n.calls:
			c.f()
			n.publish()
			close(c.done)
			continue
		case <-n.timer.C:
			n.enforce()
		case <-n.changed:
			n.hostChanged(ctx)
		case <-tick.C:
			n.tend(ctx)
		}
		n.publish()
	}
}

// startTasks starts what lives as long as the agent. A task that fails ends the agent.
func (n *Node) startTasks(ctx context.Context, fail context.CancelCauseFunc, changed chan<- struct{}) {
	start := func(run func() error) {
		n.tasks.Go(func() {
			if err := run(); err != nil {
				fail(err)
			}
		})
	}
	if l := n.config.Socket; l != nil {
		start(func() error { return localapi.Serve(ctx, l, api{n, ctx}, n.log) })
	}
	start(func() error { return n.watch(ctx, changed) })
	start(func() error { return n.relaying.set.Run(ctx) })
	if n.mapper != nil {
		start(func() error { return n.mapper.Run(ctx) })
	}
	start(func() error { return n.names.Run(ctx) })
	if j := n.config.Join; j != nil {
		start(func() error { return n.joinByItself(ctx, *j) })
	}
	if l := n.config.SOCKS5; l != nil {
		start(func() error { return proxy.NewSOCKS5(overlayNetwork{n}, n.log).Serve(ctx, l) })
	}
	if l := n.config.HTTPProxy; l != nil {
		start(func() error { return proxy.NewHTTP(overlayNetwork{n}, n.log).Serve(ctx, l) })
	}
}

// watch restarts the watch on the host's network when the kernel's notices were lost; that itself counts as a change.
func (n *Node) watch(ctx context.Context, changed chan<- struct{}) error {
	for {
		err := n.reach.watch(ctx, changed)
		if ctx.Err() != nil || err == nil {
			return nil
		}
		n.log.Warn("the watch on the host's network is started anew", "reason", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// errStopping is returned to whoever asks something of an agent that is ending.
var errStopping = errors.New("the agent is stopping")

// call is a function for Run to call.
type call struct {
	f    func()
	done chan struct{} // closed when f has returned and the view shows what it did
}

// do has Run call f and waits for it. It fails, with f not called, when ctx ends first.
func (n *Node) do(ctx context.Context, f func()) error {
	c := call{f, make(chan struct{})}
	select {
	case n.calls <- c:
		<-c.done
		return nil
	case <-ctx.Done():
		return errStopping
	}
}

// reconcile starts and stops session and overlay as the state of things asks.
func (n *Node) reconcile(ctx context.Context) {
	switch {
	case !n.wanted() && !n.joining:
		n.stopOverlay()
	case n.trouble.clock != "":
		n.suspendOverlay()
	default:
		n.startOverlay(ctx)
	}
	if n.wanted() { // asked again: opening the overlay may have shown that the admission is over
		n.startSession(ctx)
	} else {
		n.stopSession()
	}
}

// wanted reports whether this node is to be on the overlay.
func (n *Node) wanted() bool { return n.id.admitted() && n.id.node.WantUp }

// tend tries again what failed, and mends what others took away from the host.
func (n *Node) tend(ctx context.Context) {
	n.reconcile(ctx)
	if n.overlay != nil && !n.map_.held.isZero() && n.id.admitted() {
		if !n.map_.inForce || n.overdue() {
			n.enforce()
		} else {
			n.fit()
		}
		if !n.map_.owed.IsZero() {
			n.map_.took = time.Since(n.map_.owed)
		}
		n.settle(0)
	}
	n.saveNewest()
	n.mirror(ctx)
	n.noteMove(ctx, n.changed)
	n.tellEvidence()
	if !n.clock.now().Before(n.id.renew) {
		n.report(false)
	}
	_ = n.rotateDue(ctx, false) // what stands against it shows in the status, and it is tried again
}

// hostChanged reacts to new or lost addresses and routes.
func (n *Node) hostChanged(ctx context.Context) {
	n.tend(ctx)
	n.report(false)
	if n.session != nil && !n.contact.connected {
		n.session.session.Retry()
	}
}

// dialTime bounds connecting to the coordinator.
const dialTime = 10 * time.Second

// realReach reaches the real world.
func realReach(logger *slog.Logger, tun string) reach {
	client := func(j protocol.Join, c control.Config) (*control.Client, error) {
		c.Join, c.Logger, c.Proxy = j, logger, http.ProxyFromEnvironment
		if tun != Userspace { // an exit node must not be the way to the coordinator
			c.DialContext = hostnet.Dial(dialTime)
		}
		return control.New(c)
	}
	clean := hostnet.Clean
	if tun == Userspace { // nothing was changed; what is there is another agent's
		clean = func(*slog.Logger) {}
	}
	return reach{
		client: func(j protocol.Join, c control.Config) (enroller, error) { return client(j, c) },
		relay: func(ctx context.Context, j protocol.Join, c control.Config) (net.Conn, error) {
			cl, err := client(j, c)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, cl.Close)
			return cl.Relay(ctx)
		},
		session: func(c control.SessionConfig, e enroller) (session, error) {
			client, ok := e.(*control.Client)
			if !ok {
				return nil, errors.New("no client for the session")
			}
			c.Client = client
			return control.NewSession(c)
		},
		overlay: openOverlay,
		watch:   hostnet.Watch,
		routes:  hostnet.DefaultRoutes,
		boot:    bootTime,
		clean:   clean,
	}
}

// reach is how a node reaches the world.
type reach struct {
	client  func(protocol.Join, control.Config) (enroller, error)
	session func(control.SessionConfig, enroller) (session, error)
	overlay func(context.Context, overlayConfig) (overlay, error)
	relay   func(context.Context, protocol.Join, control.Config) (net.Conn, error)
	watch   func(ctx context.Context, changed chan<- struct{}) error
	// boot is which start of the host this is, "" when that cannot be told, and how long ago it was, time asleep included.
	boot   func() (string, time.Duration)
	routes func() string      // the host's default routes, in words
	clean  func(*slog.Logger) // takes back what an overlay left on the host
}
