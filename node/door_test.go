package node

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
	"picket.internal/node/statefile"
	"picket.internal/wgtun/key"
)

// TestDoor_refuses sends maps that must not change what is in force, to a node that enforces generation 5 with peer a.
func TestDoor_refuses(t *testing.T) {
	for _, test := range []struct {
		outcome string
		make    func(w *world, a, b *peer) protocol.Map
		warned  string // in the status; "" when the map is only dropped
	}{
		{"an older generation, replayed", func(w *world, a, b *peer) protocol.Map { return w.signed(4, content(b.entry())) }, ""},
		{"the same generation with another content", func(w *world, a, b *peer) protocol.Map { return w.signed(5, content(b.entry())) }, ""},
		{"a forged signature", func(w *world, a, b *peer) protocol.Map {
			e, _ := content(b.entry()).Encode()
			return w.sign(key.NewCoordinator(), protocol.Header{Network: testNetwork, Node: selfID, Generation: 6}, e)
		}, "refused"},
		{"a signature over other bytes", func(w *world, a, b *peer) protocol.Map {
			m := w.signed(6, content(b.entry()))
			m.Header = bytes.Replace(m.Header, []byte(`"generation":6`), []byte(`"generation":7`), 1)
			return m
		}, "refused"},
		{"another node's map", func(w *world, a, b *peer) protocol.Map {
			e, _ := content(b.entry()).Encode()
			return w.sign(w.key, protocol.Header{Network: testNetwork, Node: "other", Generation: 6}, e)
		}, "refused"},
		{"another network's map", func(w *world, a, b *peer) protocol.Map {
			e, _ := content(b.entry()).Encode()
			return w.sign(w.key, protocol.Header{Network: "net2", Node: selfID, Generation: 6}, e)
		}, "refused"},
		{"entries that are not those signed", func(w *world, a, b *peer) protocol.Map {
			m := w.signed(6, content(a.entry()))
			m.Put = append(m.Put, protocol.Entry{ID: "peer/b", Data: []byte("{}")})
			return m
		}, "refused"},
		{"an address outside the overlay", func(w *world, a, b *peer) protocol.Map {
			evil := b.entry()
			evil.Addresses = addrs("192.0.2.7")
			e, _ := content(a.entry()).Encode()
			e["peer/b"], _ = protocol.Marshal(evil)
			return w.sign(w.key, protocol.Header{Network: testNetwork, Node: selfID, Generation: 6}, e)
		}, "outside the overlay"},
		{"our own address given to a peer", func(w *world, a, b *peer) protocol.Map {
			evil := b.entry()
			evil.Addresses = addrs("100.64.0.1")
			e, _ := content(a.entry()).Encode()
			e["peer/b"], _ = protocol.Marshal(evil)
			return w.sign(w.key, protocol.Header{Network: testNetwork, Node: selfID, Generation: 6}, e)
		}, "given twice"},
		{"an overlay made of the internet", func(w *world, a, b *peer) protocol.Map {
			c := content(b.entry())
			c.Network.Overlay = append(c.Network.Overlay, netip.MustParsePrefix("0.0.0.0/1"))
			return w.signed(6, c)
		}, "not made of private addresses"},
		{"a route that swallows the overlay", func(w *world, a, b *peer) protocol.Map {
			evil := b.entry()
			evil.Routes = []netip.Prefix{netip.MustParsePrefix("100.0.0.0/8")}
			e, _ := content(a.entry()).Encode()
			e["peer/b"], _ = protocol.Marshal(evil)
			return w.sign(w.key, protocol.Header{Network: testNetwork, Node: selfID, Generation: 6}, e)
		}, "overlaps the overlay"},
		{"half the internet as a subnet", func(w *world, a, b *peer) protocol.Map {
			return w.signed(6, content(a.entry(), b.router("128.0.0.0/1")))
		}, "wider than a subnet can be"},
		{"this host's loopback as a subnet", func(w *world, a, b *peer) protocol.Map {
			return w.signed(6, content(a.entry(), b.router("127.0.0.0/8")))
		}, "it is loopback"},
		{"a map that describes another node", func(w *world, a, b *peer) protocol.Map {
			c := content(b.entry())
			c.Self.Node = "other"
			return w.signed(6, c)
		}, "another node"},
		{"a restriction this build does not know", func(w *world, a, b *peer) protocol.Map {
			e, _ := content(b.entry()).Encode()
			e["!deny/0"] = []byte("{}")
			return w.sign(w.key, protocol.Header{Network: testNetwork, Node: selfID, Generation: 6}, e)
		}, "does not know"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.join()
				a, b := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3")
				w.send(w.signed(5, content(a.entry())))
				w.send(test.make(w, a, b))
				if s := w.overlay().last(); s.Generation != 5 || !slices.Equal(nodesOf(s), []acl.NodeID{"a"}) {
					t.Errorf("in force: generation %d, peers %v", s.Generation, nodesOf(s))
				}
				s := w.status()
				if warned := strings.Join(s.Warnings, "; "); s.State != localapi.StateRunning || !strings.Contains(warned, test.warned) || (test.warned == "" && warned != "") {
					t.Errorf("state %s, warnings %q, want %q in them", s.State, warned, test.warned)
				}
				if n := len(w.session().receipts); n != 1 {
					t.Errorf("%d receipts, want only the one of generation 5", n)
				}
				w.send(w.signed(7, content(b.entry())))
				if s := w.status(); s.Generation != 7 || len(s.Warnings) != 0 {
					t.Errorf("the next good map: generation %d, warnings %v", s.Generation, s.Warnings)
				}
			})
		})
	}
}

