package userspace

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func TestNewRefusesAnImpossibleMTU(t *testing.T) {
	for _, mtu := range []int{-1, 0, 1279, 65536} {
		if _, err := New(mtu, nil); err == nil {
			t.Errorf("New(%d) was accepted", mtu)
		}
	}
}

func TestSetAddressesRefusesWhatIsNoHostAddress(t *testing.T) {
	s := newStack(t)
	defer s.Device().Close()
	for _, bad := range []netip.Addr{
		{}, netip.MustParseAddr("::ffff:100.64.0.1"), netip.MustParseAddr("fe80::1%eth0"), netip.IPv4Unspecified(),
		netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("127.0.0.1"),
	} {
		if err := s.SetAddresses([]netip.Addr{bad}); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestSetAddressesReplaces(t *testing.T) {
	a, b, _ := newPair(t)
	if err := b.SetAddresses([]netip.Addr{b6}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Ping(within(t), b6); err != nil {
		t.Errorf("the address that stayed: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := a.Ping(short, b4); err == nil {
		t.Error("the address that went still answers")
	}
}

func TestPingBothFamilies(t *testing.T) {
	a, _, _ := newPair(t)
	for _, to := range []netip.Addr{b4, b6} {
		rtt, err := a.Ping(within(t), to)
		if err != nil || rtt <= 0 || rtt > 5*time.Second {
			t.Errorf("ping %s: %v, %v", to, rtt, err)
		}
	}
}

func TestPingWithoutAnAddressOfThatFamilyFails(t *testing.T) {
	s := newStack(t, a4)
	defer s.Device().Close()
	if _, err := s.Ping(within(t), b6); err == nil {
		t.Error("a ping left a stack without an IPv6 address")
	}
}

// refuse answers what leaves for b as the filter does: administratively prohibited, quoting the packet.
func refuse(p []byte) ([]byte, bool) {
	var b []byte
	if p[0]>>4 == 4 {
		quote := p[:min(len(p), 28)]
		b = make([]byte, 28+len(quote))
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: 1,
			SrcAddr: header.IPv4(p).DestinationAddress(), DstAddr: header.IPv4(p).SourceAddress()})
		ip.SetChecksum(^ip.CalculateChecksum())
		m := header.ICMPv4(b[20:])
		m.SetType(header.ICMPv4DstUnreachable)
		m.SetCode(header.ICMPv4AdminProhibited)
		copy(m[8:], quote)
		m.SetChecksum(header.ICMPv4Checksum(m, 0))
		return b, false
	}
	b = make([]byte, 48+len(p))
	ip := header.IPv6(b)
	ip.Encode(&header.IPv6Fields{PayloadLength: uint16(8 + len(p)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64,
		SrcAddr: header.IPv6(p).DestinationAddress(), DstAddr: header.IPv6(p).SourceAddress()})
	m := header.ICMPv6(b[40:])
	m.SetType(header.ICMPv6DstUnreachable)
	m.SetCode(codeAdminProhibited6)
	copy(m[8:], p)
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: ip.SourceAddress(), Dst: ip.DestinationAddress()}))
	return b, false
}

func TestAdministrativelyProhibitedIsHeardAtOnce(t *testing.T) {
	a, _, c := newPair(t)
	c.onWire = refuse
	for _, to := range []netip.Addr{b4, b6} {
		if _, err := a.Ping(within(t), to); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("ping %s: %v, want a refusal", to, err)
		}
		conn, err := a.Dial(within(t), "udp", netip.AddrPortFrom(to, 53))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("query"))
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("udp %s: %v, want connection refused", to, err)
		}
		conn.Close()
	}
}

func TestDialRefused(t *testing.T) {
	a, _, _ := newPair(t)
	for _, to := range []netip.Addr{b4, b6} {
		start := time.Now()
		if _, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(to, 9)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial %s: %v, want connection refused", to, err)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("the refusal by %s took %v", to, d)
		}
	}
}

func TestDialRefusesBadArguments(t *testing.T) {
	s := newStack(t, a4)
	defer s.Device().Close()
	for _, c := range []struct {
		network string
		to      netip.AddrPort
	}{
		{"sctp", netip.AddrPortFrom(b4, 1)},
		{"tcp", netip.AddrPort{}},
		{"tcp", netip.MustParseAddrPort("[::ffff:100.64.0.2]:80")},
	} {
		if _, err := s.Dial(within(t), c.network, c.to); err == nil {
			t.Errorf("Dial(%q, %s) was accepted", c.network, c.to)
		}
	}
}

