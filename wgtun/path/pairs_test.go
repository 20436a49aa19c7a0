package path

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

var update = flag.Bool("update", false, "rewrite the table in docs/paths.md")

// gate is what stands between a node and the internet.
type gate struct {
	name  string
	short string
	nat   *nettest.NATConfig // nil: nothing
}

var gates = []gate{
	{"open", "no NAT, nothing dropped", nil},
	{"full cone", "one port for all destinations, lets anybody in", &nettest.NATConfig{}},
	{"address-restricted", "one port for all destinations, lets in whom the inside has sent to, from any port", &nettest.NATConfig{Filtering: nettest.AddressDependent}},
	{"port-restricted", "one port for all destinations, lets in exactly what answers; most home routers", &nettest.NATConfig{Filtering: nettest.AddressAndPortDependent}},
	{"by address", "another port for each remote address, lets in exactly what answers", &nettest.NATConfig{Mapping: nettest.AddressDependent, Filtering: nettest.AddressAndPortDependent}},
	{"symmetric", "another port for each remote port, lets in exactly what answers; many companies and mobile networks", &nettest.NATConfig{Mapping: nettest.AddressAndPortDependent, Filtering: nettest.AddressAndPortDependent}},
}

// expected says by RFC 4787's terms whether two nodes can meet. A port is of use when it is the same for all destinations. Where only one side's
// is, the other's ping must be let in from a port that nobody foresees: by address, if something was sent to that address before. Of a symmetric
// NAT no address is told, so nothing is; two ports of one reflector do not show that a port depends on the address.
func expected(a, b gate) bool {
	useful := func(g gate) bool { return g.nat == nil || g.nat.Mapping == nettest.EndpointIndependent }
	lets := func(g, from gate) bool {
		return g.nat == nil || g.nat.Filtering == nettest.EndpointIndependent ||
			g.nat.Filtering == nettest.AddressDependent && from.nat.Mapping == nettest.AddressDependent
	}
	switch {
	case useful(a) && useful(b):
		return true
	case useful(a):
		return lets(a, b)
	case useful(b):
		return lets(b, a)
	}
	return false
}

// meeting is two nodes behind gates, and the coordinator between them.
type meeting struct {
	a, b   *node
	nats   map[netip.Addr]*nettest.NAT // by inside address
	follow bool                        // where a node is seen is told to the other
}

func newMeeting(t *testing.T, ga, gb gate) *meeting {
	net := nettest.New(1)
	net.SetDefault(nettest.Link{Latency: 20 * time.Millisecond})
	host := net.Host(addrR)
	reflect(t, host, oneR.Port(), nil)
	reflect(t, host, twoR.Port(), nil)
	m := &meeting{nats: make(map[netip.Addr]*nettest.NAT)}
	endpoints := func(n *node) []netip.AddrPort { return append(n.Reflexive(), at(n.host.Addrs()[0])) }
	behind := func(g gate, outside, inside netip.Addr, other **node, self **node) *node {
		h := func() *nettest.Host {
			if g.nat == nil {
				return net.Host(outside)
			}
			m.nats[inside] = net.NAT(*g.nat, outside)
			return m.nats[inside].Host(inside)
		}()
		return start(t, h, func(c *Config) {
			c.Seek = func(key.TunnelPublic) {
				time.AfterFunc(40*time.Millisecond, func() { (*other).Sought((*self).tunnel) }) // by the coordinator, as far as each is from the other
			}
			c.Reflected = func() {
				if m.follow {
					// What holds when it is told: of two messages on their way at one moment the older must not be taken for the newer.
					time.AfterFunc(40*time.Millisecond, func() {
						(*other).SetPeer(Peer{Tunnel: (*self).tunnel, Probe: (*self).probe.Public(), Candidates: endpoints(*self)})
					})
				}
			}
		})
	}
	m.a = behind(ga, addrN, netip.MustParseAddr("10.0.0.2"), &m.b, &m.a)
	m.b = behind(gb, netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("10.1.0.2"), &m.a, &m.b)
	for _, n := range []*node{m.a, m.b} {
		n.runReflect(true, oneR, twoR)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	meet(m.a, m.b, endpoints(m.b), endpoints(m.a)...)
	return m
}

// direct has a send to b, and returns after which time b had it; false when never within 20 s.
func (m *meeting) direct() (time.Duration, bool) {
	began := time.Now()
	for time.Since(began) < 20*time.Second {
		if time.Since(began)%(5*time.Second) == 0 { // as WireGuard repeats its handshake
			m.a.send(m.b, "x")
		}
		if len(m.b.take()) > 0 {
			return time.Since(began), m.a.status(m.b).Kind == "direct"
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, false
}

// TestWhoMeets tries each pair of gates, holds it to what is expected, and the table in docs/paths.md to what it found.
func TestWhoMeets(t *testing.T) {
	var table strings.Builder
	fmt.Fprint(&table, "| from \\ to |")
	for _, g := range gates {
		fmt.Fprintf(&table, " %s |", g.name)
	}
	fmt.Fprint(&table, "\n|"+strings.Repeat("---|", len(gates)+1)+"\n")
	for _, a := range gates {
		fmt.Fprintf(&table, "| **%s** |", a.name)
		for _, b := range gates {
			synctest.Test(t, func(t *testing.T) {
				took, ok := newMeeting(t, a, b).direct()
				if ok != expected(a, b) {
					t.Errorf("%s to %s: direct %v, want %v", a.name, b.name, ok, expected(a, b))
				}
				if cell := "relay"; ok {
					fmt.Fprintf(&table, " %d ms |", took.Milliseconds())
				} else {
					fmt.Fprintf(&table, " %s |", cell)
				}
			})
		}
		fmt.Fprintln(&table)
	}
	fmt.Fprintln(&table)
	for _, g := range gates {
		fmt.Fprintf(&table, "- **%s**: %s\n", g.name, g.short)
	}
	golden(t, table.String())
}

// TestNATRestarts: a NAT has forgotten what it lent and lends another port. The next question to the reflectors would be due up to 25 s later only.
func TestNATRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, gates[3], gates[3])
		m.follow = true
		chat(m.a, m.b, 10*time.Second)
		was := m.b.status(m.a)
		if was.Kind != "direct" {
			t.Fatalf("no direct path before: %v", was)
		}
		m.nats[m.a.host.Addrs()[0]].Forget()
		began := time.Now()
		for now := was; now.Kind != "direct" || now.Addr == was.Addr; now = m.b.status(m.a) {
			if time.Since(began) > 8*time.Second {
				t.Fatalf("after %v the peer's path is %q", time.Since(began), now)
			}
			chat(m.a, m.b, 100*time.Millisecond)
		}
		t.Logf("direct again after %v", time.Since(began))
	})
}

