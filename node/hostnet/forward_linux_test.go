package hostnet

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// routerConfig serves the wire of newWire.
func routerConfig() Config {
	c := testConfig()
	c.Served = prefixes("192.0.2.0/24")
	return c
}

// peer is an overlay address behind the TUN, service where the neighbour listens.
const (
	peer    = "100.64.0.2:4000"
	service = "192.0.2.2:7000"
)

// listen opens the neighbour's UDP service, and routes its answers to the overlay by way of this host.
func (w *wire) listen() *net.UDPConn {
	w.t.Helper()
	var c net.PacketConn
	w.in(w.neighbour, func() {
		must(w.t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 1), Dst: ipNet(testConfig().Overlay[0])}))
		var err error
		c, err = net.ListenPacket("udp4", service)
		must(w.t, err)
	})
	w.t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// write has a packet come out of the tunnel.
func (w *wire) write(packet []byte) {
	w.t.Helper()
	_, err := w.tun.Write(packet)
	must(w.t, err)
}

// from waits for a datagram and says from where it came; "nothing" when none comes.
func from(c *net.UDPConn) string {
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, at, err := c.ReadFromUDPAddrPort(make([]byte, 100))
	if err != nil {
		return "nothing"
	}
	return at.String()
}

// toPeer is the first IPv4 packet that goes into the tunnel for the peer; nil when there is none in a while.
func (w *wire) toPeer() []byte {
	w.t.Helper()
	must(w.t, w.tun.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	b := make([]byte, 2000)
	for {
		n, err := w.tun.Read(b)
		if err != nil {
			return nil
		}
		if n >= 20 && b[0]>>4 == 4 && netip.AddrFrom4([4]byte(b[16:20])) == netip.MustParseAddrPort(peer).Addr() {
			return b[:n]
		}
	}
}

func TestForwardToServedNetworksOnly(t *testing.T) {
	w := newWire(t)
	c := w.listen()
	for name, test := range map[string]struct {
		config Config
		want   string
	}{
		"serves nothing":          {testConfig(), "nothing"},
		"serves another network":  {with(func(c *Config) { c.Served = prefixes("192.0.3.0/24") }), "nothing"},
		"serves the other family": {with(func(c *Config) { c.Served = prefixes("::/0", "fd00:33::/32") }), "nothing"},
		"serves it":               {routerConfig(), "192.0.2.1:4000"},
		"serves it as it is":      {with(func(c *Config) { c.KeepSource = true }), peer},
		"serves the internet":     {with(func(c *Config) { c.Served, c.KeepSource = prefixes("0.0.0.0/0"), true }), "192.0.2.1:4000"},
	} {
		must(t, w.host.Configure(test.config))
		flushConntrack(t)
		w.write(udp4(peer, service))
		got := from(c)
		if got != test.want {
			t.Errorf("%s: the packet comes from %s, want %s", name, got, test.want)
		}
		if got == "nothing" {
			continue
		}
		_, err := c.WriteToUDPAddrPort([]byte("answer"), netip.MustParseAddrPort(got))
		must(t, err)
		if answer := w.toPeer(); answer == nil || netip.AddrFrom4([4]byte(answer[12:16])).String() != "192.0.2.2" {
			t.Errorf("%s: the answer into the tunnel is %x", name, answer)
		}
	}
}

func with(change func(*Config)) Config {
	c := routerConfig()
	change(&c)
	return c
}

func flushConntrack(t *testing.T) {
	t.Helper()
	c, err := conntrack.Dial(nil)
	must(t, err)
	defer c.Close()
	must(t, c.Flush())
}

// TestForwardsNothingForOutsiders: the neighbour of another wire claims to be in the served network, and one of the internet opens what
// nobody in the overlay asked for.
func TestForwardsNothingForOutsiders(t *testing.T) {
	w := newWire(t)
	c := w.listen()
	outside := w.addNeighbour("eth1", "198.51.100")
	send := func(ns netns.NsHandle, source, dst string) bool {
		to := netip.MustParseAddrPort(dst).Addr()
		w.in(ns, func() {
			raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			must(t, err)
			defer unix.Close(raw)
			must(t, unix.Sendto(raw, udp4(source, dst), 0, &unix.SockaddrInet4{Addr: to.As4()}))
		})
		return w.inTUN(to)
	}
	toPeer := func(ns netns.NsHandle, source string) bool { return send(ns, source, peer) }
	must(t, w.host.Configure(routerConfig()))
	if !toPeer(w.neighbour, service) {
		t.Error("the served network does not get into the tunnel")
	}
	if toPeer(outside, service) {
		t.Error("a source of the served network came in by another interface")
	}
	if toPeer(outside, "198.51.100.2:7000") {
		t.Error("a source outside the served network got into the tunnel")
	}
	must(t, w.host.Configure(with(func(c *Config) { c.Served, c.Routes = prefixes("0.0.0.0/0"), prefixes("10.33.0.0/16") })))
	if send(outside, "198.51.100.2:7000", "10.33.0.9:80") {
		t.Error("somebody outside uses the exit node as a way to a network behind another peer")
	}
	if toPeer(outside, "198.51.100.2:7000") || toPeer(w.neighbour, service) {
		t.Error("with an exit node somebody outside got into the tunnel")
	}
	flushConntrack(t)
	w.write(udp4(peer, service))
	if got := from(c); got != "192.0.2.1:4000" { // or the test proves nothing
		t.Errorf("the exit node does not work: %s", got)
	}
	must(t, w.host.removeGuard())
	if !toPeer(outside, "198.51.100.2:7000") || !send(outside, "198.51.100.2:7000", "10.33.0.9:80") {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}

// TestServedNetworkIsNoWayToThisHost: the router's own overlay address is for peers, whom the filter judges.
func TestServedNetworkIsNoWayToThisHost(t *testing.T) {
	w := newWire(t)
	w.listen()
	own, err := net.ListenPacket("udp4", "0.0.0.0:7001")
	must(t, err)
	defer own.Close()
	must(t, w.host.Configure(with(func(c *Config) { c.KeepSource = true })))
	w.send(w.neighbour, "100.64.0.1:7001")
	if got := from(own.(*net.UDPConn)); got != "nothing" {
		t.Errorf("%s, in the served network, reached this host's overlay address", got)
	}
	w.send(w.neighbour, "192.0.2.1:7001")
	if from(own.(*net.UDPConn)) == "nothing" {
		t.Error("nor did it reach its other address")
	}
	must(t, w.host.removeGuard())
	w.send(w.neighbour, "100.64.0.1:7001")
	if from(own.(*net.UDPConn)) == "nothing" {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}

// TestExitNodeIsNoWayToItself: a service of the exit node's that trusts the overlay is not for who may reach the internet.
func TestExitNodeIsNoWayToItself(t *testing.T) {
	w := newWire(t)
	own, err := net.ListenPacket("udp4", "0.0.0.0:7001")
	must(t, err)
	defer own.Close()
	reached := func(dst string) bool {
		w.write(udp4(peer, dst))
		return from(own.(*net.UDPConn)) == peer
	}
	for name, test := range map[string]struct {
		served []netip.Prefix
		public bool // its address on the wire is reached
	}{
		"an exit node":                  {prefixes("0.0.0.0/0"), false},
		"an exit node that serves that": {prefixes("0.0.0.0/0", "192.0.2.0/24"), true},
		"a router":                      {prefixes("192.0.2.0/24"), true},
	} {
		must(t, w.host.Configure(with(func(c *Config) { c.Served = test.served })))
		if got := reached("192.0.2.1:7001"); got != test.public {
			t.Errorf("%s is reached at its address on the wire: %v", name, got)
		}
		if !reached("100.64.0.1:7001") {
			t.Errorf("%s is not reached at its overlay address", name)
		}
	}
}

// addNeighbour is one more host on a wire of its own, as NETWORK.2, with this one as NETWORK.1 its default router.
func (w *wire) addNeighbour(name, network string) netns.NsHandle {
	w.t.Helper()
	ns := newNamespace(w.t)
	must(w.t, netns.Set(w.here))
	must(w.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	add := func(name, address string) {
		must(w.t, netlink.AddrAdd(link(w.t, name), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(address))}))
		must(w.t, netlink.LinkSetUp(link(w.t, name)))
	}
	w.in(ns, func() { add("eth0", network+".2/24") })
	add(name, network+".1/24")
	w.in(ns, func() { must(w.t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(network + ".1")})) })
	return ns
}

