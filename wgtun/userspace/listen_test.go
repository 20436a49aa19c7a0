package userspace

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// serving has b's listeners served until the test ends.
func serving(t *testing.T, b *Stack) *Listeners {
	t.Helper()
	l := NewListeners(func(a netip.Addr) bool { return slices.Contains([]netip.Addr{b4, b6}, a) })
	t.Cleanup(serveUntil(t, b, l))
	return l
}

// holder has each address be its own.
func holder(a netip.Addr) string { return a.String() }

func serveUntil(t *testing.T, b *Stack, l *Listeners) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, l, holder) }()
	for b.inbound.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

func listenTCP(t *testing.T, l *Listeners, network, address string) net.Listener {
	t.Helper()
	at, err := l.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { at.Close() })
	return at
}

func dialTo(t *testing.T, from *Stack, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := from.Dial(within(t), network, to)
	if err != nil {
		t.Fatalf("dial %s %s: %v", network, to, err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestListenRefuses(t *testing.T) {
	l := NewListeners(func(a netip.Addr) bool { return a == b4 })
	if _, err := l.Listen("tcp4", ":80"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ network, address string }{
		{"unix", ":80"}, {"udp", ":81"}, {"tcp5", ":81"}, {"tcp", "81"}, {"tcp", ":http"}, {"tcp", ":65536"}, {"tcp", ":-1"}, {"tcp", "localhost:81"},
		{"tcp", "127.0.0.1:81"}, {"tcp", "192.0.2.1:81"}, {"tcp6", "0.0.0.0:81"}, {"tcp6", b4.String() + ":81"}, {"tcp", "[fe80::1%eth0]:81"},
	} {
		if at, err := l.Listen(c.network, c.address); err == nil {
			t.Errorf("Listen(%q, %q) is %s", c.network, c.address, at.Addr())
		}
	}
	for _, c := range []struct {
		network, address string
		taken            bool
	}{
		{"tcp", ":80", true}, {"tcp", "[::]:80", true}, {"tcp4", "0.0.0.0:80", true}, {"tcp", b4.String() + ":80", true}, {"tcp6", ":80", false}, {"tcp", ":81", false},
	} {
		at, err := l.Listen(c.network, c.address)
		if taken := errors.Is(err, syscall.EADDRINUSE); taken != c.taken || (err == nil) == c.taken {
			t.Errorf("Listen(%q, %q): %v", c.network, c.address, err)
		}
		if err == nil {
			at.Close()
		}
	}
	l.Close()
	if _, err := l.Listen("tcp", ":82"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestListenBothFamilies(t *testing.T) {
	a, b, _ := newPair(t)
	l := serving(t, b)
	at := listenTCP(t, l, "tcp", ":0")
	port := uint16(at.Addr().(*net.TCPAddr).Port)
	for from, to := range map[netip.Addr]netip.Addr{a4: b4, a6: b6} {
		far := dialTo(t, a, "tcp", netip.AddrPortFrom(to, port))
		near, err := at.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if near.RemoteAddr().String() != far.LocalAddr().String() || near.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() != from {
			t.Errorf("the caller is %s, and %s by itself", near.RemoteAddr(), far.LocalAddr())
		}
		if near.LocalAddr().String() != netip.AddrPortFrom(to, port).String() {
			t.Errorf("it was called at %s, want %s", near.LocalAddr(), to)
		}
		_, _ = far.Write([]byte("hello"))
		_ = far.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(near); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		_, _ = near.Write([]byte("goodbye"))
		near.Close()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		if got, err := io.ReadAll(far); err != nil || string(got) != "goodbye" {
			t.Errorf("what was written before Close: %q, %v", got, err)
		}
	}
}

func TestListenOneVersionOrAddress(t *testing.T) {
	a, b, _ := newPair(t)
	l := serving(t, b)
	for _, c := range []struct {
		network, host string
		takes         netip.Addr
		refuses       netip.Addr
	}{{"tcp4", "", b4, b6}, {"tcp6", "", b6, b4}, {"tcp", b6.String(), b6, b4}} {
		at := listenTCP(t, l, c.network, net.JoinHostPort(c.host, "80"))
		dialTo(t, a, "tcp", netip.AddrPortFrom(c.takes, 80))
		if _, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(c.refuses, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s %s at %s: %v", c.network, c.host, c.refuses, err)
		}
		at.Close()
	}
}

// A program's listeners are all that there is: not what listens on this host, at the same port or another.
func TestServeReachesNothingOfTheHost(t *testing.T) {
	a, b, _ := newPair(t)
	serving(t, b)
	reached := make(chan struct{}, 1)
	port := serve(t, func(c net.Conn) {
		reached <- struct{}{}
		c.Close()
	})
	host, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for _, to := range []netip.Addr{b4, b6} {
		if _, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(to, port)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("tcp to %s: %v, want a refusal", to, err)
		}
		c := dialTo(t, a, "udp", netip.AddrPortFrom(to, host.LocalAddr().(*net.UDPAddr).AddrPort().Port()))
		_, _ = c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("udp to %s: %v, want a refusal", to, err)
		}
	}
	_ = host.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, _, err := host.ReadFrom(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the host's own UDP port: %v", err)
	}
	select {
	case <-reached:
		t.Error("a peer came to a service of this host")
	default:
	}
}

// One peer may neither begin, nor leave waiting, nor hold so many connections that others are shut out.
func TestOnePeersConnectionsLeaveRoomForOthers(t *testing.T) {
	b := newStack(t, b4)
	t.Cleanup(func() { b.Device().Close() })
	l := serving(t, b)
	listenTCP(t, l, "tcp", ":80")
	to := netip.AddrPortFrom(b4, 80)
	for i := range 4 * maxTCPHandshakes {
		b.Device().Write([][]byte{rawSYN(netip.AddrPortFrom(a4, uint16(1000+i)), to)}, 0)
		if i%16 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	b.Device().Write([][]byte{rawSYN(netip.AddrPortFrom(c4, 1000), to)}, 0)
	if !answered(t, b) {
		t.Error("another peer's handshake was not answered")
	}
}

func TestBacklogIsShared(t *testing.T) {
	a, b, _ := newPair(t)
	l := serving(t, b)
	at := listenTCP(t, l, "tcp", ":80").(*listener)
	to := netip.AddrPortFrom(b4, 80)
	for i := range maxBacklog / 2 {
		if c, err := a.Dial(within(t), "tcp", to); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		} else {
			defer c.Close()
		}
	}
	if _, err := a.Dial(within(t), "tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("beyond its share: %v, want a refusal", err)
	}
	dialTo(t, a, "tcp", netip.AddrPortFrom(b6, 80)) // as a6, which stands for another peer
	for range 2 {                                   // one for the share, and one because the other peer has less left
		c, err := at.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	dialTo(t, a, "tcp", to)
	at.Close()
	given := func() bool {
		at.mu.Lock()
		defer at.mu.Unlock()
		return at.waiting.used == 0 && len(at.waiting.held) == 0
	}
	eventually(t, "every part of the backlog is given back", given) // the last handshake may be going on
}

// What a program holds open counts until it closes it, and no longer.
func TestOpenConnectionsAreCounted(t *testing.T) {
	a, b, _ := newPair(t)
	l := serving(t, b)
	at := listenTCP(t, l, "tcp", ":80")
	dialTo(t, a, "tcp", netip.AddrPortFrom(b4, 80))
	near, err := at.Accept()
	if err != nil {
		t.Fatal(err)
	}
	held := func() int {
		f := b.inbound.Load()
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.open.used
	}
	if held() != 1 {
		t.Errorf("%d open connections, want 1", held())
	}
	from := addrPortOf(near.RemoteAddr())
	if got := l.Callers(from); !slices.Equal(got, []string{a4.String()}) {
		t.Errorf("the callers are %v", got)
	}
	near.Close()
	eventually(t, "a connection that was closed counts no longer", func() bool { return held() == 0 })
	if len(l.callers) > 0 {
		t.Error("its caller is still noted")
	}
}

func addrPortOf(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for ctx := within(t); !is(); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// One peer may hold half of all connections, however long, and no more.
func TestOnePeersOpenConnectionsLeaveRoomForOthers(t *testing.T) {
	a, b, _ := newPair(t)
	l := serving(t, b)
	at := listenTCP(t, l, "tcp", ":80")
	go func() {
		for {
			c, err := at.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	to := netip.AddrPortFrom(b4, 80)
	for range maxTCPConnections / 2 {
		c, err := a.Dial(within(t), "tcp", to)
		for ; errors.Is(err, syscall.ECONNREFUSED); c, err = a.Dial(within(t), "tcp", to) {
			time.Sleep(time.Millisecond) // Accept is behind
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := a.Dial(within(t), "tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("beyond its share: %v, want a refusal", err)
	}
	dialTo(t, a, "tcp", netip.AddrPortFrom(b6, 80)) // as a6, which stands for another peer
}

// Who vanished without a word does not hold its place for good.
func TestAVanishedPeerIsNoticed(t *testing.T) {
	a, b, c := newPair(t)
	l := serving(t, b)
	at := listenTCP(t, l, "tcp", ":80")
	dialTo(t, a, "tcp", netip.AddrPortFrom(b4, 80))
	near, err := at.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	ep := near.(*tcpConn).ep
	eventually(t, "it asks whether the peer is there", ep.SocketOptions().GetKeepAlive)
	var idle tcpip.KeepaliveIdleOption
	if err := ep.GetSockOpt(&idle); err != nil || time.Duration(idle) != keepaliveIdle {
		t.Errorf("after %v, %v; want %v", time.Duration(idle), err, keepaliveIdle)
	}
	c.mu.Lock()
	c.onWire = func([]byte) ([]byte, bool) { return nil, false }
	c.mu.Unlock()
	short, interval := tcpip.KeepaliveIdleOption(10*time.Millisecond), tcpip.KeepaliveIntervalOption(10*time.Millisecond)
	_, _ = ep.SetSockOpt(&interval), ep.SetSockOpt(&short)
	_ = near.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("after the peer has vanished: %v, want a timeout of the connection", err)
	}
}

func TestListenerCloses(t *testing.T) {
	a, b, _ := newPair(t)
	l := serving(t, b)
	at := listenTCP(t, l, "tcp", ":80")
	first := dialTo(t, a, "tcp", netip.AddrPortFrom(b4, 80))
	near, err := at.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	pending := dialTo(t, a, "tcp", netip.AddrPortFrom(b4, 80))
	eventually(t, "it waits for Accept", func() bool { return len(at.(*listener).queue) == 1 })
	at.Close()
	if _, err := at.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if _, err := pending.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("what nobody accepted reads as %v, want a reset", err)
	}
	if _, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(b4, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want a refusal", err)
	}
	_, _ = near.Write([]byte("x"))
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Errorf("what was accepted before: %v", err)
	}
	again := make(chan error, 1)
	at = listenTCP(t, l, "tcp", ":80")
	go func() {
		_, err := at.Accept()
		again <- err
	}()
	l.Close()
	if err := <-again; !errors.Is(err, net.ErrClosed) {
		t.Errorf("an Accept that waited: %v", err)
	}
}

// Listeners stay when the stack goes, and what it carried is reset.
func TestListenersOutliveAStack(t *testing.T) {
	l := NewListeners(nil)
	defer l.Close()
	at := listenTCP(t, l, "tcp", ":80")
	packets, err := l.ListenPacket("udp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := packets.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a4, 9))); !errors.Is(err, syscall.ENETDOWN) {
		t.Errorf("WriteTo without a stack: %v", err)
	}
	for range 2 {
		a, b, _ := newPair(t)
		end := serveUntil(t, b, l)
		far := dialTo(t, a, "tcp", netip.AddrPortFrom(b4, 80))
		near, err := at.Accept()
		if err != nil {
			t.Fatal(err)
		}
		echo(t, a, packets)
		end()
		for _, c := range []net.Conn{near, far} {
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNABORTED) {
				t.Errorf("after the stack's end: %v", err)
			}
		}
	}
}

// echo sends a datagram from a to packets at port 80 of b, and one back.
func echo(t *testing.T, a *Stack, packets net.PacketConn) {
	t.Helper()
	for _, size := range []int{0, 5, 3000} { // the last in fragments
		for to, from := range map[netip.Addr]netip.Addr{b4: a4, b6: a6} {
			far := dialTo(t, a, "udp", netip.AddrPortFrom(to, 80))
			if _, err := far.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			_ = packets.SetReadDeadline(time.Now().Add(20 * time.Second))
			b := make([]byte, maxDatagram)
			n, caller, err := packets.ReadFrom(b)
			if err != nil || n != size || caller.String() != far.LocalAddr().String() || caller.(*net.UDPAddr).AddrPort().Addr() != from {
				t.Fatalf("%d bytes from %v, %v; want %d from %v", n, caller, err, size, far.LocalAddr())
			}
			if _, err := packets.WriteTo(append(b[:n], 1), caller); err != nil {
				t.Fatal(err)
			}
			if n, err := far.Read(b); err != nil || n != size+1 {
				t.Errorf("the answer: %d bytes, %v", n, err)
			}
		}
	}
}

func TestPacketConn(t *testing.T) {
	a, b, _ := newPair(t)
	l := serving(t, b)
	packets, err := l.ListenPacket("udp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, a, packets)
	for _, to := range []net.Addr{
		&net.TCPAddr{IP: a4.AsSlice(), Port: 1}, &net.UDPAddr{Port: 1}, &net.UDPAddr{IP: a4.AsSlice()}, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 1), Port: 1},
		&net.UDPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1},
	} {
		if _, err := packets.WriteTo([]byte("x"), to); err == nil {
			t.Errorf("a datagram to %s was sent", to)
		}
	}
	if _, err := packets.WriteTo(make([]byte, maxPayload+1), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a4, 9))); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a datagram that is too long: %v", err)
	}
	_ = packets.SetReadDeadline(time.Time{})
	ended := make(chan error, 1)
	read := func() {
		_, _, err := packets.ReadFrom(make([]byte, 1))
		ended <- err
	}
	go read()
	_ = packets.SetReadDeadline(time.Unix(1, 0))
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	_ = packets.SetReadDeadline(time.Time{})
	go read()
	packets.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	c := dialTo(t, a, "udp", netip.AddrPortFrom(b4, 80))
	_, _ = c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a datagram to a closed port: %v, want a refusal", err)
	}
}

