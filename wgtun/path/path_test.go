package path

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

const latency = 20 * time.Millisecond

func at2(addrs ...netip.Addr) (out []netip.AddrPort) {
	for _, a := range addrs {
		out = append(out, at(a))
	}
	return out
}

// lab is an internet with 20 ms between any two places.
func lab(seed uint64) *nettest.Network {
	n := nettest.New(seed)
	n.SetDefault(nettest.Link{Latency: latency})
	return n
}

func TestFirstDatagramsArriveAfterOneProbeRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrX, addrB, addrN)) // two of three are dead
		before := time.Now()
		a.send(b, "one", "two")
		a.send(b, "three")
		time.Sleep(3 * latency)
		if diff := cmp.Diff([]string{"one", "two", "three"}, b.texts()); diff != "" {
			t.Error(diff)
		}
		s := a.status(b)
		want := Status{Kind: "direct", Addr: at(addrB), Latency: 2 * latency, Since: before.Add(2 * latency), Heard: before.Add(2 * latency)}
		if diff := cmp.Diff(want, s, cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); diff != "" {
			t.Error(diff)
		}
		b.send(a, "answer") // b asked back meanwhile, and was told of no address
		time.Sleep(2 * latency)
		if diff := cmp.Diff([]string{"answer"}, a.texts()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]netip.AddrPort{at(addrA)}, a.Observed(1), cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); diff != "" {
			t.Error(diff)
		}
	})
}

func TestIdlePeersCostNoDatagramAndNoLiveState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		seen := record(n)
		a := start(t, n.Host(addrA))
		for i := range 1000 {
			a.SetPeer(Peer{Tunnel: key.TunnelPublic{1, byte(i), byte(i >> 8)}, Probe: key.NewProbe().Public(), Candidates: at2(addrB, addrC)})
		}
		time.Sleep(time.Hour)
		if got := seen.matching(func(nettest.Datagram) bool { return true }); len(got) != 0 {
			t.Errorf("%d datagrams sent", len(got))
		}
		if s := a.Stats(); s.Peers != 1000 || s.Live != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestUsedPeerGoesBackToSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrB))
		chat(a, b, time.Minute)
		if a.status(b).Kind != "direct" {
			t.Fatal("no path while in use")
		}
		time.Sleep(10 * time.Minute)
		if s := a.status(b); s.Kind != "" || a.Stats().Live != 0 || b.Stats().Live != 0 || a.sizes() != (sizes{}) || b.sizes() != (sizes{}) {
			t.Errorf("still live: %+v, %d, %d", s, a.Stats().Live, b.Stats().Live)
		}
		sent := a.Stats().Pings
		time.Sleep(time.Hour)
		if a.Stats().Pings != sent {
			t.Error("an idle peer is pinged")
		}
		a.send(b, "awake")
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"awake"}, b.texts()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBadLinksKeepOnePath(t *testing.T) {
	for _, tt := range []struct {
		name  string
		link  nettest.Link
		least float64
	}{
		{"10 % loss", nettest.Link{Latency: latency, Loss: 0.1}, 0.85},
		{"10 % loss, reorder, duplicates, jitter of 200 ms", nettest.Link{Latency: latency, Jitter: 200 * time.Millisecond, Loss: 0.1, Reorder: 0.25, Duplicate: 0.05}, 0.85},
		{"satellite", nettest.Link{Latency: 400 * time.Millisecond, Jitter: 50 * time.Millisecond}, 0.9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := nettest.New(3)
				n.SetDefault(tt.link)
				a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB, addrC))
				meet(a, b, at2(addrB, addrC), at2(addrA)...)
				changes := countChanges(a, b)
				got, _ := chat(b, a, 10*time.Minute)
				if share := float64(got) / 6000; share < tt.least {
					t.Errorf("%.2f of the datagrams arrived", share)
				}
				if changes() > 10 {
					t.Errorf("%d changes of path in 10 minutes", changes())
				}
			})
		})
	}
}

