package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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

// certified is the peer's entry with a certificate of that serial for tunnel.
func (p *peer) certified(serial uint64, tunnel key.TunnelPublic) protocol.Peer {
	e := p.entry()
	e.Certificate = p.certificate(serial, tunnel)
	return e
}

func (p *peer) certificate(serial uint64, tunnel key.TunnelPublic) []byte {
	return key.Certificate{Node: string(p.id), Serial: serial, Tunnel: tunnel, Probe: p.probe,
		NotBefore: time.Now().Add(-time.Hour).Truncate(time.Second), NotAfter: time.Now().Add(40 * time.Hour).Truncate(time.Second)}.Sign(p.device)
}

// wantTunnel checks under which key a peer is in force; the zero key for a peer that is not.
func (w *world) wantTunnel(node acl.NodeID, want key.TunnelPublic) {
	w.t.Helper()
	var got key.TunnelPublic
	for _, p := range w.overlay().last().Peers {
		if p.Node == node {
			got = p.Tunnel
		}
	}
	if got != want {
		w.t.Errorf("%s is in force under %s, want %s", node, got.Short(), want.Short())
	}
}

// TestFormerCertificateIsRefused has the coordinator's key sign maps that bring a former tunnel key back, after a restart, or a time out of the map.
func TestFormerCertificateIsRefused(t *testing.T) {
	for _, test := range []struct {
		outcome string
		between func(w *world, other protocol.Peer)
	}{
		{"at once", func(*world, protocol.Peer) {}},
		{"after a restart", func(w *world, _ protocol.Peer) { w.restart() }},
		{"out of the map meanwhile", func(w *world, other protocol.Peer) { w.send(w.signed(2, content(other))) }},
		{"out of the map, and restarted", func(w *world, other protocol.Peer) {
			w.send(w.signed(2, content(other)))
			w.restart()
		}},
		{"out of the map, and killed a little later", func(w *world, other protocol.Peer) {
			w.send(w.signed(2, content(other)))
			time.Sleep(2 * retryEvery)
			file := filepath.Join(w.dir, "serials.json")
			text, err := os.ReadFile(file)
			w.stop()
			if err := errors.Join(err, os.WriteFile(file, text, 0o600)); err != nil { // in place of what was written at the end
				w.t.Fatal(err)
			}
			w.start()
			w.connect(0)
		}},
		{"the file damaged, the version before it whole", func(w *world, other protocol.Peer) {
			w.send(w.signed(2, content(newPeer("c", "100.64.0.4").entry(), other))) // a second version
			w.stop()
			if err := os.Truncate(filepath.Join(w.dir, "serials.json"), 20); err != nil {
				w.t.Fatal(err)
			}
			w.start()
			w.connect(0)
		}},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.join()
				a, b := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3")
				stolen := key.NewTunnel().Public()
				w.send(w.signed(1, content(a.certified(7, a.tunnel), b.entry())))
				w.wantTunnel("a", a.tunnel)
				time.Sleep(2 * retryEvery)
				test.between(w, b.entry())
				w.send(w.signed(3, content(a.certified(6, stolen), b.entry())))
				w.wantTunnel("a", key.TunnelPublic{})
				w.wantTunnel("b", b.tunnel)
				if subject, _ := w.overlay().last().Rules.SubjectOf(addrs("100.64.0.2")[0]); subject != nil {
					t.Error("the refused peer is still a subject of the rules")
				}
				p := w.node.view.Load().peers(time.Now())
				if !strings.Contains(p[0].Refused, "(serial 6) is older than one it has shown before (serial 7)") || len(p[0].Out) != 0 || p[1].Refused != "" {
					t.Errorf("peers: %+v", p)
				}
				if s := w.status(); s.State != localapi.StateRunning || !strings.Contains(strings.Join(s.Warnings, " "), "the peer a is refused: its key certificate") {
					t.Errorf("state %s, warnings %v", s.State, s.Warnings)
				}
				w.send(w.signed(4, content(a.certified(7, a.tunnel), b.entry()))) // the newest one itself goes on
				w.wantTunnel("a", a.tunnel)
				next := key.NewTunnel().Public()
				w.send(w.signed(5, content(a.certified(8, next), b.entry())))
				w.wantTunnel("a", next)
			})
		})
	}
}

func (w *world) restart() {
	w.stop()
	w.start()
	w.connect(0)
}

// TestFormerCertificateAfterTheNextKey: a key that the tunnel has seen taken up counts, though no map names it as the present one yet.
func TestFormerCertificateAfterTheNextKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a := newPeer("a", "100.64.0.2")
		next := key.NewTunnel().Public()
		announced := a.certified(5, a.tunnel)
		announced.Next = a.certificate(6, next)
		w.send(w.signed(1, content(announced)))
		w.restart()
		w.wantTunnel("a", a.tunnel) // it has not been taken up
		w.overlay().config.onHeir(t.Context(), "a", key.NewTunnel().Public())
		w.send(w.signed(2, content(announced)))
		w.wantTunnel("a", a.tunnel)
		w.overlay().config.onHeir(t.Context(), "a", next)
		w.send(w.signed(3, content(announced))) // older than the change, in good faith
		w.wantTunnel("a", next)
		w.restart()
		w.wantTunnel("a", next)
		w.send(w.signed(4, content(a.certified(5, a.tunnel))))
		w.wantTunnel("a", key.TunnelPublic{})
		w.send(w.signed(5, content(a.certified(6, next))))
		w.wantTunnel("a", next)
		third := key.NewTunnel().Public()
		w.send(w.signed(6, content(a.certified(7, third))))
		w.wantTunnel("a", third)
		w.send(w.signed(7, content(announced))) // older by two changes: its next key is a former one, too
		w.wantTunnel("a", key.TunnelPublic{})
	})
}

