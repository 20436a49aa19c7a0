package hostnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// newNamespace moves the test's thread into a fresh network namespace; the thread is not used again afterwards.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	must(t, netlink.LinkSetUp(link(t, "lo")))
	return ns
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func addTUN(t *testing.T, name string) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN}))
}

// addWire makes an interface with carrier: one end of a pair, the other is up, too.
func addWire(t *testing.T, name string) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "x"}))
	must(t, netlink.LinkSetUp(link(t, name+"x")))
}

func newHost(t *testing.T) *Host {
	t.Helper()
	h, err := New(slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func testConfig() Config {
	return Config{Interface: "picket0", MTU: 1280, Overlay: prefixes("100.64.0.0/10", "fd7a:115c::/48"),
		Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd7a:115c::1")}}
}

// snapshot is what of ours is on the host, in words.
func snapshot(t *testing.T, h *Host) []string {
	t.Helper()
	var out []string
	routes, err := h.ourRoutes()
	must(t, err)
	for _, r := range routes {
		out = append(out, "route "+routePrefix(r).String()+" "+map[int]string{unix.RTN_UNICAST: "tun", unix.RTN_UNREACHABLE: "unreachable"}[r.Type])
	}
	rules, err := h.handle.RuleList(netlink.FAMILY_ALL)
	must(t, err)
	for _, r := range rules {
		if r.Protocol != routeProtocol {
			continue
		}
		switch text := fmt.Sprint("rule ", r.Priority); r.Priority {
		case rulePriority:
			out = append(out, "rule "+r.Dst.String())
		default:
			out = append(out, text+map[int]string{netlink.FAMILY_V4: " IPv4", netlink.FAMILY_V6: " IPv6"}[r.Family])
		}
	}
	tables, err := h.nft.ListTables()
	must(t, err)
	for _, table := range tables {
		out = append(out, "table "+table.Name)
	}
	addrs, err := h.handle.AddrList(nil, netlink.FAMILY_ALL)
	must(t, err)
	for _, a := range addrs {
		if !a.IP.IsLoopback() && !a.IP.IsLinkLocalUnicast() {
			out = append(out, "addr "+a.IPNet.String())
		}
	}
	slices.Sort(out)
	return out
}

var configured = []string{
	"addr 100.64.0.1/32", "addr fd7a:115c::1/128",
	"route 100.64.0.0/10 tun", "route 100.64.0.0/10 unreachable", "route fd7a:115c::/48 tun", "route fd7a:115c::/48 unreachable",
	"rule 100.64.0.0/10", "rule fd7a:115c::/48", "table picket",
}

func wantSnapshot(t *testing.T, h *Host, want []string) {
	t.Helper()
	if got := snapshot(t, h); !slices.Equal(got, want) {
		t.Errorf("the host has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestConfigure(t *testing.T) {
	newNamespace(t)
	addTUN(t, "picket0")
	h := newHost(t)
	for range 2 {
		must(t, h.Configure(testConfig()))
		wantSnapshot(t, h, configured)
	}
	if l := link(t, "picket0"); l.Attrs().MTU != 1280 || l.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("MTU %d, flags %v", l.Attrs().MTU, l.Attrs().Flags)
	}
	moved := testConfig()
	moved.Overlay, moved.Addresses = prefixes("10.77.0.0/16"), []netip.Addr{netip.MustParseAddr("10.77.0.9")}
	must(t, h.Configure(moved))
	wantSnapshot(t, h, []string{"addr 10.77.0.9/32", "route 10.77.0.0/16 tun", "route 10.77.0.0/16 unreachable", "rule 10.77.0.0/16", "table picket"})
	for range 2 {
		must(t, h.Remove())
	}
	wantSnapshot(t, h, []string{"addr 10.77.0.9/32"}) // goes with the interface
}

func TestConfigure_mendsWhatOthersTookAway(t *testing.T) {
	newNamespace(t)
	addTUN(t, "picket0")
	h := newHost(t)
	must(t, h.Configure(testConfig()))
	tun := link(t, "picket0")
	h.nft.FlushRuleset()
	must(t, h.nft.Flush())
	must(t, h.removeRules(nil))
	must(t, netlink.LinkSetDown(tun)) // takes the routes to it, and the IPv6 address
	must(t, netlink.AddrDel(tun, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("100.64.0.1/32"))}))
	must(t, h.Configure(testConfig()))
	wantSnapshot(t, h, configured)
	// A guard that somebody made empty is no guard.
	h.nft.FlushTable(&nftables.Table{Name: guardName, Family: nftables.TableFamilyINet})
	must(t, h.nft.Flush())
	must(t, h.Configure(testConfig()))
	if !h.guardInPlace(h.guardChains(testConfig()), len(h.guardRules(testConfig())), h.guardMark(testConfig())) {
		t.Error("the emptied guard was not filled again")
	}
}

// TestUnreachableWithoutTUN is what a killed agent leaves: its interface goes with it, the overlay must not fall back to the default route.
func TestUnreachableWithoutTUN(t *testing.T) {
	newNamespace(t)
	addTUN(t, "picket0")
	addWire(t, "eth0")
	eth := link(t, "eth0")
	must(t, netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.1/24"))}))
	must(t, netlink.LinkSetUp(eth))
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 254)}))
	h := newHost(t)
	must(t, h.Configure(testConfig()))
	must(t, netlink.LinkDel(link(t, "picket0")))
	for _, dst := range []string{"100.64.0.2", "fd7a:115c::2"} {
		routes, err := netlink.RouteGet(net.ParseIP(dst))
		if err == nil {
			t.Errorf("%s would leave by %+v, want unreachable", dst, routes)
		}
	}
	if _, err := netlink.RouteGet(net.IPv4(198, 51, 100, 1)); err != nil {
		t.Errorf("another destination: %v", err)
	}
	// The next agent starts over what the killed one left.
	addTUN(t, "picket0")
	next := newHost(t)
	must(t, next.Check(testConfig().Overlay, "picket0"))
	must(t, next.Configure(testConfig()))
	must(t, next.Remove())
	must(t, netlink.LinkDel(link(t, "picket0")))
	wantSnapshot(t, next, []string{"addr 192.0.2.1/24"})
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		outcome string
		prepare func(t *testing.T, other netlink.Link)
		want    *ConflictError
	}{
		{"another VPN's address", func(t *testing.T, other netlink.Link) {
			must(t, netlink.AddrAdd(other, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("100.101.102.103/32"))}))
		}, &ConflictError{"other0", netip.MustParsePrefix("100.101.102.103/32"), netip.MustParsePrefix("100.64.0.0/10")}},
		{"another VPN's IPv6 address", func(t *testing.T, other netlink.Link) {
			must(t, netlink.AddrAdd(other, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("fd7a:115c::9/128"))}))
		}, &ConflictError{"other0", netip.MustParsePrefix("fd7a:115c::9/128"), netip.MustParsePrefix("fd7a:115c::/48")}},
		{"another VPN's route in its own table", func(t *testing.T, other netlink.Link) {
			must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: other.Attrs().Index, Table: 52, Dst: ipNet(netip.MustParsePrefix("100.64.0.0/10"))}))
		}, &ConflictError{"other0", netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("100.64.0.0/10")}},
		{"a route to nowhere", func(t *testing.T, _ netlink.Link) {
			must(t, netlink.RouteAdd(&netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: ipNet(netip.MustParsePrefix("100.100.0.0/16"))}))
		}, &ConflictError{"", netip.MustParsePrefix("100.100.0.0/16"), netip.MustParsePrefix("100.64.0.0/10")}},
		{"a wider route is no conflict", func(t *testing.T, other netlink.Link) {
			must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: other.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("64.0.0.0/2"))}))
			must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: other.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))}))
		}, nil},
		{"our own interface is none", func(t *testing.T, _ netlink.Link) {
			addTUN(t, "picket0")
			must(t, netlink.AddrAdd(link(t, "picket0"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("100.64.0.1/32"))}))
		}, nil},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			newNamespace(t)
			addWire(t, "other0")
			other := link(t, "other0")
			must(t, netlink.LinkSetUp(other))
			test.prepare(t, other)
			err := newHost(t).Check(testConfig().Overlay, "picket0")
			var conflict *ConflictError
			if test.want == nil {
				must(t, err)
			} else if !errors.As(err, &conflict) || *conflict != *test.want {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestGuard sends packets from a neighbour on the wire that claim overlay addresses, in both directions (CVE-2019-14899).
func TestGuard(t *testing.T) {
	neighbour := newNamespace(t)
	here := newNamespace(t)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(neighbour)}))
	eth := link(t, "eth0")
	must(t, netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.1/24"))}))
	must(t, netlink.LinkSetUp(eth))
	addTUN(t, "picket0")
	h := newHost(t)
	listener, err := net.ListenPacket("udp4", "0.0.0.0:7000")
	must(t, err)
	defer listener.Close()

	must(t, netns.Set(neighbour))
	eth = link(t, "eth0")
	for _, a := range []string{"192.0.2.2/24", "100.64.0.9/32"} {
		must(t, netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(a))}))
	}
	must(t, netlink.LinkSetUp(eth))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1), Dst: ipNet(netip.MustParsePrefix("100.64.0.1/32"))}))
	send := func(from, to string) {
		t.Helper()
		must(t, netns.Set(neighbour))
		c, err := (&net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}).Dial("udp4", to)
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte(from + " > " + to))
		must(t, err)
		must(t, netns.Set(here))
	}
	received := func() string {
		listener.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		b := make([]byte, 100)
		n, _, err := listener.ReadFrom(b)
		if err != nil {
			return "nothing"
		}
		return string(b[:n])
	}
	must(t, netns.Set(here))
	must(t, h.Configure(testConfig()))
	for _, test := range []struct{ from, to, want string }{
		{"192.0.2.2", "192.0.2.1:7000", "192.0.2.2 > 192.0.2.1:7000"},
		{"100.64.0.9", "192.0.2.1:7000", "nothing"}, // overlay source
		{"192.0.2.2", "100.64.0.1:7000", "nothing"}, // overlay destination
		{"192.0.2.2", "192.0.2.1:7000", "192.0.2.2 > 192.0.2.1:7000"},
	} {
		send(test.from, test.to)
		if got := received(); got != test.want {
			t.Errorf("%s > %s: received %s, want %s", test.from, test.to, got, test.want)
		}
	}
	// The test must be able to fail: without the guard the weak host model delivers.
	must(t, h.removeGuard())
	send("192.0.2.2", "100.64.0.1:7000")
	if got := received(); got == "nothing" {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}

