package node

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/node/localapi"
	"picket.internal/wgtun/key"
)

// TestRotate changes the key on demand: it is announced first, waits for peers that do not know it, and is reported as the present one at the end.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		p := newPeer("p1", "100.64.0.2")
		w.send(w.signed(1, content(p.entry())))
		w.connect(0)
		former := w.node.id.node.Tunnel
		w.overlay().unready = []acl.NodeID{"p1"}
		if _, err := w.api().Rotate(t.Context(), localapi.Rotate{Timeout: 3 * time.Second}); err == nil || !strings.Contains(err.Error(), "p1 does not know") {
			t.Errorf("with a peer that does not know the next key: %v", err)
		}
		if len(w.overlay().rekeyed) != 0 {
			t.Fatal("taken up")
		}
		reports := w.session().reports
		announced := reports[len(reports)-1]
		next := w.node.id.node.Next.Tunnel
		w.overlay().mu.Lock()
		w.overlay().unready = nil
		w.overlay().mu.Unlock()
		r, err := w.api().Rotate(t.Context(), localapi.Rotate{Timeout: 5 * time.Second})
		if err != nil || !r.Done || r.Key != next.Public().Short() || r.Former != former.Public().Short() {
			t.Errorf("%+v %v", r, err)
		}
		if got := w.overlay().rekeyed; len(got) != 1 || !slices.Equal(bytesOf(got[0]), bytesOf(next)) {
			t.Error("the tunnel was given another key")
		}
		synctest.Wait()
		reports = w.session().reports
		last := reports[len(reports)-1]
		if len(announced.Next) == 0 || string(last.Certificate) != string(announced.Next) || len(last.Next) != 0 {
			t.Errorf("reported %+v, after %+v", last, announced)
		}
		w.noTrace(former)
	})
}

// TestRotateChangesTheKeyOnce: a change that another's round has brought about, a second command's or the agent's own, is the one that was asked for.
func TestRotateChangesTheKeyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(1, content(newPeer("p1", "100.64.0.2").entry())))
		w.connect(0)
		var both sync.WaitGroup
		var keys [2]string
		for i := range keys {
			both.Go(func() {
				time.Sleep(time.Duration(i) * pollRotation / 2)
				r, err := w.api().Rotate(t.Context(), localapi.Rotate{Timeout: 5 * time.Second})
				if err != nil || !r.Done {
					t.Errorf("%+v, %v", r, err)
				}
				keys[i] = r.Key
			})
		}
		both.Wait()
		if n := len(w.overlay().rekeyed); n != 1 || keys[0] != keys[1] {
			t.Errorf("%d changes, to %v", n, keys)
		}
	})
}

func bytesOf(k key.TunnelPrivate) []byte { b := k.Bytes(); return b[:] }

// noTrace fails when a private key is in a file of the state directory.
func (w *world) noTrace(k key.TunnelPrivate) {
	w.t.Helper()
	text, err := k.MarshalText()
	if err != nil {
		w.t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(w.node.id.dir.Path(), "*"))
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), string(text)) {
			w.t.Errorf("%s holds the former private key", f)
		}
	}
}

// TestRotateByTime changes the key each day, within a tenth.
func TestRotateByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		for i := range 6 {
			w.send(w.signed(uint64(1+i), content(newPeer("p1", "100.64.0.2").entry())))
			if i == 0 {
				w.connect(0)
			}
			time.Sleep(5 * time.Hour)
		}
		if n := len(w.overlay().rekeyed); n != 1 {
			t.Errorf("%d changes in 30 hours", n)
		}
	})
}

// TestNoRotationWithoutCoordinator: peers learn of a key from the coordinator, so there is none without.
func TestNoRotationWithoutCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(1, content(newPeer("p1", "100.64.0.2").entry())))
		w.connect(0)
		w.handler().OnDisconnected(errors.New("gone"))
		if _, err := w.api().Rotate(t.Context(), localapi.Rotate{Timeout: time.Second}); err == nil || w.node.id.node.Next != nil {
			t.Errorf("rotated without a coordinator: %v", err)
		}
	})
}

