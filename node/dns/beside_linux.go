package dns

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenBeside takes the UDP port at an IPv4 address though another program has it at every address, if that one shares it (SO_REUSEADDR, as dnsmasq does): the
// kernel gives a datagram to the socket with the nearest address. What somebody holds at the very address, another agent above all, is not shared:
// that we cannot listen is how we know that an agent is alive.
func listenBeside(ctx context.Context, address string) (net.PacketConn, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().Is4() {
		return nil, errors.New("only an IPv4 address can be shared")
	}
	table, err := os.ReadFile("/proc/self/net/udp")
	if err != nil || holdsUDP(string(table), at) {
		return nil, errors.Join(errors.New("the very address is taken"), err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return errors.Join(err, failed)
	}}
	return lc.ListenPacket(ctx, "udp4", address)
}

// holdsUDP reports whether a socket in a table of /proc/net/udp (proc_net_udp(5)) is bound to that address and port; what cannot be read counts as one.
func holdsUDP(table string, at netip.AddrPort) bool {
	a := at.Addr().As4()
	want := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString([]byte{a[3], a[2], a[1], a[0]})), at.Port())
	for i, line := range strings.Split(strings.TrimSpace(table), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || i > 0 && fields[1] == want {
			return true
		}
	}
	return false
}