// TestLinkLocalIsNotForwarded: a cloud provider's secrets are not for users of an exit node.
func TestLinkLocalIsNotForwarded(t *testing.T) {
	w := newWire(t)
	var c net.PacketConn
	w.in(w.neighbour, func() {
		must(t, netlink.AddrAdd(link(t, "eth0"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("169.254.169.254/32"))}))
		var err error
		c, err = net.ListenPacket("udp4", "169.254.169.254:80")
		must(t, err)
	})
	defer c.Close()
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 2)}))
	must(t, w.host.Configure(with(func(c *Config) { c.Served = prefixes("0.0.0.0/0") })))
	w.write(udp4(peer, "169.254.169.254:80"))
	if got := from(c.(*net.UDPConn)); got != "nothing" {
		t.Errorf("a packet from %s was forwarded to a link-local address", got)
	}
	must(t, w.host.removeGuard())
	w.write(udp4(peer, "169.254.169.254:80"))
	if from(c.(*net.UDPConn)) == "nothing" {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}

// TestExitNodeIsNoWayIntoTheOverlay: somebody removed our routing rules, so the overlay's addresses follow the default route.
func TestExitNodeIsNoWayIntoTheOverlay(t *testing.T) {
	w := newWire(t)
	var c net.PacketConn
	w.in(w.neighbour, func() {
		must(t, netlink.AddrAdd(link(t, "eth0"), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("100.64.0.9/32"))}))
		var err error
		c, err = net.ListenPacket("udp4", "100.64.0.9:7000")
		must(t, err)
	})
	defer c.Close()
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 2)}))
	must(t, w.host.Configure(with(func(c *Config) { c.Served = prefixes("0.0.0.0/0") })))
	must(t, w.host.removeRules(nil))
	w.write(udp4(peer, "100.64.0.9:7000"))
	if got := from(c.(*net.UDPConn)); got != "nothing" {
		t.Errorf("a packet to the overlay left in clear, from %s", got)
	}
	must(t, w.host.removeGuard())
	w.write(udp4(peer, "100.64.0.9:7000"))
	if from(c.(*net.UDPConn)) == "nothing" {
		t.Error("without the guard nothing came either: this test proves nothing")
	}
}