// What is dialled at the own address would come out at this host's services, past the filter.
func TestDialIsNoWayToThisHost(t *testing.T) {
	s := newStack(t, a4, a6)
	t.Cleanup(func() { s.Device().Close() })
	reached := make(chan string, 4)
	forwardBy(t, s, func(_ context.Context, network string, _ netip.AddrPort, _ uint16) (net.Conn, error) {
		reached <- network
		return nil, errors.New("the test has no services")
	})
	for _, network := range []string{"tcp", "udp"} {
		for _, own := range []netip.Addr{a4, a6} {
			c, err := s.Dial(within(t), network, netip.AddrPortFrom(own, 80))
			if err == nil {
				_, _ = c.Write([]byte("x"))
				c.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "this node itself") {
				t.Errorf("%s to %s: %v", network, own, err)
			}
		}
	}
	select {
	case network := <-reached:
		t.Errorf("this host was reached by %s", network)
	default:
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	a, _, c := newPair(t)
	c.onWire = func([]byte) ([]byte, bool) { return nil, false }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Dial(ctx, "tcp", netip.AddrPortFrom(b4, 80)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial into silence: %v", err)
	}
}

func TestDialEndsWithTheStack(t *testing.T) {
	a, _, c := newPair(t)
	c.onWire = func([]byte) ([]byte, bool) { return nil, false }
	done := make(chan error, 1)
	go func() {
		_, err := a.Dial(t.Context(), "tcp", netip.AddrPortFrom(b4, 80))
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	a.Device().Close()
	if err := <-done; err == nil {
		t.Error("a dial outlived its stack")
	}
}

// serve listens on localhost and hands each connection to handle.
func serve(t *testing.T, handle func(net.Conn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go handle(c)
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestForwardCarriesTenMegabytesAndHalfCloses(t *testing.T) {
	a, b, _ := newPair(t)
	forward(t, b)
	// The service answers with the hash only after it has seen the end of the stream: a half-close must come through.
	port := serve(t, func(c net.Conn) {
		defer c.Close()
		h := sha256.New()
		_, _ = io.Copy(h, c)
		_, _ = c.Write(h.Sum(nil))
	})
	data := make([]byte, 10<<20)
	_, _ = rand.Read(data)
	for _, to := range []netip.Addr{b4, b6} {
		conn, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(to, port))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		conn.Close()
		want := sha256.Sum256(data)
		if err != nil || !bytes.Equal(got, want[:]) {
			t.Errorf("%s: the hash of what arrived is %x (%v), want %x", to, got, err, want)
		}
		t.Logf("%s: 10 MiB in %v", to, time.Since(start))
	}
}

func TestForwardRefusesWhereNothingListens(t *testing.T) {
	a, b, _ := newPair(t)
	forward(t, b)
	if _, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(b4, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("tcp: %v, want connection refused", err)
	}
	for _, to := range []netip.Addr{b4, b6} {
		conn, err := a.Dial(within(t), "udp", netip.AddrPortFrom(to, 1))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("x"))
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("udp to %s: %v, want connection refused", to, err)
		}
		conn.Close()
	}
}

func TestForwardPassesAResetOn(t *testing.T) {
	a, b, _ := newPair(t)
	forward(t, b)
	port := serve(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	})
	conn, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(b4, port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte{1})
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reset service reads as %v, want connection reset", err)
	}
}

// Who vanished without a word holds neither a place nor a connection to the service for good.
func TestForwardNoticesAVanishedPeer(t *testing.T) {
	a, b, c := newPair(t)
	came, ended := make(chan net.Conn, 1), make(chan error, 1)
	port := serve(t, func(c net.Conn) {
		came <- c
		_, err := c.Read(make([]byte, 1))
		ended <- err
	})
	forward(t, b)
	far := dialTo(t, a, "tcp", netip.AddrPortFrom(b4, port))
	service := <-came
	defer service.Close()
	from := far.LocalAddr().(*net.TCPAddr).AddrPort()
	id := stack.TransportEndpointID{
		LocalAddress: fullAddress(netip.AddrPortFrom(b4, port)).Addr, LocalPort: port, RemoteAddress: fullAddress(from).Addr, RemotePort: from.Port(),
	}
	ep, ok := b.ip.FindTransportEndpoint(header.IPv4ProtocolNumber, header.TCPProtocolNumber, id, nicID).(tcpip.Endpoint)
	if !ok {
		t.Fatal("the connection is not there")
	}
	eventually(t, "it asks whether the peer is there", ep.SocketOptions().GetKeepAlive)
	c.mu.Lock()
	c.onWire = func([]byte) ([]byte, bool) { return nil, false }
	c.mu.Unlock()
	short, interval := tcpip.KeepaliveIdleOption(10*time.Millisecond), tcpip.KeepaliveIntervalOption(10*time.Millisecond)
	_, _ = ep.SetSockOpt(&interval), ep.SetSockOpt(&short)
	select {
	case err := <-ended:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("to the service it reads as %v, want a reset", err)
		}
	case <-within(t).Done():
		t.Error("the service was not told")
	}
}

func TestForwardUDPBothWays(t *testing.T) {
	a, b, _ := newPair(t)
	forward(t, b)
	echo, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := echo.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDP(buf[:n], from)
		}
	}()
	for _, to := range []netip.Addr{b4, b6} {
		conn, err := a.Dial(within(t), "udp", netip.AddrPortFrom(to, uint16(echo.LocalAddr().(*net.UDPAddr).Port)))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		for i := range 100 { // 3,000 bytes: fragments both ways
			msg := binary.BigEndian.AppendUint32(make([]byte, 0, 3000), uint32(i))[:3000]
			if _, err := conn.Write(msg); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, maxDatagram)
			n, err := conn.Read(got)
			if err != nil || !bytes.Equal(got[:n], msg) {
				t.Fatalf("%s: datagram %d came back as %d bytes, %v", to, i, n, err)
			}
		}
		conn.Close()
	}
}

