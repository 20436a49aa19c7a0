package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
	"picket.internal/node/statefile"
	"picket.internal/wgtun"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/userspace"
)

// newProgram is a world whose node is part of a program, joined but without a map.
func newProgram(t *testing.T) (*world, Program) {
	w := newWorld(t)
	w.listeners = userspace.NewListeners(nil)
	w.join()
	return w, w.node.Program(w.run)
}

// TestNew_insideAProgram: one that had proxies or an interface would lead into the overlay past the program.
func TestNew_insideAProgram(t *testing.T) {
	dir, err := statefile.Open(t.TempDir() + "/state")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	inside := Config{State: dir, TUN: Userspace, Listeners: userspace.NewListeners(nil), Logger: slog.New(slog.DiscardHandler)}
	for name, spoil := range map[string]func(*Config){
		"an interface": func(c *Config) { c.TUN = "picket0" }, "a socket": func(c *Config) { c.Socket = newQuietListener() },
		"a SOCKS5 proxy": func(c *Config) { c.SOCKS5 = newQuietListener() }, "an HTTP proxy": func(c *Config) { c.HTTPProxy = newQuietListener() },
		"neither socket nor listeners": func(c *Config) { c.Listeners = nil },
	} {
		c := inside
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("a node with %s was made", name)
		}
	}
	if _, err := New(inside); err != nil {
		t.Error(err)
	}
}

// TestWhoIs names peers of the map in force, and nobody else.
func TestWhoIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := newProgram(t)
		is := func(when, addr, want string) {
			t.Helper()
			peer, err := p.WhoIs(netip.AddrPortFrom(netip.MustParseAddr(addr), 0))
			if (err == nil) != (want != "") || peer.Name != want {
				t.Errorf("%s: %s is %q (%v), want %q", when, addr, peer.Name, err, want)
			}
		}
		is("before there is a map", "100.64.0.2", "")
		a, b := newPeer("a", "100.64.0.2").entry(), newPeer("b", "100.64.0.3").entry()
		b.Routes = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}
		w.send(w.signed(5, content(a, b)))
		is("with a map", "100.64.0.2", "a")
		is("mapped into IPv6", "::ffff:100.64.0.3", "b")
		is("nobody's", "100.64.0.4", "")
		is("its own", "100.64.0.1", "")
		if _, err := p.WhoIs(netip.MustParseAddrPort("10.9.0.7:4000")); err == nil || !strings.Contains(err.Error(), "behind the peer b") {
			t.Errorf("behind a router: %v", err)
		}
		w.send(w.signed(6, content(newPeer("a", "100.64.0.2").entry(), b)))
		is("with another device key", "100.64.0.2", "")
		w.send(w.signed(7, content(b)))
		is("taken out of the map", "100.64.0.2", "")
		is("still in the map", "100.64.0.3", "b")
		e, err := content(b).Encode()
		if err != nil {
			t.Fatal(err)
		}
		w.send(w.sign(w.key, protocol.Header{Network: testNetwork, Node: selfID, Generation: 8, NotAfter: time.Now().Add(time.Minute)}, e))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		is("after the lease", "100.64.0.3", "")
		if s := p.Problem(); !strings.Contains(s, "lease") {
			t.Errorf("what stands against it: %q", s)
		}
	})
}