// TestReenrolledPeerBeginsAnew: serials are those of a device, and what another one shows raises nothing.
func TestReenrolledPeerBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a, anew := newPeer("a", "100.64.0.2"), newPeer("a", "100.64.0.2")
		w.send(w.signed(1, content(a.certified(7, a.tunnel))))
		w.send(w.signed(2, content(anew.certified(99, anew.tunnel)))) // refused for its device key
		w.send(w.signed(3, content(a.certified(7, a.tunnel))))
		w.wantTunnel("a", a.tunnel)
		w.send(w.signed(4, content(anew.certified(1, anew.tunnel))))
		w.wantTunnel("a", key.TunnelPublic{})
		if err := w.api().Trust(t.Context(), localapi.Trust{Peer: "a"}); err != nil {
			t.Fatal(err)
		}
		w.wantTunnel("a", anew.tunnel)
		w.restart()
		w.wantTunnel("a", anew.tunnel)
	})
}

// TestDamagedSerialsKeepNobodyFromRunning: the agent says so, runs by the map on disk, and writes the file anew.
func TestDamagedSerialsKeepNobodyFromRunning(t *testing.T) {
	for _, test := range []struct {
		outcome string
		spoil   func(file string) error
	}{
		{"truncated", func(f string) error { return os.Truncate(f, 20) }},
		{"zeros", func(f string) error { return os.WriteFile(f, make([]byte, 300), 0o600) }},
		{"newer form", func(f string) error {
			return os.WriteFile(f, []byte(`{"format":"picket serials","version":2,"sha256":"","body":{}}`), 0o600)
		}},
		{"open to others", func(f string) error { return os.Chmod(f, 0o644) }},
		{"a link", func(f string) error { return os.Rename(f, f+".real") }},
		{"lost", os.Remove},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.join()
				a := newPeer("a", "100.64.0.2")
				w.send(w.signed(1, content(a.certified(7, a.tunnel))))
				w.stop()
				file := filepath.Join(w.dir, "serials.json")
				if err := test.spoil(file); err != nil {
					t.Fatal(err)
				}
				if test.outcome == "a link" {
					if err := os.Symlink(file+".real", file); err != nil {
						t.Fatal(err)
					}
				}
				os.Remove(file + ".prev")
				dir, err := statefile.Open(w.dir)
				if err != nil {
					t.Fatal(err)
				}
				var log bytes.Buffer
				n := loadNewest(dir, slog.New(slog.NewTextHandler(&log, nil)))
				if dir.Close(); len(n.seen) != 0 || strings.Contains(log.String(), "cannot be read from disk") != (test.outcome != "lost") {
					t.Errorf("%d read, with the log %q", len(n.seen), &log)
				}
				w.start()
				w.wantState(localapi.StateRunning)
				w.wantTunnel("a", a.tunnel)
				w.stop()
				w.start()
				w.connect(0)
				w.send(w.signed(2, content())) // what the map on disk said is known again
				w.send(w.signed(3, content(a.certified(6, key.NewTunnel().Public()))))
				w.wantTunnel("a", key.TunnelPublic{})
			})
		})
	}
}

// TestNewestIsBounded: what the map names stays; of the others those go whose certificates have ended, and above the bound those that end first.
func TestNewestIsBounded(t *testing.T) {
	now := time.Now()
	public := key.NewDevice().Public()
	device := statefile.FingerprintOf(public)
	n := newest{seen: make(map[bearer]seen)}
	var peers []protocol.Peer
	for i := range 2*maxFormer + 10 {
		id := acl.NodeID(fmt.Sprint("n", i))
		n.take(map[bearer]seen{{id, device}: {1, now.Unix() + int64(i-9)}})
		if i < 5 {
			peers = append(peers, protocol.Peer{Subject: acl.Subject{Node: id}, Device: public})
		}
	}
	n.prune(peers, now)
	var left []int
	for b := range n.seen {
		var i int
		fmt.Sscanf(string(b.node), "n%d", &i)
		left = append(left, i)
	}
	slices.Sort(left)
	if len(left) != 5+maxFormer || !slices.Equal(left[:5], []int{0, 1, 2, 3, 4}) || left[5] != maxFormer+10 {
		t.Errorf("%d are left, %v", len(left), left[:8])
	}
	n.seen = map[bearer]seen{{"a", device}: {3, now.Unix()}, {"b", device}: {3, now.Unix() + 1}}
	n.prune(nil, now)
	if _, ok := n.seen[bearer{"b", device}]; !ok || len(n.seen) != 1 {
		t.Errorf("left: %v", n.seen)
	}
	n.take(map[bearer]seen{{"b", device}: {2, now.Unix() + 3600}})
	if n.seen[bearer{"b", device}].serial != 3 {
		t.Error("lowered")
	}
}