func setForwarding(t *testing.T, value string) {
	t.Helper()
	for _, is6 := range []bool{false, true} {
		must(t, os.WriteFile(forwardingPath(is6), []byte(value), 0))
	}
}

func wantForwarding(t *testing.T, when, v4, v6 string) {
	t.Helper()
	for i, want := range []string{v4, v6} {
		text, err := os.ReadFile(forwardingPath(i == 1))
		must(t, err)
		if got := strings.TrimSpace(string(text)); got != want {
			t.Errorf("%s, %s is %s, want %s", when, forwardingPath(i == 1), got, want)
		}
	}
}

func TestForwardingIsTurnedOnAndBack(t *testing.T) {
	w := newWire(t)
	setForwarding(t, "0")
	must(t, w.host.Configure(routerConfig()))
	wantForwarding(t, "serving", "1", "0")
	must(t, w.host.Configure(testConfig()))
	wantForwarding(t, "serving no more", "0", "0")
	must(t, w.host.Configure(with(func(c *Config) { c.Served = everything })))
	wantForwarding(t, "as an exit node", "1", "1")
	must(t, w.host.Remove())
	wantForwarding(t, "after down", "0", "0")

	must(t, w.host.Configure(routerConfig())) // and now it is killed
	next := newHost(t)
	must(t, next.Configure(testConfig()))
	wantForwarding(t, "after the next start", "0", "0")
	must(t, next.Configure(routerConfig()))
	last := newHost(t)
	must(t, last.Configure(routerConfig()))
	w.host.nft.FlushRuleset() // with the note of what was before
	must(t, w.host.nft.Flush())
	must(t, last.Configure(routerConfig()))
	must(t, newHost(t).Remove())
	wantForwarding(t, "after one that was killed twice, and a flush", "0", "0")

	setForwarding(t, "1")
	another := newHost(t)
	must(t, another.Configure(routerConfig()))
	must(t, another.Remove())
	wantForwarding(t, "where it was on before", "1", "1")
}