// TestDoor_diskMapPassesTheSameDoor writes maps to disk, as somebody who can write the state directory but has no key might.
func TestDoor_diskMapPassesTheSameDoor(t *testing.T) {
	for _, test := range []struct {
		outcome string
		spoil   func(w *world, m *statefile.Map)
		state   localapi.State
		peers   int
	}{
		{"as it was: used at once", func(*world, *statefile.Map) {}, localapi.StateRunning, 1},
		{"forged", func(w *world, m *statefile.Map) {
			e, _ := content(newPeer("evil", "100.64.0.9").entry()).Encode()
			m.Signed = w.sign(key.NewCoordinator(), protocol.Header{Network: testNetwork, Node: selfID, Generation: 9}, e)
		}, localapi.StateStarting, 0},
		{"an entry added", func(w *world, m *statefile.Map) {
			m.Signed.Put = append(m.Signed.Put, protocol.Entry{ID: "peer/evil", Data: []byte("{}")})
		}, localapi.StateStarting, 0},
		{"of another node", func(_ *world, m *statefile.Map) { m.Node = "other" }, localapi.StateStarting, 0},
		{"of another network", func(_ *world, m *statefile.Map) { m.Network = "net2" }, localapi.StateStarting, 0},
		{"lease over, by the offset stored", func(_ *world, m *statefile.Map) { m.OffsetMillis = (13 * time.Hour).Milliseconds() }, localapi.StateLapsed, 0},
		{"clock set back before the map was made", func(_ *world, m *statefile.Map) { m.OffsetMillis = -time.Hour.Milliseconds() }, localapi.StateRefused, 0},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.join()
				w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
				w.stop()
				w.editMap(test.spoil)
				w.start()
				s := w.status()
				if s.State != test.state || s.Peers != test.peers && test.state == localapi.StateRunning {
					t.Errorf("state %s (%s), %d peers; want %s, %d", s.State, s.Problem, s.Peers, test.state, test.peers)
				}
				passes := len(w.overlays) == 2 && len(w.overlay().last().Peers) > 0
				if passes != (test.state == localapi.StateRunning) {
					t.Errorf("packets pass: %v", passes)
				}
			})
		})
	}
}

func (w *world) editMap(f func(*world, *statefile.Map)) {
	w.t.Helper()
	d, err := statefile.Open(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	m, ok, err := d.Map()
	if err != nil || !ok {
		w.t.Fatal(ok, err)
	}
	f(w, &m)
	if err := d.SaveMap(m); err != nil {
		w.t.Fatal(err)
	}
}

// TestDoor_generationNeverFallsOverARestart: the map on disk, though its lease is over, still says which are too old.
func TestDoor_generationNeverFallsOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a := newPeer("a", "100.64.0.2")
		old := w.signed(4, content(a.entry()))
		w.send(w.signed(5, content()))
		w.stop()
		time.Sleep(13 * time.Hour)
		w.start()
		w.wantState(localapi.StateLapsed)
		w.connect(0)
		w.send(old)
		if s := w.overlay().last(); len(s.Peers) > 0 {
			t.Errorf("an older map came into force: %v", nodesOf(s))
		}
	})
}