// One peer's datagrams, unread, leave room for others'.
func TestOnePeersDatagramsLeaveRoomForOthers(t *testing.T) {
	b := newStack(t, b4)
	t.Cleanup(func() { b.Device().Close() })
	l := serving(t, b)
	packets, err := l.ListenPacket("udp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(b4, 80)
	for range 2 * maxDatagrams {
		b.Device().Write([][]byte{rawUDP(netip.AddrPortFrom(a4, 1000), to)}, 0)
	}
	b.Device().Write([][]byte{rawUDP(netip.AddrPortFrom(c4, 1000), to)}, 0)
	got := map[string]int{}
	_ = packets.SetReadDeadline(time.Now().Add(20 * time.Second))
	for got[c4.String()] == 0 {
		_, from, err := packets.ReadFrom(make([]byte, 1))
		if err != nil {
			t.Fatalf("%v after %v", err, got)
		}
		got[from.(*net.UDPAddr).IP.String()]++
	}
	if got[a4.String()] != maxDatagrams/2 {
		t.Errorf("%d datagrams of one peer waited, want %d", got[a4.String()], maxDatagrams/2)
	}
}

// A datagram whose length or checksum is wrong is no datagram.
func TestDamagedDatagramsAreLost(t *testing.T) {
	b := newStack(t, b4)
	t.Cleanup(func() { b.Device().Close() })
	l := serving(t, b)
	packets, err := l.ListenPacket("udp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	from, to := netip.AddrPortFrom(a4, 1000), netip.AddrPortFrom(b4, 80)
	for offset, value := range map[int]byte{25: 7, 24: 1, 26: 1} { // shorter than its header, longer than the packet, a checksum
		d := rawUDP(from, to)
		d[offset] = value
		b.Device().Write([][]byte{d}, 0)
	}
	if n := len(packets.(*packetConn).queue); n != 0 {
		t.Errorf("%d damaged datagrams were taken", n)
	}
	b.Device().Write([][]byte{rawUDP(from, to)}, 0)
	if n := len(packets.(*packetConn).queue); n != 1 {
		t.Errorf("%d sound ones, want 1", n)
	}
}
