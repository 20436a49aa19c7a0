package node

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// named is content with a domain, and a record.
func named(peers ...protocol.Peer) protocol.Content {
	c := content(peers...)
	c.Network.Domain = "corp.internal"
	c.DNS.Records = []protocol.Record{{Name: "pg.example.net", CNAME: "a.corp.internal"}}
	return c
}

// wantName checks what a name stands for; "" for nothing.
func (w *world) wantName(when, name, want string) {
	w.t.Helper()
	r, err := w.api().QueryDNS(w.t.Context(), localapi.QueryDNS{Name: name, Type: "a"})
	got := ""
	if err == nil && len(r.Records) > 0 {
		last := r.Records[len(r.Records)-1]
		got = last[len(last)-len("100.64.0.2"):]
	}
	if got != want {
		w.t.Errorf("%s: %s is %q (%v, %v), want %q", when, name, got, r, err, want)
	}
}

// TestNamesFollowTheMap: names stand for the peers that packets may pass to, at once, and for nobody while none may.
func TestNamesFollowTheMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.wantName("before there is a map", "a", "")
		a, b := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3")
		w.send(w.signed(5, named(a.entry(), b.entry())))
		w.wantName("with a map", "a.corp.internal", "100.64.0.2")
		w.wantName("with a map", "b", "100.64.0.3")
		w.wantName("with a map", "pg.example.net", "100.64.0.2")
		w.wantName("with a map", "c.corp.internal", "")
		w.send(w.signed(6, named(newPeer("a", "100.64.0.2").entry(), b.entry())))
		w.wantName("with another device key", "a.corp.internal", "")
		w.wantName("with another device key", "b.corp.internal", "100.64.0.3")
		w.send(w.signed(7, named(b.entry())))
		w.wantName("without a grant", "a.corp.internal", "")
		w.handler().OnDisconnected(errors.New("cannot reach the coordinator"))
		w.wantName("without the coordinator", "b.corp.internal", "100.64.0.3")
		if _, err := (overlayNetwork{w.node}).Resolve("b.Corp.Internal."); err != nil {
			t.Errorf("the proxies do not know the whole name: %v", err)
		}
		time.Sleep(12*time.Hour + time.Minute)
		w.wantState(localapi.StateLapsed)
		w.wantName("after the lease", "b.corp.internal", "")
	})
}

func TestNamesOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, named(newPeer("a", "100.64.0.2").entry())))
		say := func(on bool) { w.up(localapi.Up{DNS: &on}); synctest.Wait() }
		say(false)
		w.wantName("off", "a", "")
		if d := w.status().DNS; d.On || !d.Off {
			t.Errorf("%+v", d)
		}
		if a, err := (overlayNetwork{w.node}).Resolve("a.corp.internal"); err != nil || a != netip.MustParseAddr("100.64.0.2") {
			t.Errorf("the proxies do not know peers any more: %v %v", a, err)
		}
		w.stop()
		w.start()
		w.wantName("off, after a restart", "a", "")
		say(true)
		w.wantName("on", "a", "100.64.0.2")
		if err := w.api().Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wantName("down", "a", "")
	})
}

// TestResolversInTheOverlay are reached through the tunnel or not at all.
func TestResolversInTheOverlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, named(newPeer("a", "100.64.0.2").entry())))
		for _, to := range []string{"100.64.0.2:53", "[::ffff:100.64.0.2]:53"} {
			for _, network := range []string{"udp", "tcp"} {
				if _, err := w.node.dialResolver(t.Context(), network, netip.MustParseAddrPort(to)); err == nil || err.Error() != "connection refused" {
					t.Errorf("%s %s: %v, want the overlay's answer", network, to, err)
				}
			}
		}
		if err := w.api().Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.node.dialResolver(t.Context(), "udp", netip.MustParseAddrPort("100.64.0.2:53")); err != errNoOverlay {
			t.Errorf("without a tunnel: %v", err)
		}
	})
}