// TestTurningForwardingOnOpensNothingElse: a host with two networks that kept them apart goes on doing so.
func TestTurningForwardingOnOpensNothingElse(t *testing.T) {
	w := newWire(t)
	c := w.listen()
	outside := w.addNeighbour("eth1", "198.51.100")
	passes := func() bool {
		w.send(outside, service)
		return from(c) != "nothing"
	}
	must(t, w.host.Configure(routerConfig()))
	if !passes() {
		t.Error("forwarding was on, and is off for others since we serve a network")
	}
	must(t, w.host.Remove())
	setForwarding(t, "0")
	must(t, w.host.Configure(routerConfig()))
	if passes() {
		t.Error("we turned forwarding on, and now others are forwarded too")
	}
}

func TestStrictSources(t *testing.T) {
	newWire(t)
	set := func(name, value string) {
		must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte(value), 0))
	}
	for _, test := range []struct {
		all, eth0 string
		want      []string
	}{{"0", "0", nil}, {"0", "1", []string{"eth0"}}, {"1", "0", []string{"eth0"}}, {"1", "2", nil}, {"2", "1", nil}} {
		set("all", test.all)
		set("eth0", test.eth0)
		set("picket0", "0")
		if got := StrictSources("picket0"); !slices.Equal(got, test.want) {
			t.Errorf("all %s, eth0 %s: %v, want %v", test.all, test.eth0, got, test.want)
		}
	}
}

// TestForwardingThatCannotBeTurnedOn leaves all else in place: who set it up from afar must get back in.
func TestForwardingThatCannotBeTurnedOn(t *testing.T) {
	w := newWire(t)
	setForwarding(t, "0")
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil { // of this thread, which ends with the test
		t.Skip(err)
	}
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	err := w.host.Configure(routerConfig())
	var forwards *ForwardingError
	if !errors.As(err, &forwards) || !strings.Contains(err.Error(), "in a container") {
		t.Errorf("got %v", err)
	}
	if !slices.Contains(snapshot(t, w.host), "rule 100.64.0.0/10") {
		t.Error("the rest is not in place")
	}
}

// syn4 is a SYN with that MSS.
func syn4(from, to string, mss uint16) []byte {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	ip := udp4(from, to)[:20]
	binary.BigEndian.PutUint16(ip[2:], 44)
	ip[9] = unix.IPPROTO_TCP
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip, 0))
	tcp := binary.BigEndian.AppendUint16(nil, src.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, dst.Port())
	tcp = append(tcp, 0, 0, 0, 1, 0, 0, 0, 0, 6<<4, 0x02, 0xff, 0xff, 0, 0, 0, 0, 2, 4, byte(mss>>8), byte(mss))
	pseudo := uint32(unix.IPPROTO_TCP) + uint32(len(tcp))
	binary.BigEndian.PutUint16(tcp[16:], ^sum(append(slices.Clone(ip[12:20]), tcp...), pseudo))
	return append(ip, tcp...)
}

