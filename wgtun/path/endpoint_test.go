package path

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
)

type connEndpoint = conn.Endpoint

// endpointsOnly is an inner bind that can name addresses and nothing else.
type endpointsOnly struct{ conn.Bind }

func (endpointsOnly) ParseEndpoint(s string) (conn.Endpoint, error) {
	return conn.NewStdNetBind().ParseEndpoint(s)
}

func TestEndpointTextIsThePeerOnly(t *testing.T) {
	b := New(Config{Inner: endpointsOnly{}, Probe: key.NewProbe()})
	for _, s := range []string{"", "192.0.2.1:51820", "tunnel:", "probe:" + key.TunnelPublic{1}.String()[7:], key.TunnelPublic{1}.String() + "0"} {
		if ep, err := b.ParseEndpoint(s); err == nil {
			t.Errorf("%q read as %v", s, ep)
		}
	}
	ep, err := b.ParseEndpoint(EndpointText(key.TunnelPublic{7}))
	if err != nil || ep.(*Endpoint).Peer() != (key.TunnelPublic{7}) {
		t.Errorf("%v, %v", ep, err)
	}
	if ep.DstToString() != "0.0.0.0:0" || len(ep.DstToBytes()) != 6 || !ep.DstIP().IsValid() {
		t.Errorf("endpoint of a peer without path: %q, %x", ep.DstToString(), ep.DstToBytes())
	}
	if err := b.Send(nil, &conn.StdNetEndpoint{}); err != conn.ErrWrongEndpointType {
		t.Errorf("sent to an address: %v", err)
	}
}

func TestEndpointShowsTrueSourceAndProvedPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nettest.New(1)
		a, b := start(t, n.Host(addrA)), start(t, n.Host(addrB))
		meet(a, b, at2(addrB))
		a.send(b, "x")
		time.Sleep(time.Second)
		if got := b.take(); len(got) != 1 || got[0].From != at(addrA).String() || got[0].Peer != a.tunnel {
			t.Errorf("b got %+v", got)
		}
		ep, _ := a.ParseEndpoint(EndpointText(b.tunnel))
		received := &Endpoint{bind: a.Bind, tunnel: b.tunnel, from: at(addrX)}
		if ep.DstToString() != at(addrB).String() || received.DstToString() != at(addrB).String() {
			t.Errorf("shown as %v and %v", ep.DstToString(), received.DstToString())
		}
		want, _ := at(addrX).MarshalBinary()
		if received.DstIP() != addrX || string(received.DstToBytes()) != string(want) {
			t.Errorf("limited by %v, %x, not by the outer source", received.DstIP(), received.DstToBytes())
		}
	})
}
