package node

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"picket.internal/node/localapi"
)

func TestDialOverTheSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		_ = w.node.do(w.run, func() { w.node.id.node.Routing.Accept = true })
		router := newPeer("b", "100.64.0.3").entry()
		router.Routes = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}
		c := content(newPeer("a", "100.64.0.2").entry(), router)
		w.send(w.signed(5, c))
		for want, d := range map[string]localapi.Dial{
			"refused by the policy: ":      {Peer: "a", Port: 23},
			"no port":                      {Peer: "a"},
			"no peer has the address":      {Peer: "127.0.0.1", Port: 22},
			"no peer is called \"nobody\"": {Peer: "nobody", Port: 22},
			"that is this node itself":     {Peer: "me", Port: 22},
			"is no peer's own address":     {Peer: "10.9.0.7", Port: 22}, // but behind one
			"a port 22: connection":        {Peer: "a", Port: 22},        // the overlay's own answer
		} {
			if _, err := w.api().Dial(t.Context(), d); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", d, err, want)
			}
		}
	})
}