func TestDoor_deltaAndResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a, b := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3")
		first := content(a.entry())
		w.send(w.signed(5, first))
		second := first
		second.Peers = append(slices.Clone(first.Peers), b.entry())
		was, _ := first.Encode()
		next, _ := second.Encode()
		delta := w.signed(6, second)
		delta.Base = 5
		delta.Remove, delta.Put = protocol.Diff(was, next)
		w.send(delta)
		if s := w.overlay().last(); s.Generation != 6 || !slices.Equal(nodesOf(s), []acl.NodeID{"a", "b"}) {
			t.Errorf("generation %d, %v", s.Generation, nodesOf(s))
		}
		delta = w.signed(8, second)
		delta.Base, delta.Put = 7, nil
		w.send(delta)
		if w.session().resyncs != 1 {
			t.Errorf("%d resyncs, want 1", w.session().resyncs)
		}
		receipts := w.session().receipts
		if len(receipts) != 2 || receipts[1].Generation != 6 || !bytes.Equal(receipts[1].Digest, protocol.Digest(next)) {
			t.Errorf("receipts %+v", receipts)
		}
		generation, digest := w.session().config.Held()
		if generation != 6 || !bytes.Equal(digest, protocol.Digest(next)) {
			t.Errorf("held: generation %d, digest %x", generation, digest)
		}
	})
}

func TestDeviceKeyChanged_refusedWhileOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a, b := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3")
		w.send(w.signed(5, content(a.entry(), b.entry())))
		thief := newPeer("a", "100.64.0.2") // another device key under the same node id
		w.send(w.signed(6, content(thief.entry(), b.entry())))
		wantRefused := func() {
			t.Helper()
			s := w.overlay().last()
			if !slices.Equal(nodesOf(s), []acl.NodeID{"b"}) {
				t.Errorf("peers in force %v, want b alone", nodesOf(s))
			}
			if subject, _ := s.Rules.SubjectOf(netip.MustParseAddr("100.64.0.2")); subject != nil {
				t.Error("the refused peer is still a subject of the rules")
			}
			p := w.node.view.Load().peers(time.Now())
			if len(p) != 2 || !strings.Contains(p[0].Refused, "device key changed") || len(p[0].Out) != 0 || p[1].Refused != "" || len(p[1].Out) != 1 {
				t.Errorf("peers: %+v", p)
			}
			if status := w.status(); status.State != localapi.StateRunning || !strings.Contains(strings.Join(status.Warnings, " "), "picket trust a") {
				t.Errorf("state %s, warnings %v", status.State, status.Warnings)
			}
		}
		wantRefused()
		w.stop()
		w.start() // neither does a restart make it forget
		wantRefused()
		socket := w.api()
		if err := socket.Trust(t.Context(), localapi.Trust{Peer: "b"}); err == nil {
			t.Error("trusting a peer whose key has not changed is said to have worked")
		}
		if err := socket.Trust(t.Context(), localapi.Trust{Peer: "a"}); err != nil {
			t.Fatal(err)
		}
		if s := w.overlay().last(); !slices.Equal(nodesOf(s), []acl.NodeID{"a", "b"}) || s.Peers[0].Tunnel != thief.tunnel {
			t.Errorf("after picket trust: %v", nodesOf(s))
		}
		w.connect(0)
		w.send(w.signed(7, content(a.entry(), b.entry()))) // the old key is the stranger now
		if s := w.overlay().last(); !slices.Equal(nodesOf(s), []acl.NodeID{"b"}) {
			t.Errorf("the old device key came back: %v", nodesOf(s))
		}
	})
}