// TestForwardRefusesWhatDialRefuses: as a port that nobody holds.
func TestForwardRefusesWhatDialRefuses(t *testing.T) {
	a, b, _ := newPair(t)
	asked := make(chan string, 2)
	forwardBy(t, b, func(_ context.Context, network string, from netip.AddrPort, port uint16) (net.Conn, error) {
		asked <- fmt.Sprint(network, " ", from.Addr(), " ", port)
		return nil, errors.New("not for peers")
	})
	if _, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(b4, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("tcp: %v, want connection refused", err)
	}
	conn, err := a.Dial(within(t), "udp", netip.AddrPortFrom(b6, 81))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("udp: %v, want connection refused", err)
	}
	for _, want := range []string{"tcp 100.64.0.1 80", "udp fd7a::1 81"} {
		if got := <-asked; got != want {
			t.Errorf("asked for %q, want %q", got, want)
		}
	}
}

func TestForwardEndsEveryConnection(t *testing.T) {
	a, b, _ := newPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.ForwardInbound(ctx, nil) }()
	for b.inbound.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	port := serve(t, func(c net.Conn) { _, _ = io.Copy(c, c); c.Close() })
	conn, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(b4, port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := b.ForwardInbound(ctx, nil); err == nil {
		t.Error("a second ForwardInbound was let in")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ForwardInbound: %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the forwarded connection reads as %v, want a reset", err)
	}
	if _, err := a.Dial(within(t), "tcp", netip.AddrPortFrom(b4, port)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after the end: %v, want connection refused", err)
	}
}

// A peer that opens and never answers must not hold the end of ForwardInbound up.
func TestForwardEndsDespiteAHalfOpenHandshake(t *testing.T) {
	b := newStack(t, b4)
	defer b.Device().Close()
	port := serve(t, func(c net.Conn) { c.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.ForwardInbound(ctx, nil) }()
	for b.inbound.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	syn := make([]byte, 40)
	header.IPv4(syn).Encode(&header.IPv4Fields{TotalLength: 40, TTL: 64, Protocol: 6, SrcAddr: fullAddress(netip.AddrPortFrom(a4, 0)).Addr, DstAddr: fullAddress(netip.AddrPortFrom(b4, 0)).Addr})
	header.IPv4(syn).SetChecksum(^header.IPv4(syn).CalculateChecksum())
	seg := header.TCP(syn[20:])
	seg.Encode(&header.TCPFields{SrcPort: 1000, DstPort: port, SeqNum: 1, DataOffset: 20, Flags: header.TCPFlagSyn, WindowSize: 1000})
	sum := header.PseudoHeaderChecksum(6, fullAddress(netip.AddrPortFrom(a4, 0)).Addr, fullAddress(netip.AddrPortFrom(b4, 0)).Addr, 20)
	seg.SetChecksum(^seg.CalculateChecksum(sum))
	if _, err := b.Device().Write([][]byte{syn}, 0); err != nil {
		t.Fatal(err)
	}
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	if n, err := b.Device().Read(bufs, sizes, 0); n != 1 || err != nil || header.TCP(bufs[0][20:]).Flags() != header.TCPFlagSyn|header.TCPFlagAck {
		t.Fatalf("no SYN-ACK came: %d, %v, % x", n, err, bufs[0][:sizes[0]])
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("ForwardInbound waits for a handshake")
	}
}

func TestDeviceCloses(t *testing.T) {
	s := newStack(t, a4)
	read := make(chan error, 1)
	go func() {
		_, err := s.Device().Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0)
		read <- err
	}()
	if err := s.Device().Close(); err != nil {
		t.Error(err)
	}
	if err := <-read; err == nil {
		t.Error("Read survived Close")
	}
	if _, err := s.Device().Write([][]byte{make([]byte, 40)}, 0); err == nil {
		t.Error("Write works after Close")
	}
	for range s.Device().Events() {
	}
	if err := s.Device().Close(); err != nil {
		t.Error("a second Close:", err)
	}
}

func FuzzDeviceWrite(f *testing.F) {
	f.Add([]byte{0x45})
	f.Add([]byte{0x60, 0, 0, 0, 0, 8, 58, 64})
	b, _ := refuse(append([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17}, make([]byte, 18)...))
	f.Add(b)
	b, _ = refuse(append([]byte{0x60, 0, 0, 0, 0, 8, 17, 64}, make([]byte, 40)...))
	f.Add(b)
	s, err := New(1280, nil)
	if err != nil {
		f.Fatal(err)
	}
	defer s.Device().Close()
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, err := s.Device().Write([][]byte{p}, 0); err != nil {
			t.Fatal(err)
		}
	})
}