func TestPrivilege(t *testing.T) {
	newNamespace(t)
	addTUN(t, "picket0")
	h := newHost(t)
	keep := ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, 65534, keep); errno != 0 { // this thread alone, which ends with the test
		t.Fatal(errno)
	}
	err := h.Configure(testConfig())
	if err == nil || !strings.Contains(err.Error(), "--tun=userspace") {
		t.Errorf("got %v, want a refusal with the remedy", err)
	}
}

func TestWatch(t *testing.T) {
	newNamespace(t)
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 1), make(chan error, 1)
	started := make(chan struct{})
	ns, err := netns.Get()
	must(t, err)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		close(started)
		done <- Watch(ctx, changed)
	}()
	<-started
	deadline := time.After(5 * time.Second)
	for i := 0; ; i++ { // until the subscription is there
		addWire(t, "d"+string(rune('a'+i)))
		select {
		case <-changed:
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Watch ended with %v", err)
			}
			return
		case err := <-done:
			t.Fatalf("Watch ended: %v", err)
		case <-time.After(200 * time.Millisecond):
		case <-deadline:
			t.Fatal("no change was reported")
		}
	}
}

// wire is this host and a neighbour on one wire, 192.0.2.1 and 192.0.2.2, with a TUN here whose packets the test reads and writes.
type wire struct {
	t               *testing.T
	here, neighbour netns.NsHandle
	tun             *os.File
	host            *Host
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{t: t, neighbour: newNamespace(t), here: newNamespace(t)}
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(w.neighbour)}))
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "picket0"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_ONE_QUEUE | netlink.TUNTAP_NO_PI, Queues: 1, NonPersist: true}
	must(t, netlink.LinkAdd(tun))
	w.tun = tun.Fds[0]
	t.Cleanup(func() { w.tun.Close() })
	w.host = newHost(t)
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	for ns, address := range map[netns.NsHandle]string{w.neighbour: "192.0.2.2/24", w.here: "192.0.2.1/24"} {
		w.in(ns, func() {
			eth := link(t, "eth0")
			must(t, netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(address))}))
			must(t, netlink.LinkSetUp(eth))
		})
	}
	must(t, w.host.Configure(testConfig()))
	return w
}