// TestNobodyMeetsUnsought: without pings of both at once, what answers alone is let in.
func TestNobodyMeetsUnsought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting(t, gates[3], gates[3])
		m.a.config.Seek, m.b.config.Seek = nil, nil
		if took, ok := m.direct(); ok {
			t.Errorf("direct after %v: then what the coordinator does is of no use", took)
		}
	})
}

// golden holds docs/paths.md to a table.
func golden(t *testing.T, table string) {
	t.Helper()
	const file, begin, end = "../../docs/paths.md", "<!-- table: go test ./wgtun/path -run TestWhoMeets -update -->\n", "<!-- end -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	i, j := strings.Index(string(text), begin), strings.Index(string(text), end)
	if i < 0 || j < i {
		t.Fatalf("%s has no place for the table", file)
	}
	want := slices.Concat(text[:i], []byte(begin), []byte(table), text[j:])
	if string(want) == string(text) {
		return
	}
	if !*update {
		t.Fatalf("%s does not have this table; rewrite it with -update:\n%s", file, table)
	}
	if err := os.WriteFile(file, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestSoughtIsLimited: whoever says that a peer seeks us has us ping it, but not more often than every 2 s, nor whom we do not know.
func TestSoughtIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		seen := record(net)
		a, b := start(t, net.Host(addrA)), start(t, net.Host(addrX))
		a.Sought(b.tunnel)
		if n := a.Stats().Live; n != 0 {
			t.Errorf("%d peers are tended though none is known", n)
		}
		meet(a, b, []netip.AddrPort{at(addrB), at(addrC)}) // where nobody answers
		for range 100 {
			a.Sought(b.tunnel)
			time.Sleep(100 * time.Millisecond)
		}
		n := len(seen.matching(to(addrB)))
		if n < 5 || n > 6*4 {
			t.Errorf("%d pings to one address in 10 s", n)
		}
	})
}

// TestSeekIsLimited: a peer with traffic and without path is sought at once and then less and less often; one with a direct path, or unused, not at all.
func TestSeekIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		sought := 0
		a, b := start(t, net.Host(addrA), func(c *Config) { c.Seek = func(key.TunnelPublic) { sought++ } }), start(t, net.Host(addrB))
		meet(a, b, []netip.AddrPort{at(addrC)})
		time.Sleep(time.Minute)
		if sought != 0 {
			t.Errorf("sought %d times though there is nothing to send", sought)
		}
		a.send(b, "x")
		synctest.Wait()
		if sought != 1 {
			t.Errorf("sought %d times at once, want 1", sought)
		}
		for range 600 {
			a.send(b, "x")
			time.Sleep(time.Second)
		}
		if sought < 8 || sought > 16 {
			t.Errorf("sought %d times in 10 minutes", sought)
		}
		meet(a, b, []netip.AddrPort{at(addrB)})
		chat(a, b, time.Second)
		before := sought
		chat(a, b, time.Minute)
		if sought != before {
			t.Errorf("sought %d times on a direct path", sought-before)
		}
	})
}
