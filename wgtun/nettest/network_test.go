package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/conn"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
	addrC = netip.MustParseAddr("192.0.2.3")
	addrN = netip.MustParseAddr("198.51.100.1")
	addrI = netip.MustParseAddr("10.0.0.2")
	addrJ = netip.MustParseAddr("10.0.0.3")
)

const port = 7000

// station is an open bind whose arrivals are collected.
type station struct {
	bind conn.Bind
	got  chan Datagram
}

// open opens port on h; the bind is closed when the test ends.
func open(t *testing.T, h *Host) station {
	t.Helper()
	s := station{bind: h.Bind(), got: make(chan Datagram, queueLength)}
	fns, actual, err := s.bind.Open(port)
	if err != nil || actual != port {
		t.Fatalf("Open: port %d, %v", actual, err)
	}
	t.Cleanup(func() { _ = s.bind.Close() })
	for _, fn := range fns {
		go s.collect(fn)
	}
	return s
}

func (s station) collect(fn conn.ReceiveFunc) {
	bufs, sizes, eps := make([][]byte, s.bind.BatchSize()), make([]int, s.bind.BatchSize()), make([]conn.Endpoint, s.bind.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 1500)
	}
	for {
		n, err := fn(bufs, sizes, eps)
		if err != nil {
			return
		}
		for i := range n {
			ep := eps[i].(*Endpoint)
			s.got <- Datagram{From: ep.AddrPort, To: netip.AddrPortFrom(ep.src, port), Payload: append([]byte(nil), bufs[i][:sizes[i]]...)}
		}
	}
}

func (s station) send(t *testing.T, to netip.AddrPort, texts ...string) {
	t.Helper()
	ep, err := s.bind.ParseEndpoint(to.String())
	if err != nil {
		t.Fatal(err)
	}
	var bufs [][]byte
	for _, text := range texts {
		bufs = append(bufs, []byte(text))
	}
	if err := s.bind.Send(bufs, ep); err != nil {
		t.Fatal(err)
	}
}

// texts returns what has arrived by now.
func (s station) texts() (out []string) {
	synctest.Wait()
	for {
		select {
		case d := <-s.got:
			out = append(out, string(d.Payload))
		default:
			return out
		}
	}
}

func at(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func TestLatencyIsKeptToTheNanosecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		n.SetDefault(Link{Latency: 20 * time.Millisecond})
		a, b := open(t, n.Host(addrA)), open(t, n.Host(addrB))
		a.send(t, at(addrB), "one", "two", "three")
		time.Sleep(20*time.Millisecond - 1)
		if got := b.texts(); got != nil {
			t.Errorf("arrived early: %q", got)
		}
		time.Sleep(time.Nanosecond)
		if diff := cmp.Diff([]string{"one", "two", "three"}, b.texts()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLossDuplicationAndReordering(t *testing.T) {
	tests := []struct {
		name                            string
		link                            Link
		minimum, maximum, leastOvertake int
	}{
		{"down: nothing arrives", Link{Down: true}, 0, 0, 0},
		{"loss 10 %", Link{Loss: 0.1}, 860, 940, 0},
		{"duplicate 5 %", Link{Duplicate: 0.05}, 1025, 1080, 0},
		{"reorder 25 %", Link{Latency: time.Millisecond, Reorder: 0.25}, 1000, 1000, 100},
		{"jitter", Link{Jitter: 200 * time.Millisecond}, 1000, 1000, 100},
		{"perfect", Link{}, 1000, 1000, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New(7)
				hosts := []*Host{n.Host(addrA), n.Host(addrB)}
				n.SetLink(hosts[1], hosts[0], tt.link)
				a, b := open(t, hosts[0]), open(t, hosts[1])
				for i := range 1000 {
					a.send(t, at(addrB), fmt.Sprintf("%04d", i))
					time.Sleep(100 * time.Microsecond)
				}
				time.Sleep(time.Second)
				got := b.texts()
				overtaken := 0
				for i := 1; i < len(got); i++ {
					if got[i] < got[i-1] {
						overtaken++
					}
				}
				if len(got) < tt.minimum || len(got) > tt.maximum || overtaken < tt.leastOvertake {
					t.Errorf("%d arrived, %d overtaken", len(got), overtaken)
				}
				if tt.leastOvertake == 0 && overtaken > 0 {
					t.Errorf("%d overtaken on a link that keeps order", overtaken)
				}
			})
		})
	}
}