// countChanges watches a's path to b each 50 ms until the test ends.
func countChanges(a, b *node) func() int {
	ctx, cancel := context.WithCancel(a.t.Context())
	count, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		last := netip.AddrPort{}
		for ctx.Err() == nil {
			if s, _ := a.Status(b.tunnel); s.Kind != "" && s.Addr != last {
				count, last = count+1, s.Addr
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return func() int {
		cancel()
		<-done
		return count
	}
}

func TestDeadPathIsLeftWithinFiveSeconds(t *testing.T) {
	for _, tt := range []struct {
		name  string
		other bool
		left  time.Duration
	}{
		{"none to turn to", false, 5 * time.Second},
		{"another answers", true, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lab(1)
				hostA, hostB := n.Host(addrA), n.Host(addrB)
				a, b := start(t, hostA), start(t, hostB)
				candidates := at2(addrB)
				if tt.other {
					candidates = append(candidates, at(addrC))
				}
				meet(a, b, candidates)
				chat(a, b, 10*time.Second)
				if got := a.status(b).Addr; got != at(addrB) {
					t.Fatalf("path %v", got)
				}
				if tt.other {
					hostB.SetAddrs(addrC) // and nobody tells b
				} else {
					n.SetLink(hostA, hostB, nettest.Link{Down: true})
				}
				died := time.Now()
				for a.status(b).Addr == at(addrB) {
					a.send(b, "x")
					time.Sleep(50 * time.Millisecond)
				}
				if took := time.Since(died); took > tt.left {
					t.Errorf("left after %v", took)
				}
				time.Sleep(time.Second)
				want := Status{}
				if tt.other {
					want = Status{Kind: "direct", Addr: at(addrC)}
				}
				if s := a.status(b); s.Kind != want.Kind || s.Addr != want.Addr {
					t.Errorf("now %+v", s)
				}
			})
		})
	}
}

func TestRoamingPeerIsFollowedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		hostA := n.Host(addrA)
		a, b := start(t, hostA), start(t, n.Host(addrB))
		meet(a, b, at2(addrB))
		chat(a, b, 10*time.Second)
		hostA.SetAddrs(addrC)
		a.Reprobe()
		moved := time.Now()
		for len(a.take()) == 0 {
			b.send(a, "x")
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(moved); took > time.Second+2*latency {
			t.Errorf("b reached a's new address after %v", took)
		}
		if got := b.status(a).Addr; got != at(addrC) {
			t.Errorf("path %v", got)
		}
		b.take()
		a.send(b, "from the new address")
		time.Sleep(latency)
		if diff := cmp.Diff([]string{"from the new address"}, b.texts()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPeersBehindNATAreReached(t *testing.T) {
	for _, c := range []nettest.NATConfig{
		{},
		{Mapping: nettest.AddressDependent, Filtering: nettest.AddressDependent},
		{Mapping: nettest.AddressAndPortDependent, Filtering: nettest.AddressAndPortDependent},
	} {
		t.Run(fmt.Sprintf("mapping %d, filtering %d", c.Mapping, c.Filtering), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lab(1)
				nat := n.NAT(c, addrN)
				a, b := start(t, nat.Host(netip.MustParseAddr("10.0.0.2"))), start(t, n.Host(addrB))
				meet(a, b, at2(addrB), netip.MustParseAddrPort("10.0.0.2:41641"))
				aGot, bGot := chat(a, b, 10*time.Second)
				if aGot < 98 || bGot < 98 {
					t.Errorf("of 100, %d and %d arrived", aGot, bGot)
				}
				if seen := a.Observed(1); len(seen) != 1 || seen[0].Addr() != addrN {
					t.Errorf("seen as %v", seen)
				}
				nat.Forget() // the router was switched off and on: a's next ping makes a new mapping
				aGot, bGot = chat(a, b, 20*time.Second)
				if aGot < 140 || bGot < 140 {
					t.Errorf("of 200, %d and %d arrived after the router forgot", aGot, bGot)
				}
			})
		})
	}
}

func TestFasterPathIsTakenOnlyWhenMuchFasterAndNotSoon(t *testing.T) {
	for _, tt := range []struct {
		name       string
		slow, fast time.Duration
		after      time.Duration
		want       netip.Addr
	}{
		{"a little faster", 100 * time.Millisecond, 80 * time.Millisecond, time.Minute, addrB},
		{"faster by what nobody feels", 2 * time.Millisecond, time.Millisecond, time.Minute, addrB},
		{"much faster, but the path is new", 100 * time.Millisecond, 10 * time.Millisecond, time.Second, addrB},
		{"much faster", 100 * time.Millisecond, 10 * time.Millisecond, time.Minute, addrC},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := start(t, lab(1).Host(addrA))
				a.SetPeer(Peer{Tunnel: key.TunnelPublic{1}, Probe: key.NewProbe().Public(), Candidates: at2(addrB, addrC)})
				p := a.table.peer(key.TunnelPublic{1})
				a.mu.Lock()
				defer a.mu.Unlock()
				l := a.rouseLocked(p)
				l.candidates[0].measured(tt.slow)
				a.takeLocked(p, l.candidates[0], a.now()-tt.after)
				l.candidates[1].measured(tt.fast)
				a.chooseLocked(p, l.candidates[1], a.now())
				if got := l.current.addr(); got != at(tt.want) {
					t.Errorf("on %v", got)
				}
			})
		})
	}
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		hostA, hostB := n.Host(addrA), n.Host(addrB)
		a, b := start(t, hostA), start(t, hostB)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, _, err := a.Ping(ctx, b.tunnel); !errors.Is(err, ErrNoPeer) {
			t.Errorf("ping of nobody: %v", err)
		}
		meet(a, b, at2(addrX))
		if _, _, err := a.Ping(ctx, b.tunnel); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ping of nowhere: %v", err)
		}
		meet(a, b, at2(addrX, addrB))
		for range 3 {
			if took, from, err := a.Ping(t.Context(), b.tunnel); took != 2*latency || from != at(addrB) || err != nil {
				t.Errorf("%v from %v, %v", took, from, err)
			}
		}
		n.SetLink(hostA, hostB, nettest.Link{Latency: latency, Loss: 0.5})
		for range 5 {
			if _, _, err := a.Ping(t.Context(), b.tunnel); err != nil {
				t.Errorf("with half of all lost: %v", err)
			}
		}
	})
}