func sum(b []byte, s uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// mssOf finds the MSS of an IPv4 SYN.
func mssOf(packet []byte) int {
	if len(packet) < 40 || packet[9] != unix.IPPROTO_TCP {
		return 0
	}
	tcp := packet[int(packet[0]&15)*4:]
	for options := tcp[20 : tcp[12]>>4*4]; len(options) >= 4; {
		switch options[0] {
		case 2:
			return int(binary.BigEndian.Uint16(options[2:]))
		case 1:
			options = options[1:]
		default:
			options = options[options[1]:]
		}
	}
	return 0
}

func TestMSSIsClamped(t *testing.T) {
	w := newWire(t)
	w.listen()
	var raw net.PacketConn
	w.in(w.neighbour, func() {
		var err error
		raw, err = net.ListenPacket("ip4:tcp", "192.0.2.2")
		must(t, err)
	})
	defer raw.Close()
	must(t, w.host.Configure(routerConfig()))
	for mss, want := range map[uint16]int{1460: 1240, 1240: 1240, 900: 900} {
		w.write(syn4(peer, "192.0.2.2:80", mss))
		b := make([]byte, 100)
		raw.SetReadDeadline(time.Now().Add(time.Second))
		n, _, err := raw.ReadFrom(b)
		must(t, err)
		if got := mssOf(append(make([]byte, 0, 200), append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, b[:n]...)...)); got != want {
			t.Errorf("a SYN out of the tunnel with MSS %d arrives with %d, want %d", mss, got, want)
		}
	}
	flushConntrack(t)
	w.in(w.neighbour, func() {
		c, err := (&net.Dialer{Timeout: 100 * time.Millisecond}).Dial("tcp4", "100.64.0.2:80") // by a wire of 1500 bytes
		if err == nil {
			c.Close()
		}
	})
	for {
		packet := w.toPeer()
		if packet == nil {
			t.Fatal("no SYN into the tunnel")
		}
		if mss := mssOf(packet); mss != 0 {
			if mss != 1240 {
				t.Errorf("a SYN into the tunnel has MSS %d", mss)
			}
			return
		}
	}
}

// TestPacketTooBigIsAnswered: a host behind the router learns the tunnel's MTU, and a peer that of the network.
func TestPacketTooBigIsAnswered(t *testing.T) {
	w := newWire(t)
	c := w.listen()
	must(t, w.host.Configure(routerConfig()))
	w.write(udp4(peer, service))
	at := from(c)
	raw, err := c.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		must(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO))
	}))
	big := make([]byte, 1400)
	for range 50 {
		if _, err = c.WriteToUDPAddrPort(big, netip.MustParseAddrPort(at)); errors.Is(err, unix.EMSGSIZE) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("the neighbour sends 1400 bytes into a tunnel of 1280 and is told %v", err)
	}

	must(t, netlink.LinkSetMTU(link(t, "eth0"), 1000))
	packet := udp4(peer, service)
	packet = append(packet, make([]byte, 1100)...)
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	binary.BigEndian.PutUint16(packet[6:], 0x4000) // do not fragment
	packet[10], packet[11] = 0, 0
	binary.BigEndian.PutUint16(packet[10:], ^sum(packet[:20], 0))
	binary.BigEndian.PutUint16(packet[24:], uint16(len(packet)-20))
	w.write(packet)
	answer := w.toPeer()
	if len(answer) < 28 || answer[9] != unix.IPPROTO_ICMP || answer[20] != 3 || answer[21] != 4 || binary.BigEndian.Uint16(answer[26:]) != 1000 {
		t.Errorf("a peer's packet too big for the network is answered %x", answer)
	}
}

// others is every rule of tables that are not ours, with their handles.
func others(t *testing.T, h *Host) (out []string) {
	t.Helper()
	chains, err := h.nft.ListChains()
	must(t, err)
	for _, ch := range chains {
		if ch.Table.Name == guardName && ch.Table.Family == nftables.TableFamilyINet {
			continue
		}
		rules, err := h.nft.GetRules(ch.Table, ch)
		must(t, err)
		for _, r := range rules {
			out = append(out, strings.Join([]string{ch.Table.Name, ch.Name, string(r.UserData), string(rune('0' + r.Handle))}, " "))
		}
	}
	slices.Sort(out)
	return out
}