// TestWhoIs_addressChangesHands: what one node has sent is never taken for another's, who has its address now.
func TestWhoIs_addressChangesHands(t *testing.T) {
	listeners := userspace.NewListeners(nil)
	at, err := listeners.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	server := openTest(t, "b", "100.64.0.2", listeners)
	first, next := openTest(t, "a", "100.64.0.1", userspace.NewListeners(nil)), openTest(t, "c", "100.64.0.1", userspace.NewListeners(nil))
	meet(t, first, server)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := first.Dial(ctx, netip.MustParseAddrPort("100.64.0.2:80"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	near, err := at.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	n := &Node{config: Config{Listeners: listeners}}
	publish := func(node acl.NodeID) {
		peer := protocol.Peer{Name: string(node), Subject: acl.Subject{Node: node, Addresses: addrs("100.64.0.1")}}
		n.view.Store(&view{state: localapi.StateRunning, overlay: server, held: held{content: protocol.Content{Peers: []protocol.Peer{peer}}}})
	}
	from := addrPort(near.RemoteAddr())
	is := func(when string, at netip.AddrPort, want string) {
		t.Helper()
		peer, err := n.Program(ctx).WhoIs(at)
		if (err == nil) != (want != "") || peer.Name != want {
			t.Errorf("%s: %s is %q (%v), want %q", when, at, peer.Name, err, want)
		}
	}
	publish("a")
	is("at first", from, "a")
	meet(t, next, server)
	is("while the filter is ahead of what is published", from, "")
	publish("c")
	is("while a's connection is not closed", from, "")
	is("the address alone", netip.AddrPortFrom(from.Addr(), 0), "c")
	is("another port", netip.AddrPortFrom(from.Addr(), from.Port()^1), "c")
	near.Close()
	is("when it is", from, "c")
}

// TestProgramDials reaches peers only, by name or address, and says what the policy refuses.
func TestProgramDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := newProgram(t)
		if _, err := p.Dial(t.Context(), "tcp", "a:22"); err == nil {
			t.Error("dialled without a map")
		}
		peer := newPeer("a", "100.64.0.2").entry()
		peer.Addresses = addrs("100.64.0.2", "fd7a::2")
		c := content(peer)
		c.Network.Domain = "corp.internal"
		c.Self.Addresses = addrs("100.64.0.1", "fd7a::1")
		c.Network.Overlay = append(c.Network.Overlay, netip.MustParsePrefix("fd7a::/64"))
		c.Rules[0].Ports = append(c.Rules[0].Ports, acl.Ports{Proto: acl.UDP, First: 53, Last: 53})
		w.send(w.signed(5, c))
		for _, d := range []struct{ network, address, want string }{
			{"tcp", "a:22", "a port 22: connection refused"}, // the overlay's own answer, here and below
			{"tcp", "A.Corp.Internal:22", "port 22: connection refused"},
			{"tcp", "100.64.0.2:22", "port 22: connection refused"},
			{"tcp6", "a:22", "a port 22: connection refused"},
			{"udp", "a:53", "a port 53: connection refused"},
			{"tcp", "a:53", "refused by the policy"},
			{"udp", "a:22", "refused by the policy"},
			{"tcp4", "[fd7a::2]:22", "no IPv4 address"},
			{"tcp6", "nobody:22", "no peer is called"},
			{"tcp", "me:22", "that is this node itself"},
			{"tcp", "100.64.0.1:22", "that is this node itself"},
			{"tcp", "127.0.0.1:22", "no peer has the address"},
			{"tcp", "localhost:22", "no peer is called"},
			{"tcp", "a", "is not PEER:PORT"},
			{"tcp", ":22", "is not PEER:PORT"},
			{"tcp", "a:ssh", "is no port"},
			{"tcp", "a:0", "is no port"},
			{"tcp5", "a:22", "unknown network"},
			{"unix", "/tmp/x", "unknown network"},
			{"", "a:22", "unknown network"},
		} {
			c, err := p.Dial(t.Context(), d.network, d.address)
			if err == nil {
				c.Close()
			}
			if err == nil || !strings.Contains(err.Error(), d.want) || strings.Contains(err.Error(), "picket ") || errors.Is(err, syscall.EACCES) != (d.want == "refused by the policy") {
				t.Errorf("Dial(%q, %q): %v, want %q", d.network, d.address, err, d.want)
			}
		}
	})
}