func TestWhatWaitsForAPathIsTheNewestAndLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		hostB := n.Host(addrC) // not yet where a looks for it
		a, b := start(t, n.Host(addrA)), start(t, hostB)
		meet(a, b, at2(addrB))
		var want []string
		for i := range 100 {
			text := fmt.Sprint(i)
			a.send(b, text)
			if i >= 100-maxHeld {
				want = append(want, text)
			}
		}
		hostB.SetAddrs(addrB)
		time.Sleep(time.Second)
		if diff := cmp.Diff(want, b.texts()); diff != "" {
			t.Error(diff)
		}
		if a.sizes().held != 0 || a.dropped(DropNoPath) != 100-maxHeld {
			t.Errorf("%+v, drops %v", a.sizes(), a.Stats().Drops)
		}

		hostB.SetAddrs(addrC)
		time.Sleep(10 * time.Minute)
		a.send(b, "too old when the path comes")
		a.send(b, strings.Repeat("x", maxHeldSize))
		if a.sizes().held == 0 {
			t.Error("pushed out by what is too large to be held")
		}
		time.Sleep(heldLife + tick)
		if got := a.sizes().held; got != 0 {
			t.Errorf("%d bytes held for too long", got)
		}
		hostB.SetAddrs(addrB)
		time.Sleep(10 * time.Second)
		if got := b.texts(); got != nil {
			t.Errorf("%q", got)
		}
	})
}

func TestWhatWaitsIsBoundedOverAllPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := start(t, lab(1).Host(addrA))
		for i := range 200 {
			peer := &node{tunnel: key.TunnelPublic{2, byte(i)}}
			a.SetPeer(Peer{Tunnel: peer.tunnel, Probe: key.NewProbe().Public()})
			for range maxHeld {
				a.send(peer, strings.Repeat("x", 7000))
			}
		}
		if got := a.sizes().held; got == 0 || got > maxHeldAll {
			t.Errorf("%d bytes held", got)
		}
	})
}

func TestPortChangeKeepsPeersAndFindsPathsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrB))
		chat(a, b, 5*time.Second)
		for range 3 {
			if a.LocalPort() != port {
				t.Errorf("port %d", a.LocalPort())
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if a.LocalPort() != 0 {
				t.Error("closed, and has a port")
			}
			time.Sleep(time.Minute)
			a.open()
			aGot, bGot := chat(a, b, 10*time.Second)
			if aGot < 90 || bGot < 90 {
				t.Errorf("of 100, %d and %d arrived", aGot, bGot)
			}
		}
	})
}

func TestBatchesGoOutAsBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab(1)
		counted := &counter{Bind: n.Host(addrA).Bind()}
		a, b := start(t, n.Host(addrC), func(c *Config) { c.Inner = counted }), start(t, n.Host(addrB))
		meet(a, b, at2(addrB))
		chat(a, b, time.Second)
		counted.take()
		a.send(b, "1", "2", "3", "4", "5")
		if got := counted.take(); !slices.Equal(got, []int{5}) {
			t.Errorf("sent in batches of %v", got)
		}
	})
}

// counter notes the size of each batch of WireGuard's sent through it.
type counter struct {
	conn.Bind
	mu    sync.Mutex
	sizes []int
}

func (c *counter) take() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	sizes := c.sizes
	c.sizes = nil
	return sizes
}

func (c *counter) Send(bufs [][]byte, ep conn.Endpoint) error {
	if looksLikeWireGuard(bufs[0]) {
		c.mu.Lock()
		c.sizes = append(c.sizes, len(bufs))
		c.mu.Unlock()
	}
	return c.Bind.Send(bufs, ep)
}
