package node

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/path"
)

// told is what the coordinator was last told of endpoints, without the host's own.
func (w *world) told(own ...netip.AddrPort) (out []netip.AddrPort) {
	w.t.Helper()
	synctest.Wait()
	s := w.session()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.config.Report
	if len(s.reports) > 0 {
		r = s.reports[len(s.reports)-1]
	}
	if len(r.Endpoints) > protocol.MaxEndpoints {
		w.t.Errorf("%d endpoints are told", len(r.Endpoints))
	}
	for _, a := range r.Endpoints {
		if slices.Contains(own, a) {
			out = append(out, a)
		}
	}
	return out
}

func ports(s ...string) (out []netip.AddrPort) {
	for _, a := range s {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

// TestEndpoints_ofReflectorsAreTold, at once, and of peers what a reflector or a second peer confirms: one peer alone could have all others ping a victim.
func TestEndpoints_ofReflectorsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		all := ports("203.0.113.4:4000", "203.0.113.4:4001", "198.51.100.66:53", "198.51.100.77:7")
		if got := w.told(all...); len(got) != 0 {
			t.Errorf("told before anybody said so: %v", got)
		}
		o := w.overlay()
		o.mu.Lock()
		o.reflexive = all[:1]
		o.observed = map[int][]netip.AddrPort{1: all[1:], 2: all[3:]}
		o.mu.Unlock()
		o.config.onReflected(w.run)
		if got, want := w.told(all...), []netip.AddrPort{all[3], all[0], all[1]}; !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
	})
}

// TestReflectors_areThoseOfTheMap: by address or at the coordinator's host, without which none is asked, and at the tunnel that is opened next, too.
func TestReflectors_areThoseOfTheMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		_ = w.node.do(w.run, func() { w.node.id.node.URL = "https://192.0.2.1:8443" }) // a name would be looked up
		c := content(newPeer("a", "100.64.0.2").entry())
		c.Network.Reflectors = []protocol.Reflector{{Port: 3478}, {Host: "198.51.100.9", Port: 3479}, {Host: "2001:db8::9", Port: 1}}
		w.send(w.signed(5, c))
		time.Sleep(retryEvery)
		// Of relays, those of the first two that have some.
		c.Relays = []protocol.Relay{
			{Name: "ams", URL: "https://203.0.113.1"}, {Name: "fra", URL: "https://203.0.113.2:8443", Reflect: []uint16{3478, 3479}},
			{Name: protocol.OwnRelay}, {Name: "lon", URL: "https://[2001:db8::2]", Reflect: []uint16{5}}, {Name: "zrh", URL: "https://203.0.113.4", Reflect: []uint16{1}},
		}
		w.send(w.signed(6, c))
		time.Sleep(retryEvery)
		want := []path.Reflector{
			{At: netip.MustParseAddrPort("192.0.2.1:3478")}, {At: netip.MustParseAddrPort("198.51.100.9:3479")}, {At: netip.MustParseAddrPort("[2001:db8::9]:1")},
			{At: netip.MustParseAddrPort("203.0.113.2:3478"), Relay: "fra"}, {At: netip.MustParseAddrPort("203.0.113.2:3479"), Relay: "fra"},
			{At: netip.MustParseAddrPort("[2001:db8::2]:5"), Relay: "lon"},
		}
		w.wantReflectors(want)
		w.overlay().kill <- nil
		time.Sleep(2 * retryEvery)
		synctest.Wait()
		if len(w.overlays) != 2 {
			t.Fatalf("%d tunnels", len(w.overlays))
		}
		w.wantReflectors(want)
		w.send(w.signed(7, content(newPeer("a", "100.64.0.2").entry())))
		time.Sleep(retryEvery)
		w.wantReflectors(nil)
	})
}

func (w *world) wantReflectors(want []path.Reflector) {
	w.t.Helper()
	synctest.Wait()
	o := w.overlay()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.reflectors, want) {
		w.t.Errorf("reflectors %v, want %v", o.reflectors, want)
	}
}

// TestSeek: a peer without path is sought at the coordinator while that is there, and who seeks us is pinged if the map names it.
func TestSeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		w.overlay().config.onSeek(w.run, "a")
		if got := w.session().seeks; !slices.Equal(got, []acl.NodeID{"a"}) {
			t.Errorf("sought %v", got)
		}
		at, inside := netip.MustParseAddrPort("192.0.2.7:1"), netip.MustParseAddrPort("100.64.0.9:1")
		for _, who := range []acl.NodeID{"stranger", "a"} {
			w.handler().OnSought(protocol.Sought{Node: who, Endpoints: []netip.AddrPort{at, inside}})
		}
		synctest.Wait()
		if got := w.overlay().sought; !slices.Equal(got, []acl.NodeID{"a"}) {
			t.Errorf("pinged %v", got)
		}
		if got := w.overlay().hints; len(got) != 1 || !slices.Equal(got["a"], []netip.AddrPort{at}) {
			t.Errorf("hints %v", got)
		}
		w.handler().OnDisconnected(errStopping)
		w.overlay().config.onSeek(w.run, "a")
		if got := w.session().seeks; len(got) != 1 {
			t.Errorf("sought without a coordinator: %v", got)
		}
	})
}

// TestMoves: another default route has paths asked anew and the coordinator connected to anew, at once for the first and within a second for those that
// follow, and nothing else has. A connection that goes on by a router that does not know it would be found dead after half a minute only.
func TestMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.routes = "via 192.0.2.1"
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		time.Sleep(time.Minute)
		w.wantReprobed(0)
		w.move("via 192.0.2.2")
		w.wantReprobed(1)
		w.wantReconnected(1)
		w.move("via 192.0.2.3")
		w.move("via 192.0.2.4")
		w.wantReprobed(1)
		time.Sleep(settleMove)
		w.wantReprobed(2)
		w.move("via 192.0.2.4")
		time.Sleep(time.Minute)
		w.wantReprobed(2)
		w.wantReconnected(2)
		_ = w.node.do(w.run, func() { w.slept += time.Hour })
		time.Sleep(2 * retryEvery)
		w.wantReprobed(3)
		w.wantReconnected(3)
	})
}

func (w *world) move(routes string) {
	_ = w.node.do(w.run, func() { w.routes = routes })
	w.node.changed <- struct{}{}
	synctest.Wait()
}

func (w *world) wantReconnected(want int) {
	w.t.Helper()
	if got := w.session().reconnects; got != want {
		w.t.Errorf("the session was opened anew %d times, want %d", got, want)
	}
}

func (w *world) wantReprobed(want int) {
	w.t.Helper()
	synctest.Wait()
	o := w.overlay()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.reprobed != want {
		w.t.Errorf("paths were asked anew %d times, want %d", o.reprobed, want)
	}
}

// TestMayBeOutside: what a gateway says of its outside address.
func TestMayBeOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		for a, want := range map[string]bool{
			"203.0.113.4:41641": true, "192.168.1.2:41641": true, "100.64.0.7:41641": false, "127.0.0.1:41641": false, "0.0.0.0:41641": false, "0.1.2.3:41641": false,
			"169.254.169.254:80": false, "224.0.0.1:41641": false, "255.255.255.255:41641": false, "203.0.113.4:0": false, "[2001:db8::1]:41641": false,
		} {
			if got := w.node.mayBeOutside(netip.MustParseAddrPort(a)); got != want {
				t.Errorf("%s: %v", a, got)
			}
		}
	})
}
