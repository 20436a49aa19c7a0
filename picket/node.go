package picket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/node"
	"picket.internal/node/localapi"
	"picket.internal/wgtun/userspace"
)

// Node is a program's place in a network. It is safe for concurrent use.
type Node struct {
	program    node.Program
	listeners  *userspace.Listeners
	stop       context.CancelFunc
	done       chan struct{} // closed when nothing runs any more
	failed     error         // why it ended by itself; set before done is closed
	closeState func() error
}

// Start brings a node up: it joins the network when it has not, by auth key or by a person, and returns once packets may pass. ctx bounds that
// alone; the node goes on until Close. While the coordinator is away, a node that has joined starts with the map it has, within its lease.
func Start(ctx context.Context, c Config) (*Node, error) {
	n, err := start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("picket: %w", err)
	}
	return n, nil
}

func start(ctx context.Context, c Config) (*Node, error) {
	if node.CheckPort(ctx, c.Port) != nil {
		return nil, fmt.Errorf("the UDP port %d is taken by another program: give another Config.Port, or 0 to let the system choose", c.Port)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	state, err := c.openState()
	if err != nil {
		return nil, err
	}
	n := &Node{closeState: sync.OnceValue(state.Close), done: make(chan struct{})}
	n.listeners = userspace.NewListeners(func(a netip.Addr) bool { return slices.Contains(n.Addresses(), a) })
	agent, err := node.New(node.Config{State: state, Version: version(), TUN: node.Userspace, Port: c.Port, Listeners: n.listeners, Logger: c.Logger})
	if err != nil {
		return nil, errors.Join(err, state.Close())
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.program, n.stop = agent.Program(run), stop
	go func() {
		defer close(n.done)
		n.failed = agent.Run(run)
		n.listeners.Close()
	}()
	if err := n.join(ctx, c); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// join returns when the node is up.
func (n *Node) join(ctx context.Context, c Config) error {
	if err := c.joinable(n.program.Coordinator() != ""); err != nil && !n.program.Admitted() {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // a node that ends answers nobody
		select {
		case <-n.done:
			cancel(net.ErrClosed)
		case <-ctx.Done():
		}
	}()
	waiting := "nothing was heard of the coordinator"
	err := n.program.Up(ctx, c.up(), func(e localapi.UpEvent) {
		switch {
		case e.Login != nil && c.OnLogin == nil:
			cancel(errNobodyToAsk)
		case e.Login != nil:
			c.OnLogin(e.Login.URL, e.Login.Code)
			waiting = "nobody has let the node in yet"
		case e.Note != "":
			c.Logger.Info(e.Note)
			waiting = e.Note
		}
	})
	if gone := n.gone(); gone != nil {
		return gone
	}
	switch cause := context.Cause(ctx); {
	case err == nil || cause == nil:
		return err
	case errors.Is(cause, errNobodyToAsk):
		return cause
	default:
		return fmt.Errorf("%w: %s", cause, waiting)
	}
}

// errNobodyToAsk ends a Start whose auth key the coordinator did not take for an admission.
var errNobodyToAsk = errors.New("a person must let this node in: give Config.OnLogin")

// gone is why there is no node any more; nil while there is one.
func (n *Node) gone() error {
	select {
	case <-n.done:
	default:
		return nil
	}
	if n.failed != nil {
		return fmt.Errorf("the node ended: %w", n.failed)
	}
	return fmt.Errorf("the node is closed: %w", net.ErrClosed)
}

// Close ends the node and all its listeners and connections, and waits until nothing of it runs. It stays a member of its network: the next Start
// with the same Dir is the same node.
func (n *Node) Close() error {
	n.stop()
	<-n.done
	return n.closeState()
}

// Err is nil while packets may pass, and says otherwise what stands against it and what to do: the login has ended, say, or the coordinator was
// away for longer than the lease. Listeners stay, and work again when that is over.
func (n *Node) Err() error {
	if err := n.gone(); err != nil {
		return err
	}
	if problem := n.program.Problem(); problem != "" {
		return errors.New(problem)
	}
	return nil
}

// Addresses are this node's on the overlay.
func (n *Node) Addresses() []netip.Addr { return n.program.Addresses() }

// Listen takes TCP connections from peers that the policy lets in. network is "tcp", "tcp4" or "tcp6"; address is HOST:PORT. A HOST that is empty,
// 0.0.0.0 or :: means every overlay address (of one IP version with "tcp4" and "tcp6"); an overlay address of this node means that one; nothing
// of the host is ever listened at. Port 0 takes a free one.
//
// At most 128 connections wait for Accept and 1,024 are open for the whole node, fairly shared among peers: beyond that they are refused.
// RemoteAddr is the peer's overlay address. What the policy allows no longer is reset.
func (n *Node) Listen(network, address string) (net.Listener, error) {
	return n.listeners.Listen(network, address)
}

// ListenPacket is Listen for datagrams: "udp", "udp4" or "udp6". At most 256 wait for ReadFrom, fairly shared among peers; beyond that they are lost.
// WriteTo takes the *net.UDPAddr of a peer.
func (n *Node) ListenPacket(network, address string) (net.PacketConn, error) {
	return n.listeners.ListenPacket(network, address)
}

// Dial opens a connection to a peer. network is "tcp" or "udp", with 4 or 6 behind it for one IP version; address is HOST:PORT, with a HOST that is a
// peer's name, short or whole, or its overlay address. Nothing else is resolved or dialled. It takes at most 30 seconds. What the policy refuses
// is an error that matches syscall.EACCES and says why; a peer on which nothing listens matches syscall.ECONNREFUSED. It fits the DialContext
// of an http.Transport.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	err := n.gone()
	var c net.Conn
	if err == nil {
		c, err = n.program.Dial(ctx, network, address)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s %.80s: %w", network, address, err)
	}
	return c, nil
}

// Caller is a peer, as the network's coordinator vouches for it by a signed map.
type Caller struct {
	Node      string       // its id, which no other node ever has
	Name      string       // as people call it; an operator may change it, and another node may have it later
	User      string       // the login of the person whose node it is; empty when it has tags
	UserID    string       // that person's id, which no other person ever has; empty when it has tags
	Tags      []string     // such as "tag:db"
	Postures  []string     // such as "posture:latestMac": those that its device meets and by which rules of the policy let it in here; sorted
	OS        string       // as the node says itself
	Addresses []netip.Addr // on the overlay
	Expires   time.Time    // when its admission ends, and every flow with it; zero for never
}

// WhoIs names who is at the other end: remote is the RemoteAddr of a connection or of an http.Request, HOST:PORT, or an overlay address alone. It
// goes by the map in force, and fails for whoever that does not name: when somebody was removed, when no map is in force, when the address is the
// node's own, and when it has gone to another node since an accepted connection from HOST:PORT, not closed yet, was opened. It fails for addresses behind a subnet router, too, since nobody vouches for who is there.
func (n *Node) WhoIs(remote string) (Caller, error) {
	c, err := n.whoIs(remote)
	if err != nil {
		return Caller{}, fmt.Errorf("who is %.80s: %w", remote, err)
	}
	return c, nil
}

func (n *Node) whoIs(remote string) (Caller, error) {
	if err := n.gone(); err != nil {
		return Caller{}, err
	}
	at, err := netip.ParseAddrPort(remote)
	if addr, addrErr := netip.ParseAddr(remote); addrErr == nil {
		at, err = netip.AddrPortFrom(addr, 0), nil
	}
	if err != nil {
		return Caller{}, errors.New("that is neither an address nor HOST:PORT with one")
	}
	p, err := n.program.WhoIs(at)
	if err != nil {
		return Caller{}, err
	}
	return Caller{
		Node: string(p.Node), Name: p.Name, User: p.Login, UserID: string(p.Owner), Tags: slices.Clone(p.Tags), Postures: slices.Clone(p.Postures), OS: protocol.Printable(p.OS),
		Addresses: slices.Clone(p.Addresses), Expires: p.Expires,
	}, nil
}
