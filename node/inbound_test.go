package node

import (
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"

	"picket.internal/acl"
	"picket.internal/node/proxy"
	"picket.internal/node/statefile"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

var somePeer = netip.MustParseAddrPort("100.64.0.2:4000")

func portOf(l net.Listener) uint16 { return addrPort(l.Addr()).Port() }

// TestUserspace_joinsNoPeerToTheProxies: in an overlay without interface inbound flows come out at loopback, where the proxies are.
func TestUserspace_joinsNoPeerToTheProxies(t *testing.T) {
	dir, err := statefile.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	free, socks5, http := listen(t), listen(t), listen(t)
	n, err := New(Config{State: dir, TUN: Userspace, Socket: newQuietListener(), SOCKS5: socks5, HTTPProxy: http, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []net.Listener{socks5, http} {
		if c, err := n.inbound.dial(t.Context(), "tcp", somePeer, portOf(l)); err == nil {
			c.Close()
			t.Errorf("a peer was joined to the proxy at %s", l.Addr())
		}
	}
	c, err := n.inbound.dial(t.Context(), "tcp", somePeer, portOf(free))
	if err != nil {
		t.Fatalf("a service: %v", err)
	}
	c.Close()
}

func TestInbound_refusesEntrances(t *testing.T) {
	var i inbound
	l := listen(t)
	for proto, network := range map[acl.Proto]string{acl.TCP: "tcp", acl.UDP: "udp"} {
		leave := i.entrances.enter(service{proto, portOf(l)})
		if c, err := i.dial(t.Context(), network, somePeer, portOf(l)); err == nil {
			c.Close()
			t.Errorf("a peer was joined to an entrance over %s", network)
		}
		leave()
		c, err := i.dial(t.Context(), network, somePeer, portOf(l))
		if err != nil {
			t.Errorf("%s, after the entrance was closed: %v", network, err)
			continue
		}
		c.Close()
	}
}

// TestInbound_refusesEntranceOpenedMeanwhile: a forward that takes a port between the look at it and the connection.
func TestInbound_refusesEntranceOpenedMeanwhile(t *testing.T) {
	var i inbound
	l := listen(t)
	i.dialer.Control = func(string, string, syscall.RawConn) error {
		i.entrances.enter(service{acl.TCP, portOf(l)})
		return nil
	}
	if c, err := i.dial(t.Context(), "tcp", somePeer, portOf(l)); err == nil {
		c.Close()
		t.Error("a peer was joined to an entrance")
	}
}

// TestInbound_notesPeersSockets: what a peer sends must be known for his by whoever leads datagrams into the overlay.
func TestInbound_notesPeersSockets(t *testing.T) {
	var i inbound
	c, err := i.dial(t.Context(), "udp", somePeer, 9)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !i.entrances.fromPeer(addrPort(c.LocalAddr())) {
		t.Error("the socket's address is not noted")
	}
	x := exposure{to: service{acl.UDP, 9}, opened: func(_, _ netip.AddrPort, _ error) {}, ended: func(netip.AddrPort, proxy.Bytes, error) {}}
	if _, err := i.expose(service{acl.UDP, 80}, &x); err != nil {
		t.Fatal(err)
	}
	e, err := i.dial(t.Context(), "udp", somePeer, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.RemoteAddr().String() != "127.0.0.1:9" || !i.entrances.fromPeer(addrPort(e.LocalAddr())) {
		t.Errorf("the socket of what is exposed leads to %s, or is not noted", e.RemoteAddr())
	}
}
