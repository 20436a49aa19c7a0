package wgtun_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/acl"
	"picket.internal/wgtun"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/userspace"
)

// rootless is a node without privilege: a userspace stack on a tunnel over real sockets of the loopback interface.
type rootless struct {
	id     acl.NodeID
	addrs  []netip.Addr
	device key.DevicePublic
	tk     key.TunnelPrivate
	pk     key.ProbePrivate
	stack  *userspace.Stack
	tunnel *wgtun.Tunnel
}

func newRootless(t *testing.T, id acl.NodeID, addrs ...string) *rootless {
	t.Helper()
	n := &rootless{id: id, device: key.NewDevice().Public(), tk: key.NewTunnel(), pk: key.NewProbe()}
	for _, a := range addrs {
		n.addrs = append(n.addrs, netip.MustParseAddr(a))
	}
	var err error
	if n.stack, err = userspace.New(wgtun.DefaultMTU, nil); err != nil {
		t.Fatal(err)
	}
	if err := n.stack.SetAddresses(n.addrs); err != nil {
		t.Fatal(err)
	}
	n.tunnel, err = wgtun.New(wgtun.Config{TUN: n.stack.Device(), Bind: conn.NewDefaultBind(), Tunnel: n.tk, Probe: n.pk, AllowLoopback: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- n.tunnel.Run(ctx) }()
	go func() { done <- n.stack.ForwardInbound(ctx, nil) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("node %s: %v", id, err)
			}
		}
	})
	<-n.tunnel.Ready()
	return n
}

func (n *rootless) peer() wgtun.Peer {
	return wgtun.Peer{Node: n.id, Device: n.device, Tunnel: n.tk.Public(), Probe: n.pk.Public(), Addresses: n.addrs,
		Candidates: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.tunnel.Port())}}
}

// join lets a reach b on these ports, and ping it; nothing else.
func join(t *testing.T, a, b *rootless, ports ...acl.Ports) {
	t.Helper()
	ports = append(ports, acl.Ports{Proto: acl.ICMP, Last: 65535}, acl.Ports{Proto: acl.ICMPv6, Last: 65535})
	rules := &acl.Ruleset{
		Rules: []acl.Rule{{Src: acl.Set{Roles: []acl.RoleID{1}}, Dst: acl.Set{Roles: []acl.RoleID{2}}, Ports: ports}},
		Subjects: []acl.Subject{
			{Node: a.id, Addresses: a.addrs, Roles: []acl.RoleID{1}},
			{Node: b.id, Addresses: b.addrs, Roles: []acl.RoleID{2}},
		},
	}
	for n, other := range map[*rootless]*rootless{a: b, b: a} {
		s := wgtun.State{Self: n.id, Peers: []wgtun.Peer{other.peer()}, Rules: rules, NotAfter: time.Now().Add(time.Hour)}
		if _, err := n.tunnel.Apply(s); err != nil {
			t.Fatal(err)
		}
	}
}

func one(proto acl.Proto, port uint16) acl.Ports {
	return acl.Ports{Proto: proto, First: port, Last: port}
}

// TestRootlessNodes runs what two people without privilege do with each other.
func TestRootlessNodes(t *testing.T) {
	a := newRootless(t, "a", "100.64.0.1", "fd7a::1")
	b := newRootless(t, "b", "100.64.0.2", "fd7a::2")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // far longer than it takes: it bounds a hang
	defer cancel()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	echo, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := echo.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDP(buf[:n], from)
		}
	}()
	tcpPort, udpPort := netip.MustParseAddrPort(l.Addr().String()).Port(), netip.MustParseAddrPort(echo.LocalAddr().String()).Port()
	join(t, a, b, one(acl.TCP, tcpPort), one(acl.UDP, udpPort))

	for _, to := range b.addrs {
		if _, err := a.stack.Ping(ctx, to); err != nil {
			t.Errorf("an allowed ping: %v", err)
		}
		start := time.Now()
		if _, err := a.stack.Dial(ctx, "tcp", netip.AddrPortFrom(to, tcpPort+1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a refused dial: %v", err)
		}
		if _, err := b.stack.Ping(ctx, a.addrs[0]); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("a refused ping: %v", err)
		}
		refusedUDP(t, ctx, a, netip.AddrPortFrom(to, udpPort+1))
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("refusals took %v", d)
		}
		echoUDP(t, ctx, a, netip.AddrPortFrom(to, udpPort))
		c, err := a.stack.Dial(ctx, "tcp", netip.AddrPortFrom(to, tcpPort))
		if err != nil {
			t.Fatal(err)
		}
		transfer(t, c, <-accepted, 10<<20)
	}

	// A connection that stands is reset at both ends when its rule goes.
	c, err := a.stack.Dial(ctx, "tcp", netip.AddrPortFrom(b.addrs[0], tcpPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	service := <-accepted
	defer service.Close()
	_, _ = c.Write([]byte{1}) // the handshake is over at both ends once this has come through
	if _, err := io.ReadFull(service, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	join(t, a, b, one(acl.UDP, udpPort))
	for name, end := range map[string]net.Conn{"opener": c, "service": service} {
		_ = end.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the %s of a cut connection reads %v, want a reset", name, err)
		}
	}
	if _, err := a.stack.Dial(ctx, "tcp", netip.AddrPortFrom(b.addrs[0], tcpPort)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after the cut: %v", err)
	}
	join(t, a, b, one(acl.TCP, tcpPort))
	again, err := a.stack.Dial(ctx, "tcp", netip.AddrPortFrom(b.addrs[0], tcpPort))
	if err != nil {
		t.Fatalf("dial after permission came back: %v", err)
	}
	transfer(t, again, <-accepted, 1<<20)
}

// transfer sends size bytes from one end and compares what arrives.
func transfer(t *testing.T, from, to net.Conn, size int) {
	t.Helper()
	defer from.Close()
	defer to.Close()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	go func() {
		_, _ = from.Write(data)
		_ = from.(interface{ CloseWrite() error }).CloseWrite()
	}()
	h := sha256.New()
	n, err := io.Copy(h, to)
	want := sha256.Sum256(data)
	if err != nil || !bytes.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%d bytes arrived, %v; the hashes are equal: false", n, err)
	}
}

func echoUDP(t *testing.T, ctx context.Context, a *rootless, to netip.AddrPort) {
	t.Helper()
	c, err := a.stack.Dial(ctx, "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	for size := range 20 {
		msg := bytes.Repeat([]byte{byte(size)}, 100*size+1) // the larger ones in fragments
		_, _ = c.Write(msg)
		got := make([]byte, 65536)
		if n, err := c.Read(got); err != nil || !bytes.Equal(got[:n], msg) {
			t.Fatalf("%d bytes by UDP came back as %d, %v", len(msg), n, err)
		}
	}
}

func refusedUDP(t *testing.T, ctx context.Context, a *rootless, to netip.AddrPort) {
	t.Helper()
	c, err := a.stack.Dial(ctx, "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("x"))
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a refused datagram: %v", err)
	}
}
