package hostnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// arrives reports whether the text that send sends comes to the listener in a while; what came late of earlier ones is passed over.
func arrives(listener net.PacketConn, text string, send func()) bool {
	send()
	listener.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	b := make([]byte, 100)
	for {
		n, _, err := listener.ReadFrom(b)
		if err != nil || string(b[:n]) == text {
			return err == nil
		}
	}
}

// TestGuard_forwardsNothingOutOfTheTunnel: a peer uses this host as a router, from an address that is not even the overlay's.
func TestGuard_forwardsNothingOutOfTheTunnel(t *testing.T) {
	w := newWire(t)
	behind := netip.MustParsePrefix("203.0.113.0/24")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link(t, "picket0").Attrs().Index, Dst: ipNet(behind), Scope: netlink.SCOPE_LINK}))
	var listener net.PacketConn
	w.in(w.neighbour, func() {
		must(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 1), Dst: ipNet(behind)}))
		var err error
		listener, err = net.ListenPacket("udp4", "192.0.2.2:7000")
		must(t, err)
	})
	defer listener.Close()
	forward := func() {
		_, err := w.tun.Write(udp4("203.0.113.5:7000", "192.0.2.2:7000"))
		must(t, err)
	}
	if arrives(listener, "", forward) {
		t.Error("a packet out of the tunnel was forwarded to a neighbour")
	}
	must(t, w.host.removeGuard())
	if !arrives(listener, "", forward) {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}

// TestGuard_showsNoNeighbourTheOwnAddress: any program of this host may bind its overlay address, and send from there to whom it will.
func TestGuard_showsNoNeighbourTheOwnAddress(t *testing.T) {
	w := newWire(t)
	var listener net.PacketConn
	w.in(w.neighbour, func() {
		var err error
		listener, err = net.ListenPacket("udp4", "192.0.2.2:7000")
		must(t, err)
	})
	defer listener.Close()
	send := func() {
		own := net.UDPAddrFromAddrPort(netip.AddrPortFrom(testConfig().Addresses[0], 0))
		c, err := (&net.Dialer{LocalAddr: own}).Dial("udp4", "192.0.2.2:7000")
		must(t, err)
		defer c.Close()
		c.Write([]byte("hello")) // a refusal shows at the other end
	}
	if arrives(listener, "hello", send) {
		t.Error("a packet with the overlay address left in clear")
	}
	must(t, w.host.removeGuard())
	if !arrives(listener, "hello", send) {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}

// udp4 is an empty datagram without UDP checksum.
func udp4(from, to string) []byte {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	b := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	return append(b, 0, 8, 0, 0)
}

// TestGuard_holdsForIPv6 is TestGuard and TestGuard_letsNothingLeaveInClear in the other family.
func TestGuard_holdsForIPv6(t *testing.T) {
	if !ipv6Enabled() {
		t.Skip("this host has no IPv6")
	}
	w := newWire(t)
	add := func(addresses ...string) {
		for _, a := range addresses {
			must(t, netlink.AddrAdd(link(t, "eth0"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(a)), Flags: 0x02})) // IFA_F_NODAD
		}
	}
	overlay6 := testConfig().Overlay[1]
	add("2001:db8::1/64")
	listen := func() net.PacketConn {
		l, err := net.ListenPacket("udp6", "[::]:7000")
		must(t, err)
		return l
	}
	here := listen()
	defer here.Close()
	var there net.PacketConn
	w.in(w.neighbour, func() {
		add("2001:db8::2/64", "fd7a:115c::9/128")
		must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("2001:db8::1"), Dst: ipNet(overlay6)}))
		there = listen()
	})
	defer there.Close()
	sent := 0
	text := func() string { return fmt.Sprint("datagram ", sent) }
	send := func(from, to string) func() {
		sent++
		return func() {
			d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
			if c, err := d.Dial("udp6", "["+to+"]:7000"); err == nil {
				defer c.Close()
				c.Write([]byte(text())) // a refusal shows at the other end
			}
		}
	}
	fromThere := func(from, to string) bool {
		dial := send(from, to)
		return arrives(here, text(), func() { w.in(w.neighbour, dial) })
	}
	must(t, w.host.removeRules(nil))
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("2001:db8::2"), Dst: ipNet(overlay6)}))
	for range 20 { // until the two have found each other
		if fromThere("2001:db8::2", "2001:db8::1") {
			break
		}
	}
	own := testConfig().Addresses[1].String()
	refused := func(want bool) {
		t.Helper()
		if got := !fromThere("fd7a:115c::9", "2001:db8::1"); got != want {
			t.Errorf("from an overlay address: refused %v, want %v", got, want)
		}
		if got := !fromThere("2001:db8::2", own); got != want {
			t.Errorf("to an overlay address: refused %v, want %v", got, want)
		}
		dial := send("2001:db8::1", "fd7a:115c::9")
		if got := !arrives(there, text(), dial); got != want {
			t.Errorf("in clear to an overlay address: refused %v, want %v", got, want)
		}
	}
	refused(true)
	must(t, w.host.removeGuard())
	refused(false) // or the test proves nothing
}