// TestKeysAfterACrash reads the state directory as each write of a change leaves it: the key is one that peers know, and its certificate fits.
func TestKeysAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		now := time.Now()
		id := w.node.id
		certify := func() { _, _, _ = id.certificates(now) }
		certify()
		k0 := id.node.Tunnel.Public()
		after := func(step string, want key.TunnelPublic, pending bool) {
			t.Helper()
			n, ok, err := id.dir.Node()
			if err != nil || !ok {
				t.Fatal(step, err)
			}
			c, err := key.OpenCertificate(n.Certificate, string(n.Node), n.Device.Public(), now)
			if err != nil || c.Tunnel != want || n.Tunnel.Public() != want || (n.Next != nil) != pending || n.Serial < c.Serial {
				t.Errorf("%s: key %s, certificate %+v, %v; next %v", step, n.Tunnel.Public().Short(), c, err, n.Next != nil)
			}
		}
		after("before", k0, false)
		if err := id.prepare(now); err != nil {
			t.Fatal(err)
		}
		k1 := id.node.Next.Tunnel.Public()
		after("prepared", k0, true)
		if _, _, err := id.certificates(now.Add(certificateLife / 2)); err != nil { // renewed meanwhile: the next one's serial stays above
			t.Fatal(err)
		}
		now = now.Add(certificateLife / 2)
		present, _ := key.OpenCertificate(id.node.Certificate, string(id.node.Node), id.node.Device.Public(), now)
		next, err := key.OpenCertificate(id.node.Next.Certificate, string(id.node.Node), id.node.Device.Public(), now)
		if err != nil || next.Serial <= present.Serial {
			t.Errorf("serials %d and %d, %v", present.Serial, next.Serial, err)
		}
		after("renewed", k0, true)
		if err := id.promote(now); err != nil {
			t.Fatal(err)
		}
		after("promoted", k1, false)
	})
}

// TestNextKeys_badOnesAreLeftOut: a next key that is not right changes nothing for its peer.
func TestNextKeys_badOnesAreLeftOut(t *testing.T) {
	now := time.Now()
	other := newPeer("b", "100.64.0.3")
	own := shownKeys{tunnel: key.NewTunnel().Public(), probe: key.NewProbe().Public(), next: key.NewTunnel().Public()}
	for _, test := range []struct {
		outcome string
		change  func(c *key.Certificate)
		device  bool // signed by another one
		taken   bool
	}{
		{outcome: "right", change: func(*key.Certificate) {}, taken: true},
		{outcome: "signed by another device", change: func(*key.Certificate) {}, device: true},
		{outcome: "of the present serial", change: func(c *key.Certificate) { c.Serial = 1 }},
		{outcome: "of another node", change: func(c *key.Certificate) { c.Node = "b" }},
		{outcome: "expired", change: func(c *key.Certificate) { c.NotAfter = now.Add(-time.Minute) }},
		{outcome: "with another probe key", change: func(c *key.Certificate) { c.Probe = key.NewProbe().Public() }},
		{outcome: "with another peer's tunnel key", change: func(c *key.Certificate) { c.Tunnel = other.tunnel }},
		{outcome: "with our key", change: func(c *key.Certificate) { c.Tunnel = own.tunnel }},
		{outcome: "with our next key", change: func(c *key.Certificate) { c.Tunnel = own.next }},
	} {
		p := newPeer("a", "100.64.0.2")
		c := key.Certificate{Node: "a", Serial: 2, Tunnel: key.NewTunnel().Public(), Probe: p.probe, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
		test.change(&c)
		signer := p.device
		if test.device {
			signer = key.NewDevice()
		}
		e := p.entry()
		e.Next = c.Sign(signer)
		j := judge(content(e, other.entry()), acquaintance{}, own, now, 0)
		if len(j.peers) != 2 || (j.peers[0].Next != nil) != test.taken {
			t.Errorf("%s: %+v, refused %v", test.outcome, j.peers, j.refused)
		}
	}
}