func (w *wire) in(ns netns.NsHandle, f func()) {
	w.t.Helper()
	must(w.t, netns.Set(ns))
	f()
	must(w.t, netns.Set(w.here))
}

func (w *wire) send(from netns.NsHandle, to string) {
	w.t.Helper()
	w.in(from, func() {
		c, err := net.Dial("udp4", to)
		must(w.t, err)
		defer c.Close()
		c.Write([]byte("forwarded")) // a refusal shows at the other end
	})
}

// inTUN reports whether a packet for that address comes out of the TUN in a while.
func (w *wire) inTUN(dst netip.Addr) bool {
	must(w.t, w.tun.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	b := make([]byte, 2000)
	for {
		n, err := w.tun.Read(b)
		if err != nil {
			return false
		}
		if n >= 20 && b[0]>>4 == 4 && netip.AddrFrom4([4]byte(b[16:20])) == dst {
			return true
		}
	}
}

// TestGuard_forwardsNothingIntoTheTunnel: a neighbour uses this host as a router to a network behind the tunnel.
func TestGuard_forwardsNothingIntoTheTunnel(t *testing.T) {
	w := newWire(t)
	behind := netip.MustParsePrefix("203.0.113.0/24")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link(t, "picket0").Attrs().Index, Dst: ipNet(behind), Scope: netlink.SCOPE_LINK}))
	w.in(w.neighbour, func() { must(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 1), Dst: ipNet(behind)})) })
	w.send(w.neighbour, "203.0.113.5:7000")
	if w.inTUN(netip.MustParseAddr("203.0.113.5")) {
		t.Error("a neighbour's packet was forwarded into the tunnel")
	}
	must(t, w.host.removeGuard())
	w.send(w.neighbour, "203.0.113.5:7000")
	if !w.inTUN(netip.MustParseAddr("203.0.113.5")) {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}

// TestGuard_letsNothingLeaveInClear: somebody removed our rules, so the overlay's addresses would follow the default route.
func TestGuard_letsNothingLeaveInClear(t *testing.T) {
	w := newWire(t)
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 2), Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))}))
	must(t, w.host.removeRules(nil))
	var listener net.PacketConn
	w.in(w.neighbour, func() {
		must(t, netlink.AddrAdd(link(t, "eth0"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("100.64.0.9/32"))}))
		var err error
		listener, err = net.ListenPacket("udp4", "100.64.0.9:7000")
		must(t, err)
	})
	defer listener.Close()
	left := func() bool {
		w.send(w.here, "100.64.0.9:7000")
		listener.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _, err := listener.ReadFrom(make([]byte, 100))
		return err == nil
	}
	if left() {
		t.Error("a packet to the overlay left in clear")
	}
	must(t, w.host.removeGuard())
	if !left() {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}
