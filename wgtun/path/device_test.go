package path

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

// machine is a real WireGuard device over a Bind.
type machine struct {
	*node
	private key.TunnelPrivate
	addr    netip.Addr
	tun     *nettest.TUN
	dev     *device.Device
}

// boot starts a machine on inner; it ends with the test.
func boot(t *testing.T, inner conn.Bind, addr string) *machine {
	t.Helper()
	m := &machine{private: key.NewTunnel(), addr: netip.MustParseAddr(addr), tun: nettest.NewTUN(1280)}
	m.node = &node{t: t, tunnel: m.private.Public(), probe: key.NewProbe()}
	m.Bind = New(Config{Inner: inner, Tunnel: m.tunnel, Probe: m.probe, AllowLoopback: true})
	m.dev = device.NewDevice(m.tun, m.Bind, &device.Logger{Verbosef: device.DiscardLogf, Errorf: func(f string, a ...any) { t.Logf(f, a...) }})
	m.dev.DisableSomeRoamingForBrokenMobileSemantics()
	scalar := m.private.Bytes()
	m.configure("private_key=%s\nlisten_port=0\n", hex.EncodeToString(scalar[:]))
	if err := m.dev.Up(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		m.dev.Close()
		cancel()
		<-ended
	})
	return m
}

func (m *machine) configure(format string, args ...any) {
	m.t.Helper()
	if err := m.dev.IpcSet(fmt.Sprintf(format, args...)); err != nil {
		m.t.Fatal(err)
	}
}

// admit makes other a peer of m's.
func (m *machine) admit(other *machine, candidates ...netip.AddrPort) {
	m.t.Helper()
	m.SetPeer(Peer{Tunnel: other.tunnel, Probe: other.probe.Public(), Candidates: candidates})
	m.configure("public_key=%s\nendpoint=%s\nallowed_ip=%s/32\n", hex.EncodeToString(other.tunnel[:]), EndpointText(other.tunnel), other.addr)
}

// ping sends an IP packet through the tunnel and returns when it has come out.
func (m *machine) ping(other *machine) {
	m.t.Helper()
	packet := tuntest.Ping(other.addr, m.addr)
	m.tun.Send(packet)
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	got, err := other.tun.Recv(ctx)
	if err != nil {
		m.t.Fatalf("packet did not arrive: %v", err)
	}
	if string(got) != string(packet) {
		m.t.Fatal("packet changed on its way")
	}
}

func TestTwoWireGuardDevicesExchangePacketsAfterOneProbeAndOneHandshake(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		n := lab(1)
		a, b := boot(t, n.Host(addrA).Bind(), "10.1.0.1"), boot(t, n.Host(addrB).Bind(), "10.1.0.2")
		b.admit(a)
		a.admit(b, at(addrX), netip.AddrPortFrom(addrB, b.LocalPort()))
		begun := time.Now()
		a.ping(b)
		// A probe there and back, a handshake there and back, the packet there: 5 latencies; WireGuard alone takes 3.
		if took := time.Since(begun); took != 5*latency {
			t.Errorf("first packet took %v", took)
		}
		begun = time.Now()
		b.ping(a)
		if took := time.Since(begun); took != latency {
			t.Errorf("a packet back took %v", took)
		}
	})
}

func TestWireGuardSessionSurvivesRoamingAndHours(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		n := lab(1)
		hostA := n.Host(addrA)
		a, b := boot(t, hostA.Bind(), "10.1.0.1"), boot(t, n.Host(addrB).Bind(), "10.1.0.2")
		b.admit(a)
		a.admit(b, netip.AddrPortFrom(addrB, b.LocalPort()))
		a.ping(b)
		hostA.SetAddrs(addrC)
		a.Reprobe()
		time.Sleep(time.Second)
		b.ping(a)
		for range 3 {
			time.Sleep(time.Hour)
			a.ping(b)
			b.ping(a)
		}
		state, err := b.dev.IpcGet()
		if err != nil || !strings.Contains(state, fmt.Sprintf("endpoint=%v:", addrC)) {
			t.Errorf("%v: endpoint not shown as the proved path:\n%s", err, state)
		}
	})
}

func TestReplayedHandshakeOfAReaddedPeerIsNotAnsweredToTheAttacker(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		n := lab(1)
		seen, evil := record(n), n.Host(addrX)
		a, b := boot(t, n.Host(addrA).Bind(), "10.1.0.1"), boot(t, n.Host(addrB).Bind(), "10.1.0.2")
		b.admit(a)
		toB := netip.AddrPortFrom(addrB, b.LocalPort())
		a.admit(b, toB)
		a.ping(b)
		b.configure("public_key=%s\nremove=true\n", hex.EncodeToString(a.tunnel[:]))
		b.RemovePeer(a.tunnel)
		b.admit(a)
		recorded := seen.matching(func(d nettest.Datagram) bool { return d.To == toB && len(d.Payload) == 148 })
		if len(recorded) == 0 {
			t.Fatal("no initiation recorded")
		}
		evil.Inject(at(addrX), toB, recorded[0].Payload)
		time.Sleep(time.Minute)
		if got := seen.matching(to(addrX)); len(got) != 0 {
			t.Errorf("%d datagrams went to the attacker", len(got))
		}
		a.ping(b) // and the honest one is found again
	})
}

func TestDevicesOverRealSocketsInParallel(t *testing.T) {
	a, b := boot(t, conn.NewDefaultBind(), "10.1.0.1"), boot(t, conn.NewDefaultBind(), "10.1.0.2")
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	a.admit(b, netip.AddrPortFrom(local, b.LocalPort()))
	b.admit(a, netip.AddrPortFrom(local, a.LocalPort()))
	if a.BatchSize() != conn.NewDefaultBind().BatchSize() {
		t.Errorf("batches of %d", a.BatchSize())
	}
	a.ping(b)
	b.ping(a)
	const packets = 2000
	var wg sync.WaitGroup
	for _, pair := range [][2]*machine{{a, b}, {b, a}} {
		wg.Go(func() {
			for range packets / 8 {
				var batch [][]byte
				for range 8 {
					batch = append(batch, tuntest.Ping(pair[1].addr, pair[0].addr))
				}
				pair[0].tun.Send(batch...)
				time.Sleep(100 * time.Microsecond)
			}
		})
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for got := range packets {
				if _, err := pair[1].tun.Recv(ctx); err != nil {
					t.Errorf("%d of %d packets: %v", got, packets, err)
					return
				}
			}
		})
	}
	for i := range 20 { // meanwhile the control side is busy
		a.SetPeer(Peer{Tunnel: b.tunnel, Probe: b.probe.Public(), Candidates: []netip.AddrPort{netip.AddrPortFrom(local, b.LocalPort()), netip.AddrPortFrom(addrX, uint16(i+1))}})
		a.Status(b.tunnel)
		a.Stats()
		a.Observed(1)
		a.Reprobe()
		if _, _, err := a.Ping(t.Context(), b.tunnel); err != nil {
			t.Errorf("Ping: %v", err)
		}
	}
	wg.Wait()
	if err := a.dev.BindUpdate(); err != nil { // closes and opens the sockets
		t.Fatal(err)
	}
	a.ping(b)
}