func TestCertificates_badOnesOmitThatPeerAlone(t *testing.T) {
	day := 24 * time.Hour
	sign := func(p *peer, k key.DevicePrivate, node string, from, to time.Duration) []byte {
		return key.Certificate{Node: node, Serial: 1, Tunnel: p.tunnel, Probe: p.probe, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to)}.Sign(k)
	}
	for _, test := range []struct {
		outcome string
		spoil   func(p *peer, e *protocol.Peer)
		want    string
	}{
		{"expired", func(p *peer, e *protocol.Peer) { e.Certificate = sign(p, p.device, "a", -3*day, -day) }, "outside its validity"},
		{"not yet valid", func(p *peer, e *protocol.Peer) { e.Certificate = sign(p, p.device, "a", day, 2*day) }, "outside its validity"},
		{"signed by another device", func(p *peer, e *protocol.Peer) { e.Certificate = sign(p, key.NewDevice(), "a", -day, day) }, "not signed by"},
		{"of another node", func(p *peer, e *protocol.Peer) { e.Certificate = sign(p, p.device, "b", -day, day) }, "names another node"},
		{"garbage", func(_ *peer, e *protocol.Peer) { e.Certificate = []byte("garbage") }, "refused"},
		{"the peer's login ended", func(_ *peer, e *protocol.Peer) { e.Expires = time.Now().Add(-time.Second) }, "login ended"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.join()
				a, b := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3")
				bad := a.entry()
				test.spoil(a, &bad)
				w.send(w.signed(5, content(bad, b.entry())))
				if s := w.overlay().last(); !slices.Equal(nodesOf(s), []acl.NodeID{"b"}) {
					t.Errorf("peers in force %v, want b alone", nodesOf(s))
				}
				if p := w.node.view.Load().peers(time.Now()); !strings.Contains(p[0].Refused, test.want) {
					t.Errorf("refused %q, want %q", p[0].Refused, test.want)
				}
				w.send(w.signed(6, content(a.entry(), b.entry())))
				if s := w.overlay().last(); !slices.Equal(nodesOf(s), []acl.NodeID{"a", "b"}) {
					t.Errorf("with a good certificate: %v", nodesOf(s))
				}
			})
		})
	}
}

// TestSharedKeys_omitWhoShowsThemAlone is about a peer that is one by right and signs, in its own certificate, a key that is not its own. The
// tunnel refuses two peers of one key; were the map refused with them, that peer could keep what the map takes away from it.
func TestSharedKeys_omitWhoShowsThemAlone(t *testing.T) {
	for _, test := range []struct {
		outcome string
		spoil   func(w *world, evil, b *peer)
		want    []acl.NodeID
	}{
		{"another peer's tunnel key", func(_ *world, evil, b *peer) { evil.tunnel = b.tunnel }, []acl.NodeID{"c"}},
		{"another peer's probe key", func(_ *world, evil, b *peer) { evil.probe = b.probe }, []acl.NodeID{"c"}},
		{"another peer's tunnel key as probe key", func(_ *world, evil, b *peer) { evil.probe = key.ProbePublic(b.tunnel) }, []acl.NodeID{"c"}},
		{"this node's tunnel key", func(w *world, evil, _ *peer) { evil.tunnel = w.node.id.node.Tunnel.Public() }, []acl.NodeID{"b", "c"}},
		{"this node's probe key", func(w *world, evil, _ *peer) { evil.probe = w.node.id.node.Probe.Public() }, []acl.NodeID{"b", "c"}},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.join()
				evil, b, c := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3"), newPeer("c", "100.64.0.4")
				w.send(w.signed(5, content(evil.entry(), b.entry(), c.entry(), newPeer("d", "100.64.0.5").entry())))
				test.spoil(w, evil, b)
				w.send(w.signed(6, content(evil.entry(), b.entry(), c.entry()))) // d is removed
				s := w.overlay().last()
				if s.Generation != 6 || !slices.Equal(nodesOf(s), test.want) {
					t.Errorf("generation %d with peers %v, want 6 with %v", s.Generation, nodesOf(s), test.want)
				}
				if p := w.node.view.Load().peers(time.Now()); !strings.Contains(p[0].Refused, "another node, or this one, has too") {
					t.Errorf("the peer is refused with %q", p[0].Refused)
				}
			})
		})
	}
}