// TestRulesOfOtherTablesStay: another program has a table with chains at the same hooks and priorities, and one of our table's name in
// another family.
func TestRulesOfOtherTablesStay(t *testing.T) {
	w := newWire(t)
	for _, table := range []*nftables.Table{{Name: "filter", Family: nftables.TableFamilyINet}, {Name: guardName, Family: nftables.TableFamilyIPv4}} {
		w.host.nft.AddTable(table)
		ch := w.host.nft.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		w.host.nft.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{&expr.Counter{}}, UserData: []byte("theirs")})
	}
	must(t, w.host.nft.Flush())
	before := others(t, w.host)
	if len(before) != 2 {
		t.Fatalf("the other tables have %v", before)
	}
	for _, step := range []func() error{
		func() error { return w.host.Configure(routerConfig()) },
		func() error { return w.host.Configure(with(func(c *Config) { c.Served = everything })) },
		func() error { return w.host.Configure(testConfig()) },
		w.host.Remove,
	} {
		must(t, step())
		if got := others(t, w.host); !slices.Equal(got, before) {
			t.Errorf("the other tables have %v, before %v", got, before)
		}
	}
	if w.host.ourChains()["forward"] != nil {
		t.Error("our table is left after Remove")
	}
}

// TestRouterIsMended: somebody flushes the rules, and removes single chains.
func TestRouterIsMended(t *testing.T) {
	w := newWire(t)
	c := w.listen()
	config := routerConfig()
	spoil := map[string]func(){
		"the ruleset is flushed": func() { w.host.nft.FlushRuleset() },
		"the nat chain is gone":  func() { w.host.nft.DelChain(w.host.ourChains()["nat"]) },
		"the clamps are gone":    func() { w.host.nft.FlushChain(w.host.ourChains()["clamp"]) },
		"forwarding is off":      func() { setForwarding(t, "0") },
	}
	for name, f := range spoil {
		must(t, w.host.Configure(config))
		f()
		must(t, w.host.nft.Flush())
		must(t, w.host.Configure(config))
		flushConntrack(t)
		w.write(udp4(peer, service))
		if got := from(c); got != "192.0.2.1:4000" || !w.host.guardInPlace(w.host.guardChains(config), len(w.host.guardRules(config)), w.host.guardMark(config)) {
			t.Errorf("%s: then a packet comes from %s", name, got)
		}
	}
}

func TestForgetter(t *testing.T) {
	w := newWire(t)
	c := w.listen()
	must(t, w.host.Configure(routerConfig()))
	w.write(udp4(peer, service))
	from(c)
	w.write(udp4("100.64.0.3:4000", service)) // another peer's flow stays
	from(c)
	entries := func() (out []string) {
		conn, err := conntrack.Dial(nil)
		must(t, err)
		defer conn.Close()
		all, err := conn.Dump(nil)
		must(t, err)
		for _, f := range all {
			if f.TupleOrig.Proto.DestinationPort == 7000 {
				out = append(out, f.TupleOrig.IP.SourceAddress.String())
			}
		}
		slices.Sort(out)
		return out
	}
	if got := entries(); !slices.Equal(got, []string{"100.64.0.2", "100.64.0.3"}) {
		t.Fatalf("connection tracking knows %v", got)
	}
	f := NewForgetter(slog.New(slog.DiscardHandler))
	f.Forget([]Flow{
		{netip.MustParseAddrPort("100.64.0.77:1"), netip.MustParseAddrPort(service), unix.IPPROTO_TCP}, // not there any more
		{netip.MustParseAddrPort("100.64.0.2:9"), netip.MustParseAddrPort("192.0.2.2:0"), unix.IPPROTO_ICMP},
		{netip.MustParseAddrPort("[fd7a:115c::2]:9"), netip.MustParseAddrPort("[2001:db8::2]:80"), unix.IPPROTO_TCP},
		{netip.MustParseAddrPort(peer), netip.MustParseAddrPort(service), unix.IPPROTO_UDP},
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, f.Run(ctx)) // what is queued is forgotten at the end, too
	if got := entries(); !slices.Equal(got, []string{"100.64.0.3"}) {
		t.Errorf("after that, connection tracking knows %v", got)
	}
}