func TestBindBehavesAsTheRealOne(t *testing.T) {
	for _, tt := range []struct {
		name string
		bind func() conn.Bind
	}{
		{"nettest", func() conn.Bind { return New(1).Host(netip.MustParseAddr("127.0.0.1")).Bind() }},
		{"real", conn.NewDefaultBind},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.bind()
			if err := b.Close(); err != nil {
				t.Fatalf("Close before Open: %v", err)
			}
			for range 2 { // a port change is Close, then Open
				fns, p, err := b.Open(0)
				if err != nil || p == 0 {
					t.Fatalf("Open: port %d, %v", p, err)
				}
				if _, _, err := b.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
					t.Errorf("second Open: %v", err)
				}
				ended := make(chan error, len(fns))
				for _, fn := range fns {
					go func() {
						n := b.BatchSize()
						bufs := make([][]byte, n)
						for i := range bufs {
							bufs[i] = make([]byte, 100)
						}
						_, err := fn(bufs, make([]int, n), make([]conn.Endpoint, n))
						ended <- err
					}()
				}
				if err := b.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				for range fns {
					if err := <-ended; !errors.Is(err, net.ErrClosed) {
						t.Errorf("receive after Close: %v", err)
					}
				}
			}
			if _, err := b.ParseEndpoint("nowhere"); err == nil {
				t.Error("endpoint without address accepted")
			}
			ep, err := b.ParseEndpoint("192.0.2.7:9")
			if err != nil || ep.DstToString() != "192.0.2.7:9" || ep.DstIP() != netip.MustParseAddr("192.0.2.7") {
				t.Errorf("endpoint %v, %v", ep, err)
			}
			if err := b.Send([][]byte{{1}}, ep); err == nil {
				t.Error("sent while closed")
			}
		})
	}
}

func TestPortAndFamilyRefusals(t *testing.T) {
	h := New(1).Host(addrA)
	open(t, h)
	other := h.Bind()
	if _, _, err := other.Open(port); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port opened twice: %v", err)
	}
	if _, _, err := other.Open(0); err != nil {
		t.Error(err)
	}
	ep, _ := other.ParseEndpoint("[2001:db8::1]:1")
	if err := other.Send([][]byte{{1}}, ep); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("IPv6 sent from a host without it: %v", err)
	}
}

func TestReplyKeepsTheAddressAskedAndInjectForges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		evil := n.Host(addrC)
		a, b := open(t, n.Host(addrA)), open(t, n.Host(addrB, netip.MustParseAddr("192.0.2.22")))
		evil.Inject(at(addrA), netip.MustParseAddrPort("192.0.2.22:7000"), []byte("forged"))
		synctest.Wait()
		d := <-b.got
		if diff := cmp.Diff(Datagram{From: at(addrA), To: netip.MustParseAddrPort("192.0.2.22:7000"), Payload: []byte("forged")}, d, cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); diff != "" {
			t.Fatal(diff)
		}
		if err := b.bind.Send([][]byte{[]byte("reply")}, &Endpoint{AddrPort: d.From, src: d.To.Addr()}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := <-a.got; got.From != d.To {
			t.Errorf("reply came from %v, not from %v", got.From, d.To)
		}
	})
}

func TestRoamingKeepsTheSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		roamer := n.Host(addrA)
		a, b := open(t, roamer), open(t, n.Host(addrB))
		roamer.SetAddrs(addrC)
		a.send(t, at(addrB), "from the new address")
		b.send(t, at(addrA), "to the old")
		b.send(t, at(addrC), "to the new")
		if got := (<-b.got).From; got != at(addrC) {
			t.Errorf("sent from %v", got)
		}
		if diff := cmp.Diff([]string{"to the new"}, a.texts()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestNATKinds(t *testing.T) {
	otherPort := netip.AddrPortFrom(addrA, port+1)
	tests := []struct {
		name              string
		config            NATConfig
		wait              time.Duration
		sameAddr, samePub bool // another port of the same host gets in; two remotes see one outside port
		third             bool // a host never sent to gets in
	}{
		{"symmetric: only whom we sent to", NATConfig{Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent}, 0, false, false, false},
		{"address-dependent: any port of whom we sent to", NATConfig{Mapping: AddressDependent, Filtering: AddressDependent}, 0, true, false, false},
		{"port-restricted cone", NATConfig{Filtering: AddressAndPortDependent}, 0, false, true, false},
		{"full cone", NATConfig{}, 0, true, true, true},
		{"full cone, mapping timed out", NATConfig{Timeout: time.Minute}, time.Minute + 1, false, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New(1)
				hostA, hostC := n.Host(addrA), n.Host(addrC)
				a, b := open(t, hostA), open(t, n.Host(addrB))
				in := open(t, n.NAT(tt.config, addrN).Host(addrI))
				in.send(t, at(addrA), "out")
				in.send(t, at(addrB), "out")
				synctest.Wait()
				public, publicB := (<-a.got).From, (<-b.got).From
				if public.Addr() != addrN || (public == publicB) != tt.samePub {
					t.Errorf("seen as %v and %v", public, publicB)
				}
				time.Sleep(tt.wait)
				want := []string(nil)
				if tt.wait == 0 {
					a.send(t, public, "answer")
					want = append(want, "answer")
				}
				hostA.Inject(otherPort, public, []byte("other port"))
				if tt.sameAddr {
					want = append(want, "other port")
				}
				hostC.Inject(at(addrC), public, []byte("third"))
				if tt.third {
					want = append(want, "third")
				}
				if diff := cmp.Diff(want, in.texts()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestNATHairpinAndDoubleNAT(t *testing.T) {
	for _, hairpin := range []bool{false, true} {
		t.Run(fmt.Sprintf("hairpin %v", hairpin), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New(1)
				carrier := n.NAT(NATConfig{}, addrN)
				home := carrier.NAT(NATConfig{Hairpin: hairpin, PreservePort: true}, netip.MustParseAddr("100.64.0.1"))
				i, j := open(t, home.Host(addrI)), open(t, home.Host(addrJ))
				out := open(t, n.Host(addrA))
				i.send(t, at(addrA), "out")
				synctest.Wait()
				if got := (<-out.got).From.Addr(); got != addrN {
					t.Errorf("seen outside as %v", got)
				}
				j.send(t, netip.MustParseAddrPort("100.64.0.1:7000"), "across") // i's mapping, its port preserved
				j.send(t, at(addrI), "inside")
				want := []string{"inside"}
				if hairpin {
					want = []string{"across", "inside"}
				}
				if diff := cmp.Diff(want, i.texts()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestStatsNameEachLoss(t *testing.T) {
	n := New(1)
	h := n.Host(addrA)
	h.Inject(at(addrA), at(addrB), []byte("nobody there"))
	n.Host(addrB)
	h.Inject(at(addrA), at(addrB), []byte("nobody listens"))
	n.NAT(NATConfig{}, addrN)
	h.Inject(at(addrA), at(addrN), []byte("no mapping"))
	if diff := cmp.Diff(Stats{Sent: 3, NoRoute: 1, NoSocket: 1, Filtered: 1}, n.Stats()); diff != "" {
		t.Error(diff)
	}
}