// TestProgramIsTold what a program can do, where an agent's user is told of commands.
func TestProgramIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := newProgram(t)
		w.send(w.signed(5, content()))
		for _, u := range []localapi.Up{{Coordinator: "https://other.example:8443"}, {Coordinator: testURL + "#" + key.NewCoordinator().Public().Fingerprint().String()}} {
			if err := p.Up(t.Context(), u, func(localapi.UpEvent) {}); err == nil || strings.Contains(err.Error(), "picket logout") || !strings.Contains(err.Error(), "another state directory") {
				t.Errorf("%+v: %v", u, err)
			}
		}
		if s := p.Problem(); s != "" || !p.Admitted() {
			t.Errorf("admitted %v, %q", p.Admitted(), s)
		}
		_ = w.node.do(w.run, func() { w.node.end(endRemoved) })
		if s := p.Problem(); !strings.Contains(s, "start the program anew") || p.Admitted() {
			t.Errorf("removed: admitted %v, %q", p.Admitted(), s)
		}
	})
}

// TestUserspace_insideAProgram: inbound flows come to the listeners; none comes out at this host's loopback.
func TestUserspace_insideAProgram(t *testing.T) {
	service, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	reached := make(chan struct{})
	go func() {
		if c, err := service.Accept(); err == nil {
			c.Close()
			close(reached)
		}
	}()
	listeners := userspace.NewListeners(nil)
	at, err := listeners.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	server := openTest(t, "b", "100.64.0.2", listeners)
	client := openTest(t, "a", "100.64.0.1", userspace.NewListeners(nil))
	meet(t, client, server)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, netip.AddrPortFrom(netip.MustParseAddr("100.64.0.2"), 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	near, err := at.Accept()
	if err != nil || near.RemoteAddr().String() != c.LocalAddr().String() {
		t.Fatalf("%v, %v", near, err)
	}
	near.Close()
	port := service.Addr().(*net.TCPAddr).AddrPort().Port()
	if _, err := client.Dial(ctx, netip.AddrPortFrom(netip.MustParseAddr("100.64.0.2"), port)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a service of the host: %v, want a refusal", err)
	}
	select {
	case <-reached:
		t.Error("a peer came to a service of the host")
	default:
	}
}

// testOverlay is an overlay over real sockets of the loopback interface.
type testOverlay struct {
	*userspaceOverlay
	id     acl.NodeID
	addr   netip.Addr
	device key.DevicePublic
	tunnel key.TunnelPrivate
	probe  key.ProbePrivate
}

func openTest(t *testing.T, id acl.NodeID, addr string, l *userspace.Listeners) testOverlay {
	t.Helper()
	o := testOverlay{id: id, addr: netip.MustParseAddr(addr), device: key.NewDevice().Public(), tunnel: key.NewTunnel(), probe: key.NewProbe()}
	opened, err := openUserspace(overlayConfig{
		name: Userspace, tunnel: o.tunnel, probe: o.probe, loopback: true, listeners: l, logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	o.userspaceOverlay = opened.(*userspaceOverlay)
	if err := o.stack.SetAddresses([]netip.Addr{o.addr}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-o.Ready()
	return o
}

// meet lets a reach every TCP port of b.
func meet(t *testing.T, a, b testOverlay) {
	t.Helper()
	rules := &acl.Ruleset{
		Rules: []acl.Rule{{Src: acl.Set{Roles: []acl.RoleID{1}}, Dst: acl.Set{Roles: []acl.RoleID{2}}, Ports: []acl.Ports{{Proto: acl.TCP, Last: 65535}}}},
		Subjects: []acl.Subject{
			{Node: a.id, Addresses: []netip.Addr{a.addr}, Roles: []acl.RoleID{1}}, {Node: b.id, Addresses: []netip.Addr{b.addr}, Roles: []acl.RoleID{2}},
		},
	}
	for _, ends := range [][2]testOverlay{{a, b}, {b, a}} {
		own, far := ends[0], ends[1]
		peer := wgtun.Peer{Node: far.id, Device: far.device, Tunnel: far.tunnel.Public(), Probe: far.probe.Public(), Addresses: []netip.Addr{far.addr},
			Candidates: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), far.Port())}}
		_, err := own.Apply(wgtun.State{Generation: 1, Self: own.id, Peers: []wgtun.Peer{peer}, Rules: rules, NotAfter: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
	}
}
