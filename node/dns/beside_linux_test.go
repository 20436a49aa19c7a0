package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"picket.internal/coordinator/protocol"
)

// everywhere is a program that has a port at every address, UDP and TCP, as dnsmasq does; shared says that it lets others have the UDP port at one.
func everywhere(t *testing.T, shared int) (port uint16) {
	t.Helper()
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			if network == "udp4" {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, shared)
			}
		})
	}}
	_, tcp := listenBoth(t, lc, "0.0.0.0:0")
	return uint16(tcp.Addr().(*net.TCPAddr).Port)
}

// TestBesideAServerAtEveryAddress: we answer by UDP, and a second agent does not.
func TestBesideAServerAtEveryAddress(t *testing.T) {
	at := netip.AddrPortFrom(Listen.Addr(), everywhere(t, 1)).String()
	r := NewResolver(nobody(t))
	r.SetZone(zone(), protocol.DNS{})
	s, err := listen(t.Context(), at, r, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s.tcp != nil {
		t.Error("the TCP port is ours, though another program has it")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	got, _, err := new(mdns.Client).Exchange(new(mdns.Msg).SetQuestion("db.corp.internal.", mdns.TypeA), at)
	if err != nil || len(got.Answer) == 0 {
		t.Errorf("%v %v", got, err)
	}
	if second, err := listen(t.Context(), at, r, slog.New(slog.DiscardHandler)); err == nil {
		second.close()
		t.Error("two agents answer at one address: neither knows that the other is alive")
	} else if !strings.Contains(err.Error(), "bind-dynamic") {
		t.Errorf("nobody is told what to do: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestBesideAServerThatSharesNothing: nothing is taken from it.
func TestBesideAServerThatSharesNothing(t *testing.T) {
	at := netip.AddrPortFrom(Listen.Addr(), everywhere(t, 0)).String()
	if s, err := listen(t.Context(), at, nil, slog.New(slog.DiscardHandler)); err == nil {
		s.close()
		t.Error("the address is ours, though another program has it")
	}
}

// TestHoldsUDP reads tables as the kernel writes them (proc_net_udp(5)).
func TestHoldsUDP(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.112.105:53")
	const head = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
	for table, want := range map[string]bool{
		"":   true, // cannot be read
		"\n": true,
		head: false,
		head + "  123: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0000 0\n":              false,
		head + "  123: 6970007F:0036 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0000 0\n":              false,
		head + "    1: 00000000:0035 00000000:0000 07 0:0\n" + "  123: 6970007F:0035 00000000:0000 07 00000000:00000000 00:00000000\n": true,
		head + "short\n": true,
	} {
		if got := holdsUDP(table, at); got != want {
			t.Errorf("%v, want %v:\n%s", got, want, table)
		}
	}
}
